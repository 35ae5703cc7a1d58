"""Numbers over time: all processes add up, and neither a crash nor a clock that jumps bends what was counted."""

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.errors import ClocksDisagree, DatabaseAway
from aircall_oauth.operations import figures, measure
from aircall_oauth.operations.figures import Keeper
from aircall_oauth.storage import figures as kept
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.figures import Count
from aircall_oauth.telemetry.figures import ACK_SECONDS, ALL, DELIVERY_SECONDS, Lag, Name, quantile
from tests.support.clocks import set_a_clock
from tests.support.forked import web_processes
from tests.support.processes import eventually
from tests.support.receivers import LOOPBACK, answer_with, fill, receiver, subscribe, tell
from tests.support.service import Service, run_service, settings_for

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_turn_of_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process writes at its end only, and where a test says so."""
    monkeypatch.setattr(figures, "MINUTE_SECONDS", 1e9)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


async def counted(
    database: Database, name: str, labels: list[str] | None = None, *, step: timedelta = MINUTE
) -> dict[str, list[int]]:
    """What the last day's series comes to, by label."""
    until = datetime.now(UTC) + MINUTE
    sums: dict[str, list[int]] = {}
    for point in await kept.series(database, name, labels, until - DAY, until, step):
        sums[point.label] = [sum(pair) for pair in zip(point.amounts, sums.get(point.label, [0] * 99), strict=False)]
    return sums


async def rows(database_url: str, condition: str = "true") -> list[Any]:
    connection = await asyncpg.connect(database_url)
    try:
        return list(await connection.fetch(f"SELECT * FROM figure WHERE {condition}"))
    finally:
        await connection.close()


async def write(service: Service) -> None:
    """Do at once what the process does at the turn of the minute."""
    keeper = Keeper(service.resources)
    keeper.take()
    await keeper.write()


async def test_what_a_process_did_is_there_once_it_has_ended(database_url: str, database: Database) -> None:
    async with run_service(settings_for(database_url)) as service:
        installation = await service.install()
        await tell(service, 5)
        await tell(service, 5)  # repeats
        await service.post_event(json.dumps({"event": "call.created", "token": "x" * 32, "data": {}}).encode())
        partner = await service.partner()
        await partner.get(f"/v1/installations/{installation}/aircall/calls")
        await partner.get(f"/v1/installations/{installation}/aircall/no-such-thing")

    assert await counted(database, Name.ACKS) == {"stored": [5], "repeated": [5], "webhook_token_unknown": [1]}
    (buckets,) = (await counted(database, Name.ACK_SECONDS)).values()
    assert (sum(buckets), len(buckets)) == (11, len(ACK_SECONDS) + 1)
    assert await counted(database, Name.PROXIED) == {"2xx": [1], "4xx": [1]}


async def test_it_is_written_at_each_turn_of_the_minute(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MINUTE_SECONDS", 0.3)
    async with run_service(settings_for(database_url)) as service:
        await service.install()
        await tell(service, 5)

        async def is_written() -> bool:
            alive = (await counted(database, Name.ALIVE)).get("web", [0])
            return alive[0] >= 2 and await counted(database, Name.ACKS) == {"stored": [5]}

        await eventually(is_written)


async def test_deliveries_are_counted_by_subscription_and_in_all(database_url: str, database: Database) -> None:
    settings = settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)
    async with run_service(settings) as service, receiver() as to, reading(service.resources):
        await service.install()
        to.answers[1] = answer_with(500)
        partner = await subscribe(service, to.url, types=["call.created"])
        idle = await subscribe(service, to.url, types=["contact.*"])
        await tell(service, 4)
        await partner.stands(parked=1, lag=0)

    told = await counted(database, Name.DELIVERIES)
    assert set(told) == {partner.id, ALL}, f"{idle.id} has no row: nothing was counted"
    assert told[partner.id] == told[ALL] == [4, 3, 1]
    (buckets,) = (await counted(database, Name.DELIVERY_SECONDS)).values()
    assert (sum(buckets), len(buckets)) == (3, len(DELIVERY_SECONDS) + 1)


async def test_the_lag_of_a_minute_is_the_most_that_it_was(database_url: str, database: Database) -> None:
    async with run_service(settings_for(database_url)) as service:
        partner = await subscribe(service, "https://example.com/hook")
        for count in (3, 4):
            await fill(service, count, first=count * 10)
            await measure.measure(service.resources)
        await service.sql("UPDATE event SET received_at = received_at - interval '90 seconds'")
        await measure.measure(service.resources)
        await write(service)
        await service.sql("UPDATE subscription SET position = (SELECT max(position) - 2 FROM event)")
        await measure.measure(service.resources)
        await write(service)
        since = datetime.now(UTC) - DAY
        points = await kept.series(database, Name.LAG, [partner.id], since, since + 2 * DAY, DAY)

    assert max(point.amounts[0] for point in points) == 7
    assert max(point.amounts[1] for point in points) in range(90, 120)
    assert await counted(database, Name.LAG, step=HOUR) == await counted(database, Name.LAG, step=12 * HOUR)


async def test_two_processes_add_up(database_url: str, database: Database) -> None:
    async with run_service(settings_for(database_url)) as one:
        await one.install()
        async with run_service(settings_for(database_url)) as other:
            await tell(one, 3)
            body = {"event": "call.created", "token": one.webhook_token(), "data": {"n": 77}}
            assert (await other.post_event(json.dumps(body).encode())).status_code == 200
            for _ in range(2):
                await asyncio.gather(write(one), write(other))

    assert await counted(database, Name.ACKS) == {"stored": [4]}
    alive = await counted(database, Name.ALIVE)
    assert alive == {"web": [4]}, "once per process and minute"
    assert alive == await counted(database, Name.ALIVE, step=HOUR)


async def test_many_that_write_at_once_lose_nothing_and_do_not_deadlock(database: Database) -> None:
    labels = [f"sub_{number:02}" for number in range(40)]

    async def write_shuffled(seed: int) -> None:
        counts = [Count(Name.DELIVERIES, label, [1, 2, seed]) for label in labels]
        random.Random(seed).shuffle(counts)
        for _ in range(5):
            await kept.add(database, counts, ago=MINUTE)

    await asyncio.gather(*(write_shuffled(seed) for seed in range(8)))

    expected = {label: [40, 80, 5 * sum(range(8))] for label in labels}
    assert await counted(database, Name.DELIVERIES) == await counted(database, Name.DELIVERIES, step=HOUR) == expected


@pytest.mark.slow
async def test_a_process_that_is_killed_loses_its_last_minute_and_no_more(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    async def post(url: str, token: str, first: int, count: int) -> None:
        async with aiohttp.ClientSession() as session:
            for number in range(first, first + count):
                body = {"event": "call.created", "token": token, "data": {"n": number}}
                async with session.post(f"{url}/aircall/webhook", json=body) as answer:
                    assert answer.status == 200

    async with web_processes(1, database_url, tmp_path) as ((process,), token):
        await post(process.url, token, 0, 20)
        process.tell(signal.SIGTERM)
        await process.ended()
        orderly = await counted(database, Name.ACKS)
        await process.start()
        await post(process.url, token, 100, 7)
        await process.kill()
        after = await counted(database, Name.ACKS)
        await process.start()
        await post(process.url, token, 200, 5)
        process.tell(signal.SIGTERM)
        await process.ended()

    assert orderly == {"stored": [20]}
    assert 20 <= after["stored"][0] <= 27
    assert await counted(database, Name.ACKS) == {"stored": [after["stored"][0] + 5]}
    assert await counted(database, Name.ACKS, step=HOUR) == await counted(database, Name.ACKS)


@pytest.mark.slow
async def test_what_is_counted_while_the_database_is_away_is_written_to_its_own_minutes(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.install()
    keeper, ago = Keeper(service.resources), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + ago[0])
    async with service.database_away():
        for number in range(3):
            await service.post_event(json.dumps({"event": "a", "token": "t" * 32, "data": number}).encode())
            keeper.take(alive=False)
            with pytest.raises(DatabaseAway):
                await keeper.write()
            ago[0] += 3 * 60
    await keeper.write()

    until = datetime.now(UTC) + MINUTE
    points = await kept.series(database, Name.ACKS, ["database_away"], until - HOUR, until, MINUTE)
    assert [point.amounts for point in points] == [[1], [1], [1]]
    # Each in the middle of the time since the one before, so the last is four and a half minutes after the first.
    assert points[-1].at - points[0].at in {4 * MINUTE, 5 * MINUTE}


async def test_what_waits_for_the_database_is_bounded_and_nothing_of_it_is_lost(
    service: Service, database: Database
) -> None:
    await service.install()
    keeper = Keeper(service.resources)
    for number in range(figures.MOST_WAITING + 40):
        await tell(service, 1, first=number)
        service.resources.metrics.figures.behind("sub_1", {**dict.fromkeys(Lag, 1.0), Lag.EVENTS: number})
        keeper.take()
    assert len(keeper._waiting) == figures.MOST_WAITING

    await keeper.write()

    assert (await counted(database, Name.ACKS))["stored"] == [figures.MOST_WAITING + 40]
    assert (await counted(database, Name.LAG, ["sub_1"], step=DAY))["sub_1"][0] == figures.MOST_WAITING + 39


@pytest.mark.parametrize("jump", ["40 days", "-40 days"])
async def test_a_clock_that_jumps_costs_what_was_counted_meanwhile_and_no_more(
    database_url: str, database: Database, jump: str
) -> None:
    await set_a_clock(database_url)
    async with run_service(settings_for(database_url)) as service:
        for ahead in ("0", jump, "0"):
            await service.sql("UPDATE clock SET ahead = $1::text::interval", ahead)
            service.resources.metrics.figures.proxied(200)
            await write(service)
            if ahead == jump:
                with pytest.raises(ClocksDisagree):
                    await figures.forget(service.resources)
        await figures.forget(service.resources)
        (left,) = await service.sql("SELECT count(*) FROM figure WHERE at > now() OR at < now() - interval '2 days'")
        told = await counted(database, Name.PROXIED)

    assert told == {"2xx": [2]}
    assert left["count"] == (0 if jump == "40 days" else 2), "an hour of 40 days ago is kept as any other"


async def test_hours_are_what_their_minutes_are(database: Database) -> None:
    chance = random.Random(7)
    for _ in range(200):
        ago = timedelta(minutes=chance.randrange(23 * 60))
        await kept.add(database, [Count(Name.ACKS, chance.choice("ab"), [chance.randrange(9)])], ago=ago)
        await kept.add(database, [Count(Name.LAG, "a", [chance.randrange(9), 1], highest=True)], ago=ago)

    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + HOUR
    for name in (Name.ACKS, Name.LAG):
        hours = await kept.series(database, name, None, until - DAY, until, HOUR)
        minutes = await kept.series(database, name, None, until - DAY, until, MINUTE)
        of_hours: dict[tuple[datetime, str], list[list[int]]] = {}
        for point in minutes:
            of_hours.setdefault((point.at.replace(minute=0), point.label), []).append(point.amounts)
        combine = max if name == Name.LAG else sum
        assert {(hour.at, hour.label): hour.amounts for hour in hours} == {
            key: [combine(column) for column in zip(*amounts, strict=True)] for key, amounts in of_hours.items()
        }
    quarters = await kept.series(database, Name.ACKS, ["a"], until - DAY, until, 15 * MINUTE)
    assert all(point.at.minute % 15 == 0 for point in quarters)
    assert sum(point.amounts[0] for point in quarters) == (await counted(database, Name.ACKS))["a"][0]


async def test_the_totals_of_a_day_are_whole_hours_and_the_minutes_before_them(database: Database) -> None:
    for minutes in (1, 59, 61, 600, 23 * 60 + 59, 24 * 60 + 1, 24 * 60 + 61, 47 * 60):
        await kept.add(database, [Count(Name.DELIVERIES, "sub_1", [1, minutes, 0])], ago=minutes * MINUTE)

    told = await kept.totals(database, Name.DELIVERIES, ["sub_1", "sub_2"])

    assert list(told) == ["sub_1"]
    # The minute that is a day ago belongs to it or not, as the seconds are.
    assert told["sub_1"] in ([5, 1 + 59 + 61 + 600 + 1439, 0], [4, 1 + 59 + 61 + 600, 0])


async def test_minutes_are_kept_for_two_days_and_hours_for_400(service: Service, database: Database) -> None:
    for ago in (47 * HOUR, 49 * HOUR, 399 * DAY, 401 * DAY):
        await kept.add(database, [Count(Name.ACKS, "stored", [1])], ago=ago)
    await kept.add(database, [Count(Name.ACKS, "stored", [1])], ago=-30 * DAY)

    await figures.forget(service.resources)

    left = await service.sql("SELECT step, round(extract(epoch FROM now() - at) / 3600) AS hours FROM figure")
    assert sorted((row["step"], round(row["hours"] / 24)) for row in left) == [
        ("hour", 2),
        ("hour", 2),
        ("hour", 399),
        ("minute", 2),
    ]


async def test_what_stands_still_has_no_rows(database_url: str) -> None:
    async with run_service(settings_for(database_url)) as service:
        await subscribe(service, "https://example.com/hook")
        for _ in range(3):
            await measure.measure(service.resources)
            await write(service)

    assert {(row["name"], row["label"]) for row in await rows(database_url)} == {("alive", "web")}


async def test_a_series_of_too_many_or_broken_steps_is_refused(database: Database) -> None:
    until = datetime.now(UTC)
    for since, step in ((until - 8 * DAY, MINUTE), (until - DAY, timedelta(seconds=90)), (until - DAY, 90 * MINUTE)):
        with pytest.raises(ValueError, match=r"steps\.|whole"):
            await kept.series(database, Name.ACKS, None, since, until, step)


def test_a_quantile_lies_in_the_bucket_of_the_real_one() -> None:
    chance = random.Random(3)
    seconds = sorted(chance.expovariate(20) for _ in range(5000))
    buckets = [0] * (len(ACK_SECONDS) + 1)
    for one in seconds:
        buckets[next((n for n, bound in enumerate(ACK_SECONDS) if one <= bound), len(ACK_SECONDS))] += 1

    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        real, read = seconds[round(share * 5000) - 1], quantile(share, ACK_SECONDS, buckets)
        place = next(n for n, bound in enumerate(ACK_SECONDS) if real <= bound)
        assert read is not None
        assert (0.0, *ACK_SECONDS)[place] <= read <= ACK_SECONDS[place]
    assert quantile(0.5, ACK_SECONDS, [0] * 12) is None
    assert quantile(0.5, ACK_SECONDS, [0] * 11 + [3]) == 5
