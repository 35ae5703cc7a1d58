"""A log that was restored, or that a standby took over, lacks what its readers have read: they are told, and go on."""

import json
from typing import Any

import httpx
import pytest

from aircall_oauth.sandbox.postgres import Postgres
from tests.support.databases import copy_database
from tests.support.service import Service, run_service, settings_for


async def tell(service: Service, *numbers: int) -> None:
    for number in numbers:
        event = {"event": "call.created", "token": service.webhook_token(), "data": {"n": number}}
        assert (await service.post_event(json.dumps(event).encode())).status_code == 200


async def read(partner: httpx.AsyncClient, **query: Any) -> Any:
    answer = await partner.get("/v1/events", params=query)
    return answer.json() | {"status": answer.status_code}


def numbers(page: Any) -> list[int]:
    return [event["data"]["n"] for event in page["events"] if event["type"] == "call.created"]


@pytest.mark.parametrize("door", ["/v1/events", "/v1/events/stream"])
async def test_a_reader_that_is_past_the_end_is_told_where_to_go_on(service: Service, door: str) -> None:
    await service.installed()
    await tell(service, 1, 2, 3)
    partner = await service.partner()
    stands = (await read(partner))["next"]
    await service.sql("DELETE FROM event WHERE position > 2")

    told = await partner.get(door, params={"after": stands})

    assert (told.status_code, told.headers["content-type"]) == (409, "application/problem+json")
    assert (told.json()["code"], told.json()["newest"]) == ("position_unknown", 2)
    await tell(service, 4)
    assert 4 in numbers(await read(partner, after=told.json()["resume_from"]))


async def test_a_reader_that_waits_is_told_too(service: Service) -> None:
    await service.installed()
    await tell(service, 1, 2, 3)
    partner = await service.partner()
    page = await read(partner)

    await service.sql("DELETE FROM event WHERE position > 2")
    told = await read(partner, after=page["next"], wait=30)

    assert (told["status"], told["code"]) == (409, "position_unknown")


async def test_a_reader_at_the_end_of_a_log_that_was_dropped_goes_on(service: Service) -> None:
    await service.installed()
    await tell(service, 1)
    partner = await service.partner()
    page = await read(partner)
    await service.sql("INSERT INTO log_start (dropped_to) SELECT max(position) FROM event")
    await service.sql("DELETE FROM event")

    assert await read(partner, after=page["next"], epoch=page["epoch"]) == {**page, "events": [], "status": 200}


async def test_a_restored_log_that_has_grown_again_is_told_by_its_epoch(postgres: Postgres, database_url: str) -> None:
    async with run_service(settings_for(database_url)) as service:
        await service.install()
        await tell(service, 1, 2)
        kept = await read(await service.partner())
    await copy_database(postgres, "backup", of="test")
    async with run_service(settings_for(database_url)) as service:
        for company in service.aircall.companies:
            service.aircall.webhooks.delete_company(company.id)
        await service.install()
        await tell(service, 3, 4)
        lost = await read(await service.partner(), after=kept["next"], epoch=kept["epoch"])
    await copy_database(postgres, "test", of="backup")

    async with run_service(settings_for(database_url)) as service:
        partner = await service.partner()
        await service.install()
        await tell(service, 5, 6, 7, 8)
        told = await read(partner, after=lost["next"], epoch=lost["epoch"])
        behind = await read(partner, after=kept["next"], epoch=kept["epoch"])
        again = await read(partner, after=told["resume_from"])
        on = await read(partner, after=again["next"], epoch=again["epoch"])

    assert kept["epoch"] == lost["epoch"] != again["epoch"]
    assert (told["status"], told["code"], told["resume_from"]) == (409, "position_unknown", kept["next"])
    # A reader that had read no more than what was kept has lost nothing.
    assert [5, 6, 7, 8] == numbers(again) == numbers(behind)
    assert (on["status"], on["events"]) == (200, [])


async def test_a_plain_user_of_postgresql_may_ask_which_database_it_is(service: Service) -> None:
    told = await service.sql(
        "SELECT has_function_privilege('pg_read_all_stats', f, 'EXECUTE') AS may FROM "
        "unnest('{pg_control_system(),pg_current_wal_lsn(),pg_walfile_name(pg_lsn)}'::text[]) AS f"
    )

    assert [True] * 3 == [row["may"] for row in told]
