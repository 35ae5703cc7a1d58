"""The load: events at a steady pace, sent again until they are acknowledged; and a reader that follows the log."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.crash.records import Attempt, Records, Sent

ANSWER_SECONDS = 5.0  # as Aircall waits
AGAIN_SECONDS = 2.0
# What is refused and sent again must not be what keeps the intake busy.
MOST_ON_THEIR_WAY = 120
TYPES = ("call.created", "call.answered", "call.hungup", "message.received", "contact.created")
WEIGHTS = (30, 30, 30, 6, 4)
FILLER = "x" * 400
ONE_IN_REPEATED = 40
# Of all companies together: some seven events of each company are about the same call.
EVENTS_PER_ID = 250
FOLLOW_SECONDS = 3


class Tokens:
    """The tokens of our webhooks at Aircall, by company: what Aircall signs its events with."""

    def __init__(self, state_file: Path, webhook_url: str) -> None:
        self._state_file = state_file
        self._webhook_url = webhook_url
        self._known: dict[int, str] = {}

    def of(self, company_id: int) -> str | None:
        return self._known.get(company_id)

    def read(self) -> None:
        saved = json.loads(self._state_file.read_bytes())
        self._known = {
            webhook["company_id"]: webhook["token"]
            for webhook in saved["webhooks"]
            if webhook["url"] == self._webhook_url
        }

    async def keep_reading(self) -> None:
        while True:
            self.read()
            await asyncio.sleep(1)


class Senders:
    """Aircall, as far as it tells events: each to whichever web is ready, again until it is acknowledged."""

    def __init__(
        self,
        url: str,
        token_of: Callable[[int], str | None],
        companies: Sequence[int],
        records: Records,
        now: Callable[[], float],
        seed: str,
        *,
        per_id: int = EVENTS_PER_ID,
    ) -> None:
        self.on_their_way: set[asyncio.Task[None]] = set()
        self._door = f"{url}/aircall/webhook"
        self._token_of = token_of
        self._companies = companies
        self._records = records
        self._now = now
        self._per_id = per_id
        self._chance = random.Random(f"{seed} load")
        self._until = 0.0

    def end(self) -> None:
        """Send no more events; those on their way may still arrive."""
        self._until = self._now()

    async def send(self, per_second: float, until: float) -> None:
        """An event every so often. While very many wait to be acknowledged, no more are added."""
        began, count = self._now(), 0
        self._until = until
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            while self._now() < self._until:
                await asyncio.sleep(max(began + count / per_second - self._now(), 0))
                count += 1
                if len(self.on_their_way) < MOST_ON_THEIR_WAY:
                    task = asyncio.create_task(self._tell(session, len(self._records.sent) + 1))
                    self._records.sent[len(self._records.sent) + 1] = Sent(len(self._records.sent) + 1)
                    self.on_their_way.add(task)
                    task.add_done_callback(self.on_their_way.discard)
            await self._last_ones()

    async def _last_ones(self) -> None:
        """What is on its way may still arrive; it need not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.gather(*self.on_their_way)
        for task in self.on_their_way.copy():
            task.cancel()
        await asyncio.gather(*self.on_their_way, return_exceptions=True)

    async def _tell(self, session: aiohttp.ClientSession, number: int) -> None:
        company = self._chance.choice(self._companies)
        (type_,) = self._chance.choices(TYPES, WEIGHTS)
        event = {
            "resource": type_.partition(".")[0],
            "event": type_,
            "timestamp": int(time.time()),
            "data": {"id": number // self._per_id, "campaign": number, "text": FILLER},
        }
        repeats = 1 + (self._chance.randrange(ONE_IN_REPEATED) == 0)
        acknowledged = 0
        while acknowledged < repeats:
            if await self._try(session, number, company, event):
                acknowledged += 1
            else:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _try(self, session: aiohttp.ClientSession, number: int, company: int, event: dict[str, Any]) -> bool:
        """One attempt; whether it was acknowledged."""
        began, status = self._now(), None
        body = json.dumps({**event, "token": self._token_of(company) or "none yet"})
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                headers = {"content-type": "application/json"}
                async with session.post(self._door, data=body, headers=headers) as answer:
                    await answer.read()
                    status = answer.status
        self._records.sent[number].attempts.append(Attempt(began, self._now(), status))
        return status == 200


class Follower:
    """A partner's system that reads the log page by page, each after the `next` of the one before."""

    def __init__(
        self, url: str, key: dict[str, str], records: Records, now: Callable[[], float], *, resumes: bool = False
    ) -> None:
        """One that `resumes` expects that the log may lose its end, and goes on from where it is told to."""
        self.after = records.followed_from
        self.read_at: dict[str, float] = {}  # when an event was read, by its id
        self._now = now
        self._epoch: dict[str, str] = {}
        self._resumes = resumes
        self._door = f"{url}/v1/events"
        self._key = key
        self._records = records

    async def follow(self) -> None:
        """Read until cancelled; what fails is asked again."""
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, headers=self._key) as session:
            while True:
                try:
                    async with asyncio.timeout(FOLLOW_SECONDS + 5):
                        await self._read(session)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    await asyncio.sleep(0.3)

    async def _read(self, session: aiohttp.ClientSession) -> None:
        query = {"after": str(self.after), "limit": "500", "wait": str(FOLLOW_SECONDS)} | self._epoch
        async with session.get(self._door, params=query) as answer:
            if answer.status == 409 and self._resumes:
                self.after, self._epoch = (await answer.json())["resume_from"], {}
                return
            if answer.status in {409, 410}:
                self._records.failures.append(f"the follower was answered {answer.status} after {self.after}")
            if answer.status != 200:
                await asyncio.sleep(0.3)
                return
            page = await answer.json()
        at = self._now()
        self._records.followed += [(event["position"], event["id"]) for event in page["events"]]
        self.read_at |= {event["id"]: at for event in page["events"]}
        self.after, self._epoch = page["next"], {"epoch": page["epoch"]}
