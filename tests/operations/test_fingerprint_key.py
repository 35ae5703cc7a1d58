"""A new fingerprint key beside the old one: API keys and webhooks stay known, and get fingerprints of the new key."""

import base64
import json

import pytest

from aircall_oauth.errors import KeysUnfit
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.operations import rotation
from aircall_oauth.resources import open_resources, vault_of
from tests.support.service import FINGERPRINT_KEY, Service, settings_for

NEW = base64.b64encode(b"g" * 32).decode()
MAKE_DUE = "UPDATE webhook SET due_at = now(), leased_until = NULL"
FINGERPRINTS = "SELECT fingerprint FROM api_key UNION ALL SELECT token_fingerprint FROM webhook ORDER BY 1"


def with_keys(service: Service, keys: str) -> None:
    """As if the service had been started again with these fingerprint keys, over the same Aircall."""
    settings = settings_for(service.settings.database_url.get_secret_value(), FINGERPRINT_KEY=keys)
    service.resources.vault = vault_of(settings)


async def told(service: Service, number: int, size: int = 1) -> int:
    data = {"id": number, "text": "x" * size}
    body = {"event": "call.created", "token": service.webhook_token(), "data": data}
    return (await service.post_event(json.dumps(body).encode())).status_code


async def starts_with(service: Service, keys: str) -> None:
    settings = settings_for(service.settings.database_url.get_secret_value(), FINGERPRINT_KEY=keys)
    async with open_resources(settings) as resources:
        await resources.require_ready()


async def test_what_is_known_by_the_old_key_gets_fingerprints_of_the_new_one(service: Service) -> None:
    await service.installed()
    partner, unused = await service.partner(), await service.partner()
    before = {row["fingerprint"] for row in await service.sql(FINGERPRINTS)}

    with_keys(service, f"{NEW},{FINGERPRINT_KEY}")
    known = [
        (await partner.get("/v1/installations")).status_code,
        await told(service, 1),
        await told(service, 2, 70_000),
    ]
    with pytest.raises(KeysUnfit):
        await starts_with(service, NEW)
    await starts_with(service, f"{NEW},{FINGERPRINT_KEY}")
    rotated = await rotation.rotate(service.resources, lambda _progress: None)
    again = await rotation.rotate(service.resources, lambda _progress: None)
    await service.sql(MAKE_DUE)
    asked_before = len(service.aircall.requests)
    await schedule.reconcile_webhooks(service.resources)
    asked = {request.method for request in service.aircall.requests[asked_before:]}

    with_keys(service, NEW)
    after = [
        (await partner.get("/v1/installations")).status_code,
        await told(service, 3),
        await told(service, 4, 70_000),
    ]
    left = (await unused.get("/v1/installations")).status_code
    await starts_with(service, NEW)

    assert known == after == [200, 200, 200]
    assert (rotated.fingerprints, again.fingerprints) == (1, 0)
    # The webhook is the same; Aircall was asked for its token, and for no change.
    assert asked == {"GET"}
    # An API key that was not used meanwhile is known by the old key only.
    assert left == 401
    assert len({row["fingerprint"] for row in await service.sql(FINGERPRINTS)} & before) == 1
    events = (await partner.get("/v1/events")).json()["events"]
    assert [1, 2, 3, 4] == [each["data"]["id"] for each in events if each["type"] == "call.created"]


async def test_a_stranger_is_known_by_neither_key(service: Service) -> None:
    await service.installed()
    with_keys(service, f"{NEW},{FINGERPRINT_KEY}")
    stranger = service.new_browser()
    stranger.headers["authorization"] = "Bearer aok_nobody"
    body = {"event": "call.created", "token": "of-nobody", "data": {}}

    assert (await stranger.get("/v1/installations")).status_code == 401
    assert (await service.post_event(json.dumps(body).encode())).status_code == 401
