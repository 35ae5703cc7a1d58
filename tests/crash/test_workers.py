"""Workers as real processes: killed under load, told to stop, and two of them over one subscription."""

import asyncio
import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aircall_oauth.deliveries.reader import read_ahead
from aircall_oauth.deliveries.reader.leases import SHARE_WANTED, Shares
from tests.support.processes import Process, eventually
from tests.support.receivers import LOOPBACK, Hangup, Received, fill, receiver, subscribe, verify
from tests.support.service import Service, command_environment, run_service, settings_for, until

# `LEDGER_EVENTS=20000` for the long run.
EVENTS = int(os.environ.get("LEDGER_EVENTS", "6000"))
INSTALLATIONS = 100
KILLS = 4
GIVEN = "subscriptions given to another worker"
WINDOW = read_ahead.BATCHES * read_ahead.BATCH * 64


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A web process without a worker."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


class Workers:
    """Two workers, and a fresh one for every one that is killed."""

    def __init__(self, service: Service, folder: Path) -> None:
        url = service.settings.database_url.get_secret_value()
        self._environment = command_environment(url, ALLOWED_PRIVATE_RANGES=LOOPBACK)
        self._folder = folder
        self.running: list[Process] = []

    async def start(self) -> Process:
        log = self._folder / "workers.log"
        process = await Process.start("work", "aircall_oauth", "work", environment=self._environment, log=log)
        self.running.append(process)
        return process

    async def kill(self, process: Process) -> None:
        self.running.remove(process)
        await process.kill()

    async def close(self) -> None:
        for process in self.running:
            await process.close()


@asynccontextmanager
async def workers(service: Service, folder: Path, count: int) -> AsyncIterator[Workers]:
    them = Workers(service, folder)
    try:
        for _ in range(count):
            await them.start()
        yield them
    finally:
        await them.close()


@pytest.mark.slow
async def test_every_event_arrives_whatever_dies(service: Service, tmp_path: Path) -> None:
    await service.install()
    chance, failed, hung = random.Random(7), set[int](), list[int]()
    hang = asyncio.Event()

    async def answer(received: Received) -> web.Response:
        """Each event fails once at most, one in twenty: in every way there is."""
        number = received.event["data"]["n"]
        if number in failed or chance.random() > 0.05:
            return web.Response()
        failed.add(number)
        match number % 200:
            case 0 if not hung:
                hung.append(number)
                await hang.wait()
                return web.Response(status=500)
            case n if n % 4 == 1:
                raise Hangup
            case n if n % 4 == 2:
                return web.Response(status=429, headers={"retry-after": "0"})
            case n if n % 4 == 3:
                return web.Response(status=503)
            case _:
                return web.Response(status=500)

    async with receiver() as to, workers(service, tmp_path, 2) as them:
        to.answer = answer
        partner = await subscribe(service, to.url, order="installation")
        await fill(service, EVENTS, installations=INSTALLATIONS)
        kills = 0
        progress = 0
        async with asyncio.timeout(100):
            while len(set(to.numbers)) < EVENTS:
                # A parked event is not waited for, and neither is the lease of the dead.
                await service.sql("UPDATE parked SET due_at = now() WHERE due_at > now()")
                if kills < KILLS and len(to.taken) > progress + EVENTS // (KILLS + 2):
                    kills, progress = kills + 1, len(to.taken)
                    await them.kill(them.running[0])
                    await service.sql("UPDATE subscription SET lease_until = now()")
                    await them.start()

                await asyncio.sleep(0.2)
        hang.set()
        shown = await partner.stands(lag=0, parked=0, dead=0, seconds=40)

    assert partner.secret is not None
    assert all(verify(received, partner.secret) for received in to.received[:: max(len(to.received) // 2000, 1)])
    count = to.count()
    assert set(count) == set(range(EVENTS))
    assert kills == KILLS
    assert sum(count.values()) - EVENTS <= KILLS * WINDOW, "only what was in flight is repeated"
    first: dict[str, dict[int, None]] = defaultdict(dict)
    for event in to.taken:
        first[event["installation_id"]].setdefault(event["position"])
    assert all(list(positions) == sorted(positions) for positions in first.values())
    assert shown["health"] == "up"
    assert len(failed) > EVENTS // 50


@pytest.mark.slow
async def test_each_calls_events_stay_in_order_over_workers_that_die_and_hand_over(
    service: Service, tmp_path: Path
) -> None:
    await service.install()
    failed, chance = set[int](), random.Random(3)

    async def answer(received: Received) -> web.Response:
        number = received.event["data"]["n"]
        await asyncio.sleep(chance.choice((0, 0.01, 0.05)))
        if number in failed or chance.random() > 0.1:
            return web.Response()
        failed.add(number)
        return web.Response(status=chance.choice((422, 500, 503)))

    async with receiver() as to, workers(service, tmp_path, 1) as them:
        to.answer = answer
        partner = await subscribe(service, to.url)
        await fill(service, 2000, installations=2, calls=100)
        for number, how in enumerate(("killed", "told", "killed")):
            await until(lambda: len(to.taken) > 400 * (number + 1))  # noqa: B023
            (worker,) = them.running
            if how == "killed":
                await them.kill(worker)
                await service.sql("UPDATE subscription SET lease_until = now()")
            else:
                worker.tell(signal.SIGTERM)
                await worker.ended()
                them.running.remove(worker)
            await service.sql("UPDATE parked SET due_at = now() WHERE due_at > now()")
            await them.start()
        async with asyncio.timeout(60):
            while len(set(to.numbers)) < 2000:
                await service.sql("UPDATE parked SET due_at = now() WHERE due_at > now()")
                await asyncio.sleep(0.2)
        await partner.stands(lag=0, parked=0, seconds=30)

    first: dict[str, dict[int, None]] = defaultdict(dict)
    for event in to.taken:
        first[event["subject"] + event["installation_id"]].setdefault(event["position"])
    assert len(first) == 100
    assert all(list(positions) == sorted(positions) for positions in first.values())
    assert len(failed) > 100


@pytest.mark.slow
async def test_a_dead_workers_subscriptions_are_taken_over_in_time(service: Service, tmp_path: Path) -> None:
    await service.install()
    async with receiver() as to, workers(service, tmp_path, 1) as them:
        partner = await subscribe(service, to.url)
        await fill(service, 10)
        await partner.stands(lag=0)
        holder = them.running[0]
        await them.start()
        await them.kill(holder)
        died = time.monotonic()
        await fill(service, 10, first=10)
        await partner.stands(lag=0, seconds=40)
        took = time.monotonic() - died

    assert took < 15
    assert to.count() == dict.fromkeys(range(20), 1)


@pytest.mark.slow
async def test_told_to_stop_a_worker_finishes_what_is_out_and_gives_its_lease_back(
    service: Service, tmp_path: Path
) -> None:
    await service.install()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as to, workers(service, tmp_path, 1) as them:
        to.answer = wait
        partner = await subscribe(service, to.url)
        await fill(service, 50)
        await until(lambda: len(to.received) == 8)
        (worker,) = them.running
        worker.tell(signal.SIGTERM)
        told = asyncio.create_task(worker.ended())
        await until(lambda: "stopping" in worker.said())
        assert not told.done()
        answered.set()
        exit_code = await told
        shown = await partner.shown()
        (row,) = await service.sql("SELECT lease_holder, lease_until FROM subscription")

    assert exit_code == 0
    # What began between the signal and its effect is finished too.
    assert shown["lag"] == 50 - len(to.received) > 0
    assert tuple(row) == (None, None)
    assert "Traceback" not in worker.said()


@pytest.mark.slow
async def test_a_web_process_without_a_worker_delivers_nothing(service: Service, tmp_path: Path) -> None:
    await service.install()
    async with receiver() as to:
        partner = await subscribe(service, to.url)
        await fill(service, 5)
        assert (await partner.shown())["lag"] == 5
        async with workers(service, tmp_path, 1):
            await partner.stands(lag=0)

    assert to.count() == dict.fromkeys(range(5), 1)


@asynccontextmanager
async def asking(service: Service) -> AsyncIterator[list[str]]:
    """Record the workers that ask for their share."""
    asked: list[str] = []
    connection = await asyncpg.connect(service.settings.database_url.get_secret_value())
    await connection.add_listener(SHARE_WANTED, lambda *told: asked.append(told[-1]))
    try:
        yield asked
    finally:
        await connection.close()


@pytest.mark.slow
def test_what_is_under_way_to_the_asker_is_in_the_plan() -> None:
    assert Shares({"holder": 8}).to_give("holder", "asker") == 4
    assert Shares({"holder": 8}).to_give("holder", "asker", giving=3) == 1
    assert Shares({"holder": 8}).to_give("holder", "asker", giving=6) == 0
    assert Shares({"holder": 5}, free=3).to_give("holder", "asker", giving=1) == 0


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40)))
def test_who_asks_for_a_share_gets_it_and_nobody_has_less_then(held: dict[str, int]) -> None:
    share = sum(held.values()) // (len(held) + 1)
    shares = Shares(held)

    given = {holder: shares.to_give(holder, "asker") for holder in held}

    assert shares.wants_more("asker") == (share > 0)
    assert sum(given.values()) == share
    assert all(held[holder] - gift >= share for holder, gift in given.items() if gift)
    assert not Shares({holder: held[holder] - gift for holder, gift in given.items()} | {"asker": share}).wants_more(
        "asker"
    )


@pytest.mark.slow
async def test_who_asks_again_is_not_given_what_is_under_way_to_it_once_more(service: Service, tmp_path: Path) -> None:
    """A reader that is handed over ends once its deliveries have; meanwhile the other worker asks again."""
    await service.install()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async def leases() -> list[int]:
        held = "SELECT count(*) FROM subscription WHERE lease_until > now() GROUP BY lease_holder"
        return sorted(row["count"] for row in await service.sql(held))

    async def shared_out() -> bool:
        return await leases() == [4, 4]

    async with receiver() as to, workers(service, tmp_path, 1) as them, asking(service) as asked:
        to.answer = wait
        for _ in range(8):
            await subscribe(service, to.url)
        await fill(service, 40)
        await until(lambda: len(to.received) >= 8 * 8, 30)
        await them.start()
        await until(lambda: len(asked) >= 3, 30)
        answered.set()
        await eventually(shared_out, 30)
        given = sum(json.loads(line)["count"] for line in them.running[0].said().splitlines() if GIVEN in line)

    assert given == 4


@pytest.mark.slow
async def test_workers_that_join_get_their_share(service: Service, tmp_path: Path) -> None:
    """Events come all the while, and none of them is delivered twice."""
    await service.install()
    filled = 0

    async def shares(expected: list[int]) -> bool:
        nonlocal filled
        await fill(service, 1, first=filled)
        filled += 1
        rows = await service.sql("SELECT count(*) FROM subscription WHERE lease_until > now() GROUP BY lease_holder")
        return sorted(row["count"] for row in rows) == expected

    async with receiver() as to, workers(service, tmp_path, 1) as them:
        partners = [await subscribe(service, to.url) for _ in range(7)]
        await eventually(lambda: shares([7]), 30)
        await them.start()
        await eventually(lambda: shares([3, 4]), 60)
        await them.start()
        await eventually(lambda: shares([2, 2, 3]), 60)
        for partner in partners:
            await partner.stands(lag=0, seconds=30)

    assert to.count() == dict.fromkeys(range(filled), len(partners))
