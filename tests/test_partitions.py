"""The log's days: no event is refused because one is missing, and old ones go."""

import asyncio
import json
from datetime import timedelta

import asyncpg
import pytest

from aircall_oauth import partitions
from aircall_oauth.events import retention
from tests.fakes import Service


def body_of(service: Service, number: int) -> bytes:
    event = {"event": "call.created", "token": service.webhook_token(), "data": {"id": number}}
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


async def test_a_day_that_is_being_read_is_dropped_another_time(service: Service) -> None:
    await service.install()
    await as_if_of_an_old_day(service)
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
    monkeypatch.setattr(retention, "BATCH", 2)
    await service.install()
    for number in range(5):
        await service.post_event(body_of(service, number))
    week = retention.FINGERPRINTS_KEPT + timedelta(minutes=1)
    await service.sql("UPDATE event_fingerprint SET received_at = now() - $1::interval", week)
    await service.post_event(body_of(service, 5))

    await retention.forget_fingerprints(service.resources)

    assert len(await service.sql("SELECT 1 FROM event_fingerprint")) == 1
