"""The load: webhook requests at a steady pace, as Aircall sends them; and what came of each."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

ANSWER_SECONDS = 5.0  # as Aircall waits
FILLER = "x" * 400


@dataclass
class Load:
    """Sends until it is told to stop. Every other request opens a connection of its own, the rest keep theirs."""

    url: str
    token: str
    per_second: int
    acknowledged: set[int] = field(default_factory=set)
    sent: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    _stopped: bool = False

    async def run(self) -> None:
        """Send until `stop()`, and wait for the last answers."""
        once = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        kept = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60))
        began, first, tasks = time.monotonic(), self.sent, set[asyncio.Task[None]]()
        self._stopped = False
        async with once, kept:
            while not self._stopped:
                await asyncio.sleep(max(began + (self.sent - first) / self.per_second - time.monotonic(), 0))
                task = asyncio.create_task(self._post(kept if self.sent % 2 else once, self.sent))
                self.sent += 1
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    def stop(self) -> None:
        self._stopped = True

    async def send_one(self) -> None:
        async with aiohttp.ClientSession() as session:
            self.sent += 1
            await self._post(session, self.sent - 1)

    async def _post(self, session: aiohttp.ClientSession, number: int) -> None:
        event = {"resource": "call", "event": "call.created", "timestamp": int(time.time()), "token": self.token}
        body = json.dumps({**event, "data": {"id": number, "drill": number, "text": FILLER}})
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                headers = {"content-type": "application/json"}
                async with session.post(self.url, data=body, headers=headers) as answer:
                    await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failed[type(error).__name__] += 1
            return
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        if answer.status == 200:
            self.acknowledged.add(number)
        else:
            self.failed[str(answer.status)] += 1
