"""Other subscriptions are told of a destination that goes down and comes back, once each; itself it is not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aircall_oauth.deliveries import telling
from aircall_oauth.deliveries.reader import breaker
from aircall_oauth.deliveries.reader.supervisor import reading
from tests.support.receivers import LOOPBACK, Partner, answer_with, fill, receiver, subscribe
from tests.support.service import Service, run_service, settings_for

URL = "https://example.com/hook"
BOTH = "subscription.*"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine, with an installation."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        await running.installed()
        yield running


async def told(service: Service, owner: str | None = None) -> list[dict[str, Any]]:
    """The events about subscriptions that an API key sees, in order."""
    partner = await service.partner(owner=owner)
    answer = await partner.get("/v1/events", params={"after": 0, "type": BOTH})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["events"])


async def set_health(service: Service, partner: Partner, health: str) -> None:
    await service.sql("UPDATE subscription SET health = $2, last_error = 'refused' WHERE id = $1", partner.id, health)
    await telling.tell_of_destinations(service.resources)


async def test_another_subscription_is_told_and_itself_is_not(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.2)
    async with receiver() as down, receiver() as other, reading(service.resources):
        down.answer = answer_with(503)
        partner = await subscribe(service, f"{down.url}?key=s3cret", name="crm")
        watching = await subscribe(service, other.url, types=[BOTH])
        await fill(service, 20)
        await partner.stands(health="down")
        for _ in range(3):
            await telling.tell_of_destinations(service.resources)
        await watching.stands(delivered_24h=0, lag=0)
        down.answer = answer_with(200)
        shown = await partner.stands(health="up", lag=0)
        await service.sql("UPDATE subscription SET told_at = now() - interval '6 minutes' WHERE id = $1", partner.id)
        for _ in range(3):
            await telling.tell_of_destinations(service.resources)
        await fill(service, 1, first=50)
        await partner.stands(position=shown["position"] + 2, lag=0)
        await watching.stands(position=shown["position"] + 2, lag=0)

    data = {
        "subscription_id": partner.id,
        "name": "crm",
        "kind": "http",
        "url": f"{down.url}?key=***",
        "status": "active",
        "reason": "http_503",
    }
    first, second = other.taken
    assert [(one["type"], one["data"]) for one in (first, second)] == [
        ("subscription.down", data),
        ("subscription.up", data | {"down_since": second["data"]["down_since"]}),
    ]
    assert second["data"]["down_since"] is not None
    assert (first["source"], first["installation_id"], first["company_id"]) == ("service", "ins_" + "0" * 32, 0)
    assert {event["type"] for event in down.taken} == {"call.created"}
    assert down.numbers[-1] == 50


async def test_a_subscription_gets_no_event_about_itself_from_the_log_or_a_replay(service: Service) -> None:
    async with receiver() as to:
        partner = await subscribe(service, to.url)
        await set_health(service, partner, "down")
        await set_health(service, partner, "up")
        (event,) = await told(service)
        waiting = await partner.shown()
        other = await subscribe(service, to.url, types=[BOTH], **{"from": "beginning"})
        window = {"from": 0, "to": event["position"], "everything": True, "dry_run": True}
        counted = [await one.post("replay", window) for one in (partner, other)]
        about = (await partner.client.get(f"/v1/events/{event['id']}")).json()
        async with reading(service.resources):
            await partner.stands(position=event["position"])
            await other.stands(position=event["position"])

    assert (waiting["lag"], waiting["oldest_undelivered_seconds"]) == (0, None)
    assert [one["subscription_id"] for one in about["deliveries"]] == [other.id]
    assert [one["type"] for one in to.taken] == ["subscription.down"]
    assert to.received[0].event["data"]["subscription_id"] == partner.id
    assert [one["events"] for one in counted] == [1, 1], "the installation's own event, and that one"


async def test_one_that_goes_up_and_down_all_the_time_is_told_of_seldom(service: Service) -> None:
    partner = await subscribe(service, URL)
    for _ in range(10):
        for health in ("down", "up"):
            await set_health(service, partner, health)
    assert [one["type"] for one in await told(service)] == ["subscription.down"]

    await service.sql("UPDATE subscription SET told_at = now() - interval '6 minutes'")
    for _ in range(10):
        for health in ("up", "down"):
            await set_health(service, partner, health)
    assert [one["type"] for one in await told(service)] == ["subscription.down", "subscription.up"]


async def test_workers_that_look_at_once_tell_it_once(service: Service) -> None:
    down = [await subscribe(service, URL) for _ in range(5)]
    await service.sql("UPDATE subscription SET health = 'down'")

    await asyncio.gather(*(telling.tell_of_destinations(service.resources) for _ in range(6)))

    assert sorted(one["data"]["subscription_id"] for one in await told(service)) == sorted(one.id for one in down)


async def test_an_owner_hears_of_its_own_subscriptions_only(service: Service) -> None:
    acme, globex = [await subscribe(service, URL, owner=owner) for owner in ("acme", "globex")]
    both = await subscribe(service, URL, owners=["acme", "globex"])
    everything = await subscribe(service, URL)
    for partner in (acme, globex, both, everything):
        await set_health(service, partner, "down")

    heard = {owner: [one["data"]["subscription_id"] for one in await told(service, owner)] for owner in ("acme", None)}

    assert heard == {"acme": [acme.id], None: [acme.id, globex.id, both.id, everything.id]}
    assert [one["owner"] for one in await told(service)] == ["acme", "globex", None, None]


async def test_one_that_wants_no_more_is_told_and_one_that_is_paused_is_not(service: Service) -> None:
    gone, paused = await subscribe(service, URL), await subscribe(service, URL)
    await service.sql("UPDATE subscription SET status = 'disabled', last_error = 'http_410' WHERE id = $1", gone.id)
    await service.sql("UPDATE subscription SET status = 'paused', health = 'down' WHERE id = $1", paused.id)

    await telling.tell_of_destinations(service.resources)
    down = await told(service)
    await gone.post("resume")
    await service.sql("UPDATE subscription SET told_at = now() - interval '6 minutes'")
    await telling.tell_of_destinations(service.resources)

    assert [(one["data"]["subscription_id"], one["data"]["status"]) for one in down] == [(gone.id, "disabled")]
    assert [one["type"] for one in await told(service)] == ["subscription.down", "subscription.up"]


async def test_a_clock_that_was_ahead_keeps_nothing_from_being_told(service: Service) -> None:
    partner = await subscribe(service, URL)
    await service.sql("UPDATE subscription SET told_at = now() + interval '30 days'")

    await set_health(service, partner, "down")

    assert len(await told(service)) == 1
