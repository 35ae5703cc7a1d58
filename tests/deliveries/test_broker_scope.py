"""Which API keys may make a broker a destination."""

from typing import Any

import pytest

from aircall_oauth.access.scopes import Scope
from tests.support.receivers import LOOPBACK, subscription_body
from tests.support.service import Service, run_service, settings_for

NATS = {"name": "x", "kind": "nats", "url": "nats://127.0.0.1:4222", "subject": "events"}
HTTP = subscription_body("https://203.0.114.7/hook", name="x")
WRITES = (Scope.SUBSCRIPTIONS_READ, Scope.SUBSCRIPTIONS_WRITE)


async def asked(service: Service, *scopes: Scope, owner: str | None) -> tuple[list[int], Any]:
    """Make an HTTP destination and a broker, and move a broker; returns the statuses and the last answer."""
    partner, everything = await service.partner(*scopes, owner=owner), await service.partner(owner=owner)
    made = (await everything.post("/v1/subscriptions", json=NATS)).json()["id"]
    answers = [
        await partner.post("/v1/subscriptions", json=HTTP),
        await partner.post("/v1/subscriptions", json=NATS),
        await partner.patch(f"/v1/subscriptions/{made}", json={"url": "nats://127.0.0.1:4223"}),
    ]
    return [answer.status_code for answer in answers], answers[-1].json()


@pytest.mark.parametrize(
    ("owner", "scopes", "codes"),
    [
        (None, WRITES, [201, 201, 200]),
        ("acme", WRITES, [201, 403, 403]),
        ("acme", (*WRITES, Scope.SUBSCRIPTIONS_BROKERS), [201, 201, 200]),
    ],
)
async def test_a_key_bound_to_an_owner_needs_a_scope_of_its_own_for_a_broker(
    database_url: str, owner: str | None, scopes: tuple[Scope, ...], codes: list[int]
) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service:
        found, last = await asked(service, *scopes, owner=owner)

    assert found == codes
    assert (last.get("code") == "scope_missing") is (403 in codes)


async def test_what_a_key_without_the_scope_finds_it_may_still_end(database_url: str) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service:
        everything, partner = await service.partner(owner="acme"), await service.partner(*WRITES, owner="acme")
        door = f"/v1/subscriptions/{(await everything.post('/v1/subscriptions', json=NATS)).json()['id']}"

        answers = [await partner.patch(door, json={"name": "y"}), await partner.delete(door)]

    assert [answer.status_code for answer in answers] == [200, 204]
