"""First deliveries are in the order that was asked for, whatever the destination answers and any worker reads."""

import asyncio
import itertools
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from aircall_oauth.deliveries.destinations.outcomes import Delivered, Destination, Message, Outcome, TryAgain
from aircall_oauth.deliveries.reader import breaker, leases, progress, reader, retries, sender
from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.deliveries.reader.memory import Memory
from aircall_oauth.deliveries.reader.reader import Reader
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.deliveries.reader.tail import Tail
from aircall_oauth.storage.models.deliveries import Subscription
from aircall_oauth.telemetry.metrics import Metrics
from tests.support.receivers import LOOPBACK, Received, Receiver, answer_with, fill, receiver, subscribe
from tests.support.service import Service, run_service, settings_for, until

EVENTS, STORIES = 80, int(os.environ.get("ORDER_STORIES", "12"))
FAILURES = ("http_500", "http_503", "http_422", "http_429", "timeout", "refused", "not_http", "reset")
LAPSE = "UPDATE subscription SET lease_until = now()"
STANDING = """
    SELECT position >= (SELECT max(position) FROM event) AND NOT EXISTS (
        SELECT 1 FROM parked WHERE dead_at IS NULL
    ) AS done FROM subscription
"""


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all pauses from seconds and days to milliseconds."""
    monkeypatch.setattr(reader, "LOOK_FOR_DUE_SECONDS", 0.01)
    monkeypatch.setattr(sender, "DUE_AGAIN_SECONDS", 0.005)
    monkeypatch.setattr(progress, "KEEP_SECONDS", 0.01)
    monkeypatch.setattr(sender, "SLOW_SECONDS", 0.04)
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(breaker, "SUSPECTED_SECONDS", 0.03)
    monkeypatch.setattr(retries, "SCHEDULE", (timedelta(milliseconds=30),) * 8)


def key_of(event: dict[str, Any], order: str) -> str:
    """What an event is ordered by."""
    subject = f" {event['subject'] or event['resource']}" if order == "subject" else ""
    return f"{event['installation_id']}{subject}"


def first_deliveries(taken: list[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the delivered positions of each key, in the order of their first delivery."""
    first: dict[str, list[int]] = defaultdict(list)
    for key, position in dict.fromkeys(taken):
        first[key].append(position)
    return first


def assert_in_order(taken: list[tuple[str, int]]) -> None:
    for positions in first_deliveries(taken).values():
        assert [pair for pair in itertools.pairwise(positions) if pair[0] > pair[1]] == []


def taken_by(to: Receiver, order: str = "installation") -> list[tuple[str, int]]:
    return [(key_of(event, order), event["position"]) for event in to.taken]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(3))
async def test_a_few_that_fail_once_break_no_order(service: Service, seed: int) -> None:
    await service.installed()
    chance, tried = random.Random(seed), Counter[int]()

    def sometimes(received: Received) -> web.Response:
        number = received.event["data"]["n"]
        tried[number] += 1
        unwell = tried[number] == 1 and chance.random() < 0.02
        return web.Response(status=500 if unwell else 200)

    async with receiver() as to, reading(service.resources):
        to.answer = sometimes
        partner = await subscribe(service, to.url, order="installation")
        for first in range(0, 1000, 50):
            await fill(service, 50, first=first, installations=5)
            await until(lambda: len(tried) > first + 25)  # noqa: B023
        await partner.stands(lag=0, parked=0, seconds=60)

    assert set(to.numbers) == set(range(1000))
    assert_in_order(taken_by(to))


@pytest.mark.usefixtures("quick")
async def test_a_probe_passes_no_parked_event(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "SCHEDULE", (timedelta(hours=1),))
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers = {0: answer_with(422), 1: answer_with(503)}
        partner = await subscribe(service, to.url, order="installation")
        await fill(service, 1)
        await partner.stands(parked=1, lag=0)
        await fill(service, 1, first=1, installations=2)
        await partner.stands(health="down")
        await fill(service, 1, first=2, installations=2)
        await partner.stands(parked=2)
        to.answers.clear()
        await service.sql("UPDATE parked SET due_at = now() WHERE due_at IS NOT NULL")
        await partner.stands(parked=0, lag=0)

    assert sorted(to.numbers) == [0, 1, 2]
    assert_in_order(taken_by(to))


class Moody:
    """A destination with answers drawn by seed: success, failure, slow, down for a while."""

    def __init__(self, seed: int, order: str, unwell: float) -> None:
        self._order = order
        self.taken: list[tuple[str, int]] = []
        self._chance = random.Random(seed)
        self._unwell = unwell
        self._down_for = 0

    async def deliver(self, message: Message) -> Outcome:
        chance = self._chance
        reason = self._reason()
        await asyncio.sleep(chance.choice((0, 0, 0, 0, 0.001, 0.005)) if chance.random() < 0.98 else 0.1)
        if reason is not None:
            return TryAgain(reason, 0.005 if reason == "http_429" else None)
        event = json.loads(message.body)
        self.taken.append((key_of(event, self._order), event["position"]))
        await asyncio.sleep(0)
        return Delivered()

    async def close(self) -> None: ...

    def _reason(self) -> str | None:
        if self._down_for > 0:
            self._down_for -= 1
            return "refused"
        if self._chance.random() < self._unwell / 20:
            self._down_for = self._chance.randrange(5, 40)
        return self._chance.choice(FAILURES) if self._chance.random() < self._unwell else None


class Worker:
    """One reader after another for one subscription: each is told to end, dies, or sleeps through its lease."""

    def __init__(self, service: Service, to: Destination, seed: int) -> None:
        self._service, self._to = service, to
        self._connections = Connections(service.resources.database, service.resources.data_keys)
        self._chance = random.Random(seed)
        self._reader: Reader | None = None
        self._task: asyncio.Task[None] | None = None
        self._asleep: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        claimed: list[Subscription] = []
        async with asyncio.timeout(10), self._connections.one() as connection:
            while not claimed:  # what the reader before still writes locks the lease
                claimed = await leases.claim(connection, "wrk_1")
        (subscription,) = claimed
        self._reader = self._new_reader(subscription)
        self._task = asyncio.create_task(self._reader.run())

    def _new_reader(self, subscription: Subscription) -> Reader:
        return Reader(
            self._service.settings,
            self._connections,
            subscription,
            self._to,
            tail=Tail(),
            memory=Memory(),
            lease_seconds=60.0,
            metrics=Metrics(),
        )

    def tell(self) -> None:
        """Tell the reader that the log grew."""
        assert self._reader is not None
        self._reader.log_grew()

    async def hand_over(self) -> None:
        assert self._reader is not None
        assert self._task is not None
        match self._chance.choice(("told", "dies", "sleeps")):
            case "told":
                self._reader.finish()
                await self._task
            case "dies":
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
            case "sleeps":
                self._reader.lease_renewed(-1e9)
                self._asleep.append(self._task)
        await self._service.sql(LAPSE)
        await self.begin()

    async def end(self) -> None:
        assert self._task is not None
        tasks = [self._task, *self._asleep]
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()
        assert [each for each in ended if isinstance(each, Exception)] == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(STORIES))
@pytest.mark.parametrize("order", ["installation", "subject"])
async def test_first_deliveries_ascend_whatever_is_answered_and_whoever_reads(
    service: Service, order: str, seed: int
) -> None:
    await service.installed()
    await deliver_all(service, random.Random(seed), order, seed)


class Hanging:
    """A destination that is away, and that answers nothing once it is found down."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.hangs = False

    async def deliver(self, message: Message) -> Outcome:
        self.begun.append(json.loads(message.body)["position"])
        if self.hangs:
            await asyncio.Event().wait()
        return TryAgain("refused", None)

    async def close(self) -> None: ...


@pytest.mark.usefixtures("quick")
async def test_nothing_goes_out_in_place_of_what_is_cancelled_as_its_reader_ends(service: Service) -> None:
    await service.installed()
    to = Hanging()
    partner = await subscribe(service, "http://127.0.0.1:9/", order="installation")
    worker = Worker(service, to, 0)
    await fill(service, 5)
    await worker.begin()
    await partner.stands(health="down")
    to.hangs, asked = True, len(to.begun)
    await until(lambda: len(to.begun) > asked)

    await worker.end()

    assert len(to.begun) == asked + 1, "the probe that was cancelled is the last"


async def deliver_all(service: Service, chance: random.Random, order: str, seed: int) -> None:
    hand_overs, installations = chance.randrange(5), chance.choice((1, 2, 4, 20))
    to = Moody(seed, order, unwell=chance.choice((0.02, 0.1, 0.3)))
    calls = chance.choice((1, 3, 10, 40))
    await subscribe(service, "http://127.0.0.1:9/", order=order)
    worker = Worker(service, to, seed)
    await worker.begin()
    try:
        for number in range(hand_overs + 1):
            count = EVENTS // (hand_overs + 1)
            await fill(service, count, first=number * count, installations=installations, calls=calls)
            worker.tell()
            await asyncio.sleep(chance.random() * 0.1)
            if number < hand_overs:
                await worker.hand_over()
        await everything_is_settled(service, worker)
    finally:
        await worker.end()

    stored = {row["position"] for row in await service.sql("SELECT position FROM event WHERE type LIKE 'call.%'")}
    dead = {row["position"] for row in await service.sql("SELECT position FROM parked")}
    assert stored == dead | {position for _, position in to.taken}
    assert_in_order(to.taken)


async def everything_is_settled(service: Service, worker: Worker) -> None:
    async with asyncio.timeout(30):
        while True:
            rows: list[Any] = await service.sql(STANDING)
            if rows[0]["done"]:
                return
            worker.tell()
            await asyncio.sleep(0.01)
