"""The log's days: no event is refused because one is missing, and old ones go."""

import asyncio
import contextlib
import json
import time
from datetime import timedelta

import asyncpg
import pytest

from aircall_oauth.errors import AppError
from aircall_oauth.events import retention
from aircall_oauth.server import worker
from aircall_oauth.storage import batches, epochs, partitions
from tests.support.clocks import set_a_clock
from tests.support.scenes import HOME
from tests.support.service import Service, command_environment, run_command, run_service, settings_for


def body_of(service: Service, number: int, timestamp: float | str | None = None) -> bytes:
    event = {
        "event": "call.created",
        "token": service.webhook_token(),
        "timestamp": timestamp,
        "data": {"id": number},
    }
    return json.dumps(event).encode()


async def all_days(service: Service) -> list[str]:
    return [row["relname"] for row in await service.sql(partitions.PRESENT)]


async def drop_all_days(service: Service) -> None:
    for day in await all_days(service):
        await service.sql(f"DROP TABLE {day}")


async def as_if_of_an_old_day(service: Service) -> None:
    """Move today's events forty days back, into a day of their own."""
    await service.sql(
        """
        DO $$
        DECLARE day date := (now() AT TIME ZONE 'UTC')::date - 40;
        BEGIN
            EXECUTE format('CREATE TABLE event_%s PARTITION OF event FOR VALUES FROM (%L) TO (%L)',
                           to_char(day, 'YYYYMMDD'), day || ' 00:00+00', day + 1 || ' 00:00+00');
        END $$
        """
    )
    await service.sql(
        "UPDATE event SET received_at = date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' "
        "- interval '40 days' + interval '1 hour'"
    )


OLD_DAY = """
    CREATE FUNCTION old_day(days_ago int) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        day date := (now() AT TIME ZONE 'UTC')::date - days_ago;
        noon timestamptz := (day + time '12:00') AT TIME ZONE 'UTC';
    BEGIN
        EXECUTE format('CREATE TABLE event_%s PARTITION OF event FOR VALUES FROM (%L) TO (%L)',
                       to_char(day, 'YYYYMMDD'), day || ' 00:00+00', day + 1 || ' 00:00+00');
        INSERT INTO event (received_at, id, installation_id, company_id, type, source, data)
        VALUES (noon, 'evt_' || days_ago, 'ins_1', 1, 'call.ended', 'aircall', '{}');
        INSERT INTO event_fingerprint
        SELECT int8send(extract(epoch FROM noon)::bigint) || int4send(n), noon FROM generate_series(1, 100) n;
    END $$
"""


# The old day is gone when the statement that asked for the newest position is through.
DROPPED_MEANWHILE = """
    CREATE FUNCTION newest_and_then_the_old_day_goes() RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        newest bigint := (SELECT max(position) FROM event);
        old text := (SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'event'::regclass);
    BEGIN
        EXECUTE format('INSERT INTO log_start (dropped_to) SELECT max(position) FROM %s', old);
        EXECUTE format('DROP TABLE %s', old);
        RETURN newest;
    END $$
"""


async def test_a_service_that_starts_has_a_week_of_days(service: Service) -> None:
    await service.install()

    assert len(await all_days(service)) == 8


async def test_processes_that_start_at_once_make_each_day_once(service: Service) -> None:
    url = service.settings.database_url.get_secret_value()
    starting = [await asyncpg.connect(url) for _ in range(8)]
    try:
        for _ in range(10):
            await drop_all_days(service)

            made = await asyncio.gather(*(partitions.ensure(connection) for connection in starting))

            assert sum(made) == len(await all_days(service)) == 8
    finally:
        for connection in starting:
            await connection.close()


async def test_an_event_whose_day_is_missing_makes_it(service: Service) -> None:
    await service.install()
    await drop_all_days(service)

    answer = await service.post_event(body_of(service, 1))

    assert answer.status_code == 200
    assert [row["type"] for row in await service.sql("SELECT type FROM event")] == ["call.created"]


async def test_an_installation_whose_day_is_missing_makes_it(service: Service) -> None:
    await service.install()
    await drop_all_days(service)

    await service.install()

    assert [row["type"] for row in await service.sql("SELECT type FROM event")] == ["installation.connected"]


async def test_the_chore_makes_the_days_that_are_missing(service: Service) -> None:
    await service.install()
    await drop_all_days(service)

    await retention.make_days(service.resources)

    assert len(await all_days(service)) == 8


async def test_a_worker_that_was_off_for_a_month_catches_up(service: Service) -> None:
    await service.install()
    await drop_all_days(service)
    await service.sql(OLD_DAY)
    for days_ago in range(45, 15, -1):
        await service.sql("SELECT old_day($1)", days_ago)
    partner = await service.partner()

    answer = await service.post_event(body_of(service, 1))
    for chore in (retention.make_days, *[retention.drop_days] * 30, retention.forget_fingerprints):
        await chore(service.resources)

    # A day goes when its last event is thirty days old.
    assert len(await all_days(service)) == 15 + 8
    assert answer.status_code == 200
    last = (await partner.get("/v1/events", params={"after": 20})).json()["events"][-1]
    assert (last["type"], last["data"]) == ("call.created", {"id": 1})
    assert (await partner.get("/v1/events", params={"after": 2})).json()["oldest"] == 16
    assert await service.sql("SELECT 1 FROM event_fingerprint WHERE received_at < now() - interval '8 days'") == []


@pytest.mark.parametrize("jump", ["45 days", "-45 days", "1 day", "-1 day", "400 days"])
async def test_a_clock_that_jumps_costs_no_event(database_url: str, jump: str) -> None:
    await set_a_clock(database_url)
    async with run_service(settings_for(database_url)) as service:
        await service.install()
        before = await service.post_event(body_of(service, 1))

        await service.sql("UPDATE clock SET ahead = $1::text::interval", jump)
        jumped = await service.post_event(body_of(service, 2))
        await service.install(service.aircall.companies[1])
        await service.sql("UPDATE clock SET ahead = '0'")
        back = await service.post_event(body_of(service, 3))

        assert [200] * 3 == [answer.status_code for answer in (before, jumped, back)]
        events = (await (await service.partner()).get("/v1/events")).json()["events"]
        assert [1, 2, 3] == [event["data"]["id"] for event in events if event["type"] == "call.created"]
        assert ["installation.connected"] * 2 == [event["type"] for event in events if event["source"] == "service"]


async def test_a_day_past_the_retention_goes_and_readers_are_told(service: Service) -> None:
    await service.install()
    for number in range(3):
        await service.post_event(body_of(service, number))
    await as_if_of_an_old_day(service)
    await service.post_event(body_of(service, 99))
    partner = await service.partner()

    await retention.drop_days(service.resources)

    assert len(await all_days(service)) == 8
    gone = await partner.get("/v1/events", params={"after": 2})
    assert (gone.status_code, gone.json()["code"], gone.json()["oldest"]) == (410, "position_gone", 4)
    at_the_edge = await partner.get("/v1/events", params={"after": 4})
    from_the_beginning = await partner.get("/v1/events")
    assert [[event["data"]["id"] for event in page.json()["events"]] for page in (at_the_edge, from_the_beginning)] == [
        [99],
        [99],
    ]


async def test_one_day_is_dropped_a_run(service: Service) -> None:
    await service.install()
    await drop_all_days(service)
    await service.sql(OLD_DAY)
    for days_ago in (45, 44, 43):
        await service.sql("SELECT old_day($1)", days_ago)
    await service.post_event(body_of(service, 1))

    left = []
    for _ in range(4):
        await retention.drop_days(service.resources)
        left.append(len(await all_days(service)))

    # Making one day makes the week.
    assert [10, 9, 8, 8] == left


# All that deletes what is old.
FORGETTING = {
    "drop days",
    "forget fingerprints",
    "forget flows",
    "forget gaps",
    "forget the audit",
    "forget attempts",
    "expire claims",
    "say goodbyes",
}
COUNTS = """
    SELECT (SELECT count(*) FROM event) AS events, (SELECT count(*) FROM event_fingerprint) AS fingerprints,
           (SELECT count(*) FROM told_call) AS calls, (SELECT count(*) FROM flow) AS flows,
           (SELECT count(*) FROM gap) AS gaps, (SELECT count(*) FROM audit) AS audit,
           (SELECT count(*) FROM attempt) AS attempts, (SELECT count(*) FROM installation) AS installations,
           (SELECT count(*) FROM claim) AS claims, (SELECT count(*) FROM farewell) AS farewells
"""


@pytest.mark.parametrize("jump", ["32 days", "1000 days", "5 minutes"])
async def test_nothing_is_forgotten_by_a_database_whose_clock_runs_ahead(database_url: str, jump: str) -> None:
    await set_a_clock(database_url)
    async with run_service(settings_for(database_url, RETURN_URLS=HOME)) as service:
        await service.install()
        await service.install_by_link("acme", service.aircall.companies[1])
        assert (await service.post_event(body_of(service, 1))).status_code == 200
        await service.sql(
            """
            WITH it AS (SELECT min(id) AS id FROM installation)
            , a AS (INSERT INTO told_call VALUES ('x', now(), false))
            , b AS (INSERT INTO gap (id, installation_id, reason, since, until, done_at)
                    SELECT 'gap_1', id, 'by_hand', now(), now(), now() FROM it)
            , c AS (INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds)
                    VALUES ('sub_1', 'evt_1', 1, now(), '200', 5))
            SELECT 1
            """
        )
        await service.sql("UPDATE claim SET expires_at = now() + interval '2 minutes'")
        before = await service.sql(COUNTS)

        await service.sql("UPDATE clock SET ahead = $1::text::interval", jump)
        for chore in worker.CHORES:
            if chore.name in FORGETTING:
                with contextlib.suppress(AppError):
                    await chore.work(service.resources)

        assert before == await service.sql(COUNTS)
        assert 0 not in [count for name, count in before[0].items() if name != "farewells"]


async def test_the_log_stays_where_nothing_came_since(service: Service) -> None:
    """As it looks where the clock of the whole machine is a month ahead."""
    await service.install()
    await service.post_event(body_of(service, 1))
    await as_if_of_an_old_day(service)

    await retention.drop_days(service.resources)

    assert len(await all_days(service)) == 9
    asked = await run_command(
        *("events", "drop", "--older-than", "30d", "--yes"),
        environment=command_environment(service.settings.database_url.get_secret_value()),
    )
    assert (asked.exit_code, asked.stderr) == (0, "1 days dropped.\n")
    assert len(await all_days(service)) == 8


@pytest.mark.slow
async def test_a_day_that_a_clock_wrote_while_it_was_behind_stays(database_url: str) -> None:
    await set_a_clock(database_url)
    async with run_service(settings_for(database_url)) as service:
        await service.install()
        answers = [await service.post_event(body_of(service, 1))]
        await service.sql("UPDATE clock SET ahead = '-45 days'")
        answers.append(await service.post_event(body_of(service, 2)))
        await service.sql("UPDATE clock SET ahead = '0'")
        answers.append(await service.post_event(body_of(service, 3)))

        await retention.drop_days(service.resources)

        assert [200] * 3 == [answer.status_code for answer in answers]
        events = (await (await service.partner()).get("/v1/events")).json()["events"]
        assert [1, 2, 3] == [event["data"]["id"] for event in events if event["type"] == "call.created"]


async def test_a_day_that_is_being_read_is_dropped_another_time(service: Service) -> None:
    await service.install()
    await as_if_of_an_old_day(service)
    await service.post_event(body_of(service, 99))
    reader = await asyncpg.connect(service.settings.database_url.get_secret_value())
    try:
        async with reader.transaction():
            await reader.fetch("SELECT * FROM event")
            with pytest.raises(Exception, match="database cannot be reached"):
                await retention.drop_days(service.resources)
    finally:
        await reader.close()
    assert len(await all_days(service)) == 9

    await retention.drop_days(service.resources)

    assert len(await all_days(service)) == 8


async def test_fingerprints_are_forgotten_after_a_week(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH", 2)
    await service.install()
    week = retention.FINGERPRINTS_KEPT + timedelta(minutes=1)
    old, far_ahead = time.time() - week.total_seconds(), time.time() + 10 * week.total_seconds()
    for number, timestamp in enumerate([old, old, old, far_ahead, None, "nonsense"]):
        assert (await service.post_event(body_of(service, number, timestamp))).status_code == 200
    await service.sql("UPDATE event_fingerprint SET received_at = now() - $1::interval", week)
    for number, timestamp in enumerate([old, far_ahead, None, time.time()], start=10):
        assert (await service.post_event(body_of(service, number, timestamp))).status_code == 200

    await retention.forget_fingerprints(service.resources)

    assert len(await service.sql("SELECT 1 FROM event_fingerprint")) == 4


async def test_a_day_that_goes_while_a_page_is_read_is_not_skipped(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.install()
    for number in range(3):
        await service.post_event(body_of(service, number))
    await as_if_of_an_old_day(service)
    await service.post_event(body_of(service, 99))
    partner = await service.partner()
    await service.sql(DROPPED_MEANWHILE)
    monkeypatch.setattr(epochs, "NEWEST", epochs.NEWEST.replace(epochs.END, "newest_and_then_the_old_day_goes()"))

    answer = await partner.get("/v1/events", params={"after": 2})

    assert (answer.status_code, answer.json()["oldest"]) == (410, 4)
