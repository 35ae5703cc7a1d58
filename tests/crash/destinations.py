"""Where the subscriptions deliver to: some answer well, some fail at times, one hangs, one is down and comes back."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiohttp import web

from tests.crash.records import Reading, Stored, Taken
from tests.support.receivers import Received, Receiver, receiver, subscription_body

STEADY = "steady"
ANSWER_AGAIN_AFTER_HANGING_SECONDS = 20.0


@dataclass
class Destination:
    """A receiver behind a subscription; `answer` judges each event before it is noted as taken."""

    reading: Reading
    body: dict[str, Any]
    now: Callable[[], float]
    fails: Callable[[str], bool] = lambda _: False
    hangs: bool = False
    arrived: dict[int, float] = field(default_factory=dict)  # when an event first came, by its number
    _receiver: Receiver | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    @property
    def is_open(self) -> bool:
        return self._receiver is not None

    async def open(self) -> None:
        self._receiver = await self._stack.enter_async_context(receiver(port=self._port))
        self._receiver.answer = self._answer
        self._port = self._receiver.port

    async def close(self) -> None:
        """Stop listening; `open` takes the same port again."""
        await self._stack.aclose()
        self._receiver = None

    def heal(self) -> None:
        self.hangs, self.fails = False, lambda _: False

    async def _answer(self, received: Received) -> web.StreamResponse:
        event, at = received.event, self.now()
        number = event["data"].get("campaign") if isinstance(event["data"], dict) else None
        if self.hangs:
            await asyncio.sleep(ANSWER_AGAIN_AFTER_HANGING_SECONDS)
            return web.Response(status=503)
        if self.fails(received.event_id):
            return web.Response(status=500)
        if number is not None:
            self.arrived.setdefault(number, at)
        about = event["subject"] or event["resource"]
        self.reading.taken.append(Taken(at, event["position"], event["id"], event["installation_id"], number, about))
        if self._receiver is not None:
            # The receiver keeps bodies for tests that look at them; here they would be all of the log.
            self._receiver.received.clear()
            self._receiver.taken.clear()
        return web.Response()


def once_in(many: int, chance: random.Random) -> Callable[[str], bool]:
    """Some events fail at their first attempt, and at no later one."""
    seen: set[str] = set()

    def fails(event_id: str) -> bool:
        if event_id in seen:
            return False
        seen.add(event_id)
        return chance.randrange(many) == 0

    return fails


def some(seed: str, now: Callable[[], float]) -> list[Destination]:
    """The well-behaved tenant's, and those of tenants that have their troubles."""
    ordered: dict[str, Any] = {"order": "installation"}
    return [
        Destination(Reading(STEADY, order="subject"), {}, now),
        Destination(Reading("ordered", order="installation"), ordered, now),
        Destination(
            Reading("ordered, one in 100 fails once", order="installation"),
            ordered,
            now,
            fails=once_in(100, random.Random(f"{seed} ordered")),
        ),
        Destination(
            Reading("by subject, one in 50 fails once", order="subject"),
            {"order": "subject"},
            now,
            fails=once_in(50, random.Random(f"{seed} subjects")),
        ),
        Destination(
            Reading("calls, one in 30 fails once", order="subject", wants=lambda row: row.type.startswith("call.")),
            {"types": ["call.*"]},
            now,
            fails=once_in(30, random.Random(f"{seed} calls")),
        ),
        Destination(
            Reading("hangs", order="subject", wants=lambda row: row.type == "contact.created"),
            {"types": ["contact.created"]},
            now,
            hangs=True,
        ),
        Destination(Reading("down and back, ordered", order="installation"), ordered, now),
        Destination(Reading("acme's", order="subject", wants=_is_acmes), {"owners": ["acme"]}, now),
    ]


def _is_acmes(row: Stored) -> bool:
    return row.owner == "acme"


@asynccontextmanager
async def subscribed(destinations: list[Destination], client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Each listens, and has its subscription to everything from now on."""
    for destination in destinations:
        await destination.open()
        body = subscription_body(destination.url, name=destination.reading.name) | destination.body
        answer = await client.post("/v1/subscriptions", json=body)
        assert answer.status_code == 201, answer.text
        destination.reading.start = answer.json()["position"]
    try:
        yield
    finally:
        for destination in destinations:
            await destination.close()
