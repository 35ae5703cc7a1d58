"""A partner's walk, from the first install link to the day the customer leaves: `docs/partners-walk.md`."""

import base64
from collections.abc import AsyncIterator

import pytest

from aircall_oauth.operations import rotation
from aircall_oauth.resources import open_resources
from tests.support.service import SECRET_KEY, Service, run_service, settings_for

OLD, NEW = f"k1:{SECRET_KEY}", "k2:" + base64.b64encode(b"n" * 32).decode()
HOME = "https://app.example.com/aircall/connected"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """Ready for a new key: it opens what is sealed under either."""
    async with run_service(settings_for(database_url, RETURN_URLS=HOME, SECRET_KEYS=f"{OLD},{NEW}")) as running:
        yield running


async def test_a_partner_links_claims_calls_rotates_and_disconnects(service: Service, database_url: str) -> None:
    partner = await service.partner()

    claim = await service.install_by_link("acme")
    (waiting,) = (await partner.get("/v1/installations")).json()["items"]
    door = f"/v1/installations/{waiting['id']}"
    assert (waiting["status"], waiting["owner"]) == ("unclaimed", None)
    assert (await partner.get(f"{door}/aircall/ping")).status_code == 409

    claimed = (await service.claim(claim, "acme", partner)).json()
    assert (claimed["id"], claimed["status"], claimed["owner"]) == (waiting["id"], "active", "acme")
    assert (await partner.get(f"{door}/aircall/ping")).json() == {"ping": "pong"}
    assert (await partner.get(door)).json()["webhook"]["status"] == "active"

    async with open_resources(settings_for(database_url, SECRET_KEYS=f"{NEW},{OLD}")) as resources:
        sealed_anew = await rotation.rotate(resources, lambda _progress: None)
        in_use = await rotation.keys_in_use(resources)
    assert (sealed_anew.done, in_use) == (1, {"k2": 1})
    assert (await partner.get(f"{door}/aircall/ping")).json() == {"ping": "pong"}

    assert (await partner.delete(door)).status_code == 204
    left = (await partner.get(door)).json()
    assert (left["status"], left["owner"]) == ("removed", "acme")
    assert (await partner.get(f"{door}/token")).status_code == 409
    assert (await partner.get(f"{door}/aircall/ping")).status_code == 409
    assert service.aircall.webhooks.of(service.aircall.companies[0].id) == []
    told = [event["type"] for event in (await partner.get("/v1/events")).json()["events"]]
    assert told == ["installation.connected", "installation.claimed", "installation.removed"]
