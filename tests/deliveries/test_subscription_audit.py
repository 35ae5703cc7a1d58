"""Every act on a subscription has a row in the audit: who did what, from what to what, and never a secret."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.receivers import LOOPBACK, answer_with, receiver, subscribe, tell
from tests.support.service import Service, command_environment, run_command, run_service, settings_for

HIDDEN = "hunter2"
ACTS = ["subscription.*", "replay.*", "event.*"]


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine, with an installation."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        await running.installed()
        yield running


async def told(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """The audit's rows of acts on subscriptions, oldest first."""
    answer = await client.get("/v1/audit", params={"action": ACTS, **query})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["items"][::-1]
    return rows


async def test_each_act_is_a_row_with_its_actor_its_owner_and_what_it_changed(service: Service) -> None:
    async with receiver() as to:
        url = f"{to.url}?key={HIDDEN}"
        partner = await subscribe(service, url, owner="acme", name="crm", types=["call.*"])
        change = {"types": ["call.ended", "user.*"], "name": "crm", "url": f"{to.url}?key={HIDDEN}2"}
        assert (await partner.client.patch(f"/v1/subscriptions/{partner.id}", json=change)).status_code == 200
        await partner.client.patch(f"/v1/subscriptions/{partner.id}", json={"name": "crm"})
        await partner.post("pause")
        await partner.post("resume")
        fresh = (await partner.post("rotate-secret", {"now": True}))["secret"]
        await partner.post("dead/retry")
        await partner.post("test")
        await partner.post("replay", {"position": 0})
        window = {"from": 1, "to": 100, "types": ["call.*"], "per_second": 7}
        started = (await partner.client.post(f"/v1/subscriptions/{partner.id}/replay", json=window)).json()
        for _ in range(2):
            await partner.post(f"replays/{started['id']}/stop")
        await partner.client.delete(f"/v1/subscriptions/{partner.id}")
        rows = await told(partner.client, subscription_id=partner.id)

    actions = [row["action"] for row in rows]
    assert actions == [
        *("subscription.created", "subscription.changed", "subscription.paused", "subscription.resumed"),
        *("subscription.secret_rotated", "subscription.dead_retried"),
        *("subscription.tested", "subscription.moved"),
        *("replay.started", "replay.stopped", "subscription.deleted"),
    ]
    assert {(row["owner"], row["outcome"], row["actor_name"], row["address"]) for row in rows} == {
        ("acme", "done", "test", "127.0.0.1")
    }
    details = {row["action"]: row["details"] for row in rows}
    hidden = f"{to.url}?key=***"
    assert details["subscription.created"].items() >= {"name": "crm", "url": hidden, "types": ["call.*"]}.items()
    assert details["subscription.changed"] == {
        "types": {"from": ["call.*"], "to": ["call.ended", "user.*"]},
        "url": {"from": hidden, "to": hidden},
    }
    assert details["subscription.paused"] == {"status": {"from": "active", "to": "paused"}}
    assert details["subscription.resumed"] == {"status": {"from": "paused", "to": "active"}}
    assert details["subscription.dead_retried"] == {"retried": 0}
    assert details["subscription.tested"] == {"outcome": "delivered"}
    assert details["subscription.moved"]["position"]["to"] == 0
    assert details["replay.started"].items() >= {"replay_id": started["id"], "events": 0, "per_second": 7}.items()
    assert details["replay.stopped"].items() >= {"replay_id": started["id"], "delivered": 0, "events": 0}.items()
    assert details["subscription.deleted"]["name"] == "crm"
    said = json.dumps(rows)
    assert not [secret for secret in (HIDDEN, partner.secret, fresh) if secret is None or secret in said]


async def test_an_act_that_was_refused_has_no_row(service: Service) -> None:
    partner = await subscribe(service, "https://203.0.114.7/hook")
    await told(partner.client)
    nowhere = "sub_" + "0" * 32

    for door in ("pause", "resume", "rotate-secret", "dead/retry"):
        assert (await partner.client.post(f"/v1/subscriptions/{nowhere}/{door}")).status_code == 404
    assert (await partner.client.delete(f"/v1/subscriptions/{nowhere}")).status_code == 404
    await partner.client.patch(f"/v1/subscriptions/{partner.id}", json={"url": "http://169.254.169.254/"})
    await partner.client.post(f"/v1/subscriptions/{partner.id}/replay", json={"position": 10**9})

    assert [row["action"] for row in await told(partner.client)] == ["subscription.created"]


@pytest.mark.slow
async def test_a_resent_event_is_told_with_what_came_of_it_by_an_operator_too(service: Service) -> None:
    environment = command_environment(service.settings.database_url.get_secret_value(), ALLOWED_PRIVATE_RANGES=LOOPBACK)
    async with receiver() as to:
        partner = await subscribe(service, to.url)
        await tell(service, 1)
        (event,) = await service.sql("SELECT id, installation_id FROM event WHERE type = 'call.created'")
        body = {"subscription_id": partner.id}
        assert (await partner.client.post(f"/v1/events/{event['id']}/resend", json=body)).status_code == 200
        to.answer = answer_with(500)
        await run_command("events", "resend", event["id"], "--to", partner.id, environment=environment)

    delivered, refused = await told(partner.client, action="event.resent")

    assert (delivered["outcome"], delivered["actor_name"]) == ("done", "test")
    assert (refused["outcome"], refused["actor"]) == ("failed", "operator")
    assert delivered["details"] == {"event_id": event["id"], "outcome": "delivered"}
    assert refused["details"] == {"event_id": event["id"], "outcome": "http_500"}
    assert delivered["installation_id"] == event["installation_id"]


async def test_a_subscription_that_goes_to_another_owner_names_neither_to_the_other(service: Service) -> None:
    partner = await subscribe(service, "https://203.0.114.7/hook", owners=["acme"])
    await partner.client.patch(f"/v1/subscriptions/{partner.id}", json={"owners": ["globex"]})

    acme, globex = [await service.partner(owner=owner) for owner in ("acme", "globex")]

    assert [row["action"] for row in await told(acme)] == ["subscription.created"]
    assert await told(globex) == []
    (moved,) = await told(partner.client, action="subscription.changed")
    assert (moved["owner"], moved["details"]) == (None, {"owners": {"from": ["acme"], "to": ["globex"]}})


async def test_a_long_filter_makes_no_long_row_and_what_changed_in_it_is_told(service: Service) -> None:
    types = [f"call.{'x' * 200}{number}" for number in range(100)]
    partner = await subscribe(service, "https://203.0.114.7/hook", types=types)
    await partner.client.patch(f"/v1/subscriptions/{partner.id}", json={"types": [*types[1:], "user.*"]})

    created, changed = await told(partner.client)

    assert created["details"]["types"] == [*types[:20], "and 80 more"]
    assert changed["details"]["types"] == {"from": 100, "to": 100, "added": ["user.*"], "removed": [types[0]]}
