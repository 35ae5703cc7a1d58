"""One event that fails is parked; a destination that is down holds the position; neither is flooded with requests."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from aircall_oauth.deliveries.destinations.outcomes import Message, TryAgain
from aircall_oauth.deliveries.reader import breaker, progress, queries, read_ahead, reader, retries
from aircall_oauth.deliveries.reader.breaker import Breaker
from aircall_oauth.deliveries.reader.queue import Item
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import Health
from tests.support.processes import eventually
from tests.support.receivers import LOOPBACK, Received, Receiver, answer_with, fill, receiver, subscribe, tell
from tests.support.service import Service, run_service, settings_for, until

REFUSED = "http://127.0.0.1:{port}/hook"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for parked events often, and send probes soon."""
    monkeypatch.setattr(reader, "LOOK_FOR_DUE_SECONDS", 0.05)
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.02)


async def make_due(service: Service) -> None:
    await service.sql("UPDATE parked SET due_at = now() WHERE due_at IS NOT NULL")


@pytest.mark.usefixtures("quick")
async def test_one_event_that_fails_is_parked_and_the_others_go_on(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers[3] = answer_with(500)
        partner = await subscribe(service, to.url)
        await tell(service, 20)
        shown = await partner.stands(parked=1, lag=0)
        (row,) = await service.sql("SELECT *, due_at - now() AS pause FROM parked")
        attempts_before = len([r for r in to.received if r.event["data"]["n"] == 3])
        del to.answers[3]
        await make_due(service)
        await partner.stands(parked=0)

    assert (shown["health"], shown["last_error"], shown["position"]) == ("up", "http_500", 21)
    assert (row["position"], row["attempts"], row["reason"]) == (5, 1, "http_500")
    assert timedelta(0) < row["pause"] <= timedelta(seconds=6)
    assert attempts_before == 1
    assert to.count() == dict.fromkeys(range(20), 1)
    outcomes = [attempt["outcome"] for attempt in await partner.attempts(event_id=row["event_id"])]
    assert outcomes == ["delivered", "http_500"]


@pytest.mark.usefixtures("quick")
async def test_an_event_that_fails_alone_is_parked_too(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answer = answer_with(500)
        partner = await subscribe(service, to.url)
        await tell(service, 1)
        shown = await partner.stands(parked=1, lag=0)

    assert shown["health"] == "up"


@pytest.mark.usefixtures("quick")
async def test_the_schedule_is_followed_to_its_end_and_the_event_is_dead_then(service: Service) -> None:
    await service.installed()
    pauses = []
    async with receiver() as to, reading(service.resources):
        to.answers[0] = answer_with(500)
        partner = await subscribe(service, to.url)
        await tell(service, 2)
        for attempts in range(1, 12):
            query = f"SELECT due_at - now() AS pause FROM parked WHERE attempts = {attempts}"
            pauses += [row["pause"] for row in await eventually(partial(service.sql, query))]
            await make_due(service)
        shown = await partner.stands(dead=1, parked=0)
        (dead,) = (await partner.client.get(f"/v1/subscriptions/{partner.id}/dead")).json()["items"]
        del to.answers[0]
        none = await partner.post("dead/retry", {"event_ids": ["evt_" + "0" * 32]})
        one = await partner.post("dead/retry", {"event_ids": [dead["event_id"]]})
        await partner.stands(dead=0, parked=0)

    for pause, planned in zip(pauses, retries.SCHEDULE, strict=True):
        assert planned - timedelta(seconds=4) < pause <= planned * 1.2
    assert shown["lag"] == 0
    assert (dead["position"], dead["attempts"], dead["reason"]) == (2, 12, "http_500")
    assert (none["retried"], one["retried"]) == (0, 1)
    assert sorted(to.numbers) == [0, 1]


def test_the_schedule_spans_three_days_and_more_and_spreads() -> None:
    at = now()
    assert retries.SCHEDULE == (
        *(timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10)),
        *(timedelta(minutes=30), timedelta(hours=2), timedelta(hours=5), timedelta(hours=10)),
        *(timedelta(hours=14), timedelta(hours=20), timedelta(hours=24)),
    )
    assert len({retries.due_at(1, at) for _ in range(20)}) > 1
    assert retries.due_at(12, at) is None
    asked = retries.due_at(1, at, pause_seconds=600)
    assert asked is not None
    assert asked >= at + timedelta(seconds=600)


async def test_all_dead_ones_are_put_back(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        await partner.stands(lag=0)
        await service.sql(
            """
            INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason,
                                dead_at)
            SELECT $1, position, received_at, id, installation_id, 12, 'http_500', now() FROM event
            """,
            partner.id,
        )
        retried = await partner.post("dead/retry")
        await partner.stands(dead=0, parked=0)
        await until(lambda: len(to.taken) == 7)

    assert retried == {"retried": 4}
    assert to.count() == {0: 2, 1: 2, 2: 2}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("order", ["none", "installation"])
async def test_an_outage_holds_the_position_and_everything_flows_in_order_afterwards(
    service: Service, order: str
) -> None:
    await service.installed()
    port = free_port()
    async with reading(service.resources):
        partner = await subscribe(service, REFUSED.format(port=port), order=order)
        before = (await partner.shown())["position"]
        await fill(service, 5000, installations=50)
        down = await partner.stands(health="down")
        probed = len(await partner.attempts())
        async with receiver(port) as to:
            up = await partner.stands(lag=0, health="up", seconds=60)

    assert (down["position"], down["parked"], down["lag"], down["last_error"]) == (before, 0, 5000, "refused")
    assert (up["parked"], up["dead"]) == (0, 0)
    assert probed < 100
    assert to.count() == dict.fromkeys(range(5000), 1)
    assert await service.sql("SELECT 1 FROM parked") == []
    if order == "installation":
        assert_in_order(to)
    else:
        furthest = max(abs(number - place) for place, number in enumerate(to.numbers))
        assert furthest < 2 * read_ahead.BATCH * service.settings.deliveries_at_once


def assert_in_order(to: Receiver) -> None:
    numbers = defaultdict(list)
    for event in to.taken:
        numbers[event["installation_id"]].append(event["position"])
    assert all(each == sorted(each) for each in numbers.values())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("order", ["none", "installation"])
@pytest.mark.parametrize("status", [500, 503])
async def test_an_outage_of_errors_is_one_too(service: Service, status: int, order: str) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answer = answer_with(status)
        partner = await subscribe(service, to.url, order=order)
        await fill(service, 500, installations=3)
        down = await partner.stands(health="down")
        to.answer = answer_with(200)
        up = await partner.stands(lag=0, health="up")

    assert (down["position"], down["parked"], up["parked"]) == (1, 0, 0)
    assert to.count() == dict.fromkeys(range(500), 1)


async def test_a_pause_that_ends_while_the_reader_writes_is_over(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = queries.keep

    async def keep_slowly(*kept: Any) -> tuple[int, bool] | None:
        await asyncio.sleep(0.4)
        return await keep(*kept)

    monkeypatch.setattr(queries, "keep", keep_slowly)
    monkeypatch.setattr(progress, "KEEP_SECONDS", 0.3)
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.5)
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answer = answer_with(503)
        partner = await subscribe(service, to.url)
        await fill(service, 20)
        await partner.stands(health="down")
        await until(lambda: len(to.received) > 12)
        to.answer = answer_with(200)
        await partner.stands(lag=0, health="up")

    assert to.count() == dict.fromkeys(range(20), 1)


@pytest.mark.usefixtures("quick")
async def test_an_event_to_blame_does_not_keep_a_destination_down(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answer = answer_with(503)
        partner = await subscribe(service, to.url)
        await tell(service, 30)
        await partner.stands(health="down")
        to.answers[0] = answer_with(503)
        to.answer = answer_with(200)
        shown = await partner.stands(lag=0, health="up", parked=1)

    assert shown["position"] == 31
    assert to.count() == dict.fromkeys(range(1, 30), 1)


async def test_a_new_event_need_not_wait_until_one_that_failed_alone_is_tried_again(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers[0] = answer_with(503)
        partner = await subscribe(service, to.url)
        await tell(service, 1)
        await partner.stands(health="down")
        await tell(service, 1, first=1)
        await until(lambda: to.numbers == [1], seconds=5)
        shown = await partner.stands(health="up", parked=1)

    assert shown["position"] == 3


@pytest.mark.usefixtures("quick")
async def test_a_worker_that_takes_over_knows_that_the_destination_is_down(service: Service) -> None:
    await service.installed()
    async with receiver() as to:
        to.answer = answer_with(503)
        partner = await subscribe(service, to.url)
        await fill(service, 100)
        async with reading(service.resources):
            await partner.stands(health="down")
        await service.sql("UPDATE subscription SET quiet_until = now() + interval '1 hour', probes = 12")
        tried = len(to.received)
        other = await subscribe(service, f"{to.url}/other")
        to.answer = answer_with(200)
        async with reading(service.resources):
            await fill(service, 1, first=100)
            await other.stands(lag=0)
            left_alone = len([r for r in to.received if r.path == "/hook"]) == tried
            await partner.post("resume")
            await partner.stands(lag=0, health="up")

    assert left_alone


@pytest.mark.usefixtures("quick")
async def test_410_disables_until_it_is_resumed(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answer = answer_with(410)
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        disabled = await partner.stands(status="disabled")
        tried = len(to.received)
        to.answer = answer_with(200)
        await tell(service, 3, first=3)
        resumed = await partner.post("resume")
        await partner.stands(lag=0)

    assert (disabled["last_error"], disabled["parked"], disabled["position"]) == ("http_410", 0, 1)
    assert tried <= 3
    assert resumed["status"] == "active"
    assert sorted(to.numbers) == list(range(6))


@pytest.mark.slow
async def test_a_pause_that_the_destination_asks_for_is_given(service: Service) -> None:
    await service.installed()
    asked: list[float] = []
    answered: list[float] = []

    def limit(_: Received) -> web.Response:
        if not asked:
            asked.append(time.monotonic())
            return web.Response(status=429, headers={"retry-after": "3"})
        answered.append(time.monotonic())
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = limit
        partner = await subscribe(service, to.url)
        await tell(service, 1)
        await until(lambda: bool(asked))
        await tell(service, 5, first=1)
        shown = await partner.stands(lag=0, parked=0)

    assert min(answered) - asked[0] >= 2.9
    assert shown["last_error"] == "http_429"
    assert sorted(to.numbers) == list(range(6))


@pytest.mark.usefixtures("quick")
async def test_later_events_of_an_installation_wait_behind_its_parked_one(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers[4] = answer_with(422)
        partner = await subscribe(service, to.url, order="installation")
        await fill(service, 90, installations=3)
        waiting = await partner.stands(lag=0, parked=29)
        rows = await service.sql("SELECT position, reason, due_at IS NULL AS behind FROM parked ORDER BY position")
        others = sorted(to.numbers)
        await fill(service, 9, first=90, installations=3)
        await partner.stands(lag=0, parked=32)
        to.answers.clear()
        await make_due(service)
        await partner.stands(parked=0, dead=0)
        await fill(service, 30, first=99, installations=3)
        await partner.stands(lag=0, parked=0)

    assert waiting["health"] == "up"
    assert [row["reason"] for row in rows] == ["http_422", *["behind"] * 28]
    assert [row["behind"] for row in rows] == [False, *[True] * 28]
    assert others == sorted([*range(0, 90, 3), 1, *range(2, 90, 3)])
    assert to.count() == dict.fromkeys(range(129), 1)
    assert_in_order(to)


@pytest.mark.usefixtures("quick")
async def test_a_dead_event_lets_those_behind_it_go(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers[0] = answer_with(422)
        partner = await subscribe(service, to.url, order="installation")
        await fill(service, 40, installations=2)
        await partner.stands(parked=20, lag=0)
        await service.sql("UPDATE parked SET attempts = 11, due_at = now() WHERE due_at IS NOT NULL")
        await partner.stands(parked=0, dead=1)

    assert to.count() == dict.fromkeys(range(1, 40), 1)
    assert_in_order(to)


@pytest.mark.usefixtures("quick")
async def test_order_survives_a_new_reader(service: Service) -> None:
    await service.installed()
    async with receiver() as to:
        to.answers[0] = answer_with(422)
        partner = await subscribe(service, to.url, order="installation")
        async with reading(service.resources):
            await fill(service, 40, installations=2)
            await partner.stands(parked=20, lag=0)
        async with reading(service.resources):
            await fill(service, 40, first=40, installations=2)
            await partner.stands(parked=40, lag=0)
            to.answers.clear()
            await make_due(service)
            await partner.stands(parked=0)

    assert to.count() == dict.fromkeys(range(80), 1)
    assert_in_order(to)


@pytest.mark.slow
async def test_one_event_of_an_installation_is_out_at_a_time_where_order_is_asked_for(service: Service) -> None:
    await service.installed()
    out: dict[str, int] = defaultdict(int)
    most: dict[str, int] = defaultdict(int)

    async def slowly(received: Received) -> web.Response:
        installation = received.event["installation_id"]
        out[installation] += 1
        most[installation] = max(most[installation], out[installation])
        await asyncio.sleep(0.002)
        out[installation] -= 1
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = slowly
        partner = await subscribe(service, to.url, order="installation")
        await fill(service, 600, installations=20)
        await partner.stands(lag=0)

    assert set(most.values()) == {1}
    assert to.most_open > 1
    assert_in_order(to)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["none", "installation"])
async def test_one_that_hangs_does_not_stop_those_behind_it(service: Service, order: str) -> None:
    await service.installed()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answers[0] = wait
        partner = await subscribe(service, to.url, order=order)
        await fill(service, 2000, installations=200)
        hanging = await partner.stands(lag=0, seconds=12)
        reasons = {row["reason"] for row in await service.sql("SELECT reason FROM parked")}
        answered.set()
        await partner.stands(parked=0)

    assert hanging["parked"] == (1 if order == "none" else 10)
    assert reasons == ({"slow"} if order == "none" else {"slow", "behind"})
    assert to.count() == dict.fromkeys(range(2000), 1)
    if order == "installation":
        assert_in_order(to)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
async def test_an_event_tells_what_became_of_it_for_each_subscription(service: Service) -> None:
    await service.installed()
    async with receiver() as to, receiver() as failing, reading(service.resources):
        failing.answer = answer_with(422)
        well = await subscribe(service, to.url)
        badly = await subscribe(service, failing.url, types=["call.*"])
        dead = await subscribe(service, failing.url, types=["call.created"])
        paused = await subscribe(service, to.url, types=["call.*"])
        await paused.post("pause")
        await subscribe(service, to.url, types=["user.*"])
        acme = await subscribe(service, to.url, owner="acme")
        await tell(service, 1)
        await well.stands(lag=0)
        for each in (badly, dead):
            await each.stands(parked=1)
        await service.sql("UPDATE parked SET dead_at = now(), due_at = NULL WHERE subscription_id = $1", dead.id)
        (row,) = await service.sql("SELECT id FROM event WHERE type = 'call.created'")
        shown = (await well.client.get(f"/v1/events/{row['id']}")).json()
        unseen = await acme.client.get(f"/v1/events/{row['id']}")

    became = {each["subscription_id"]: (each["status"], each["last_outcome"]) for each in shown["deliveries"]}
    assert became == {
        well.id: ("delivered", "delivered"),
        badly.id: ("parked", "http_422"),
        dead.id: ("dead", "http_422"),
        paused.id: ("waiting", None),
    }
    assert unseen.status_code == 404


def a_breaker(**changes: Any) -> Breaker:
    return Breaker(
        **({"health": Health.UP, "quiet_until": None, "probes": 0, "at_once": 64, "by_installation": False} | changes)
    )


def an_item(position: int) -> Item:
    return Item(Message(f"evt_{position}", "ins_1", "call.ended", b"{}"), position, now(), "")


def test_probes_come_after_growing_pauses_from_a_second_to_five_minutes() -> None:
    judged, seconds = a_breaker(), []
    for position in range(breaker.RUN):
        judged.begin()
        judged.failed(an_item(position), TryAgain("refused"), probe=False)
    assert judged.down
    for _ in range(12):
        seconds.append(judged.quiet_seconds())
        judged.failed(an_item(0), TryAgain("refused"), probe=True)

    for pause, planned in zip(seconds, (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300), strict=True):
        assert planned * 0.85 < pause <= planned


def test_a_clock_that_is_ahead_for_a_moment_lengthens_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = a_breaker()
    with monkeypatch.context() as ahead:
        ahead.setattr(breaker, "now", lambda: now() + timedelta(days=32))
        for position in range(breaker.RUN):
            judged.begin()
            judged.failed(an_item(position), TryAgain("refused"), probe=False)

    assert judged.down
    assert 0 < judged.quiet_seconds() <= 1


def test_an_answer_that_was_on_its_way_already_proves_nothing() -> None:
    judged = a_breaker()
    early, failing = judged.begin(), judged.begin()
    judged.failed(an_item(failing), TryAgain("reset"), probe=False)

    assert judged.succeeded(an_item(early), early) == []
    later = judged.begin()
    assert [suspect.item.position for suspect in judged.succeeded(an_item(later), later)] == [failing]
