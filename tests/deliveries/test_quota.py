"""The limits on subscriptions, and that listing many of them does not slow other requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aircall_oauth.storage.database import DRIVER_POOL_SIZE
from tests.events.test_feed import NAMES
from tests.events.test_feed import tell as tell_types
from tests.support.receivers import subscription_body
from tests.support.service import Service, run_service, settings_for

FIELDS = subscription_body("https://203.0.114.7/hook", **{"from": "beginning"})
ALL_KINDS = [["call.*"], ["call.ended", "user.created"], ["ai_voice*"], ["%"], ["*"], ["call\\*", "_ser.created"], []]


@pytest.fixture
async def small(database_url: str) -> AsyncIterator[Service]:
    """Three subscriptions for an owner, five in all."""
    settings = settings_for(database_url, MAX_SUBSCRIPTIONS="5", MAX_SUBSCRIPTIONS_PER_OWNER="3")
    async with run_service(settings) as service:
        yield service


async def create(partner: Any, **fields: Any) -> tuple[int, str | None]:
    answer = await partner.post("/v1/subscriptions", json=FIELDS | fields)
    return answer.status_code, answer.json().get("code")


FULL = (409, "subscriptions_full")


async def test_an_owner_has_so_many_whoever_makes_them_and_another_one_has_its_own(small: Service) -> None:
    acme, zeta, anybodys = await small.partner(owner="acme"), await small.partner(owner="zeta"), await small.partner()

    made = [await create(acme) for _ in range(2)] + [await create(anybodys, owners=["acme"])]

    assert made == [(201, None)] * 3
    assert [await create(acme), await create(anybodys, owners=["acme"])] == [FULL, FULL]
    assert await create(zeta) == (201, None)
    gone = (await acme.get("/v1/subscriptions")).json()["items"][0]["id"]
    await acme.delete(f"/v1/subscriptions/{gone}")
    assert await create(acme) == (201, None)


async def test_there_are_so_many_in_all(small: Service) -> None:
    partner = await small.partner()

    made = [await create(partner) for _ in range(6)]

    assert made == [(201, None)] * 5 + [FULL]
    refused = await partner.post("/v1/subscriptions", json=FIELDS)
    assert "AIRCALL_OAUTH_MAX_SUBSCRIPTIONS " in refused.json()["detail"]


async def test_many_made_at_once_are_not_more(small: Service) -> None:
    acme = await small.partner(owner="acme")

    made = await asyncio.gather(*(create(acme) for _ in range(8)))

    assert sorted(made, key=str) == [(201, None)] * 3 + [FULL] * 5
    assert len(await small.sql("SELECT 1 FROM subscription")) == 3


async def test_none_is_moved_to_an_owner_who_has_enough(small: Service) -> None:
    partner = await small.partner()
    for owners in (["acme"], ["acme"], ["acme"], ["zeta"]):
        await create(partner, owners=owners)
    *_, last = (await partner.get("/v1/subscriptions")).json()["items"]
    door = f"/v1/subscriptions/{last['id']}"

    moved = await partner.patch(door, json={"owners": ["acme"]})
    stays = await partner.patch(door, json={"owners": ["zeta"]})

    assert (moved.status_code, moved.json()["code"]) == FULL
    assert (stays.status_code, stays.json()["owners"]) == (200, ["zeta"])


@pytest.mark.slow
async def test_a_list_says_of_each_what_it_says_when_shown_alone(service: Service) -> None:
    installation_id = await service.installed()
    await tell_types(service, *NAMES)
    partner = await service.partner()
    for types in ALL_KINDS:
        await create(partner, types=types)
    await create(partner, owners=["acme"])
    await create(partner, installations=[installation_id])
    await create(partner, installations=["ins_" + "0" * 32])

    listed = (await partner.get("/v1/subscriptions")).json()["items"]
    shown = [(await partner.get(f"/v1/subscriptions/{item['id']}")).json() for item in listed]

    ages = [[item.pop("oldest_undelivered_seconds") for item in items] for items in (listed, shown)]
    assert listed == shown
    assert [age is None for age in ages[0]] == [age is None for age in ages[1]], "the seconds may have moved on"
    everything = 1 + len(NAMES)
    assert [item["lag"] for item in listed] == [2, 2, 1, 0, everything, 0, everything, 0, everything, 0]


async def test_a_list_costs_one_statement_however_long_it_is(service: Service) -> None:
    partner, told = await service.partner(), list[str]()
    for _ in range(20):
        await create(partner)

    async with service.resources.database.driver_connection() as connection:
        # The one that is used last is used next.
        connection.add_query_logger(lambda record: told.append(record.query))
    listed = await partner.get("/v1/subscriptions")

    assert len(listed.json()["items"]) == 20
    assert len([query for query in told if "subscription" in query or "FROM event" in query]) == 1


async def test_keys_are_recognised_while_every_other_connection_waits(service: Service) -> None:
    partner, stranger = await service.partner(), service.new_browser()
    stranger.headers["authorization"] = "Bearer aok_wrong"
    assert (await partner.get("/v1/installations")).status_code == 200

    async with AsyncExitStack() as held:
        for _ in range(DRIVER_POOL_SIZE):
            await held.enter_async_context(service.resources.database.driver_connection())
        answers = await asyncio.gather(
            stranger.get("/v1/events"),
            partner.get("/v1/installations"),
            partner.post("/v1/claims", json={"claim": "wrong", "owner": "acme"}),
        )

    assert [answer.status_code for answer in answers] == [401, 200, 404]
