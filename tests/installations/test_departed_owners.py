"""Ownership ends with the installation: the next install of the same company starts without an owner."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from aircall_oauth.installations.disconnect import revoke_all, uninstalls
from aircall_oauth.installations.oauth import claims
from tests.support.service import Service, command_environment, run_command, run_service, settings_for

HOME = "https://app.example.com/aircall/connected"
COMPANY = 70077

Departure = Callable[[Service, str, httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, RETURN_URLS=HOME)) as running:
        yield running


async def by_the_api(service: Service, installation_id: str, alice: httpx.AsyncClient) -> None:
    assert (await alice.delete(f"/v1/installations/{installation_id}")).status_code == 204


async def by_the_command_line(service: Service, installation_id: str, alice: httpx.AsyncClient) -> None:
    environment = command_environment(service.settings.database_url.get_secret_value())
    ended = await run_command("installations", "disconnect", installation_id, "--yes", environment=environment)
    assert ended.exit_code == 0


async def by_the_kill_switch(service: Service, installation_id: str, alice: httpx.AsyncClient) -> None:
    await revoke_all.revoke_all(service.resources, give_up_after=timedelta(seconds=10))


async def at_aircall(service: Service, installation_id: str, alice: httpx.AsyncClient) -> None:
    service.aircall.grants.revoke_company(COMPANY)
    await service.sql("INSERT INTO uninstall (installation_id, due_at) VALUES ($1, now())", installation_id)
    await uninstalls.confirm_uninstalls(service.resources)


DEPARTURES = [by_the_api, by_the_command_line, by_the_kill_switch, at_aircall]
departing = pytest.mark.parametrize("depart", DEPARTURES, ids=lambda depart: depart.__name__)


async def of_alice(service: Service) -> tuple[str, httpx.AsyncClient]:
    """An installation that alice claimed, and a key bound to alice."""
    claimed = await service.claim(await service.install_by_link("alice"), "alice")
    return claimed.json()["id"], await service.partner(owner="alice")


async def row(service: Service) -> dict[str, Any]:
    (only,) = await service.sql("SELECT id, status, owner FROM installation")
    return dict(only)


@pytest.mark.slow
@departing
async def test_an_install_from_the_dashboard_after_a_departure_has_no_owner(
    service: Service, depart: Departure
) -> None:
    installation_id, alice = await of_alice(service)
    await depart(service, installation_id, alice)
    last_seen = (await alice.get(f"/v1/installations/{installation_id}")).json()

    again = await service.install()
    shown, token = await asyncio.gather(
        alice.get(f"/v1/installations/{again}"), alice.get(f"/v1/installations/{again}/token")
    )
    of_bob = await service.claim(await service.install_by_link("bob"), "bob")

    assert (last_seen["status"], last_seen["owner"]) == ("removed", "alice"), "its last owner may see that it ended"
    assert (shown.status_code, token.status_code) == (404, 404)
    assert (of_bob.status_code, of_bob.json()["owner"], of_bob.json()["status"]) == (200, "bob", "active")
    told = await service.sql("SELECT type, owner FROM event ORDER BY position")
    assert [tuple(event) for event in told] == [
        ("installation.connected", "alice"),
        ("installation.claimed", "alice"),
        ("installation.removed", "alice"),
        ("installation.connected", None),
        ("installation.connected", "bob"),
        ("installation.claimed", "bob"),
    ]


@pytest.mark.slow
@departing
async def test_another_owners_link_needs_nothing_of_a_departed_one(service: Service, depart: Departure) -> None:
    installation_id, alice = await of_alice(service)
    await depart(service, installation_id, alice)

    claim = await service.install_by_link("bob")
    waiting = await row(service)
    answer = await service.claim(claim, "bob")

    assert (waiting["status"], waiting["owner"]) == ("unclaimed", None)
    assert (answer.status_code, answer.json()["owner"]) == (200, "bob")


async def test_a_link_that_lapses_after_a_departure_leaves_nothing_to_the_departed_owner(service: Service) -> None:
    installation_id, alice = await of_alice(service)
    await by_the_api(service, installation_id, alice)
    await service.install_by_link("bob")
    await service.sql("UPDATE claim SET expires_at = now()")

    await claims.expire(service.resources)
    await service.install()

    assert (await row(service))["owner"] is None


async def test_an_owner_whose_token_died_keeps_the_installation_through_a_new_install(service: Service) -> None:
    installation_id, _ = await of_alice(service)
    await service.sql("UPDATE installation SET status = 'unauthorized'")

    await service.install()

    assert await row(service) == {"id": installation_id, "status": "active", "owner": "alice"}
