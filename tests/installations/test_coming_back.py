"""A customer comes back during a farewell: what is active here is on at Aircall in the end."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import stamina
from pydantic import SecretStr

from aircall_oauth.installations.oauth import claims
from aircall_oauth.installations.upkeep import retired as retiring
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.server.worker import CHORES
from tests.support.scenes import A_WHILE_LATER, COMPANY, another, ours
from tests.support.service import Service, run_service, settings_for, until

HOME = "https://app.example.com/aircall/connected"


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, RETURN_URLS=HOME)) as running:
        yield running


def was_asked(service: Service, method: str, path: str) -> bool:
    return any((request.method, request.path) == (method, path) for request in service.aircall.requests)


def is_on(service: Service) -> bool:
    on: bool = service.aircall.companies[0].integration.active
    return on


async def status(service: Service) -> str:
    (row,) = await service.sql("SELECT status FROM installation")
    found: str = row["status"]
    return found


async def a_while_later(service: Service) -> None:
    """Time goes by for everything that waits for its moment, and a worker does all of its chores."""
    for statement in A_WHILE_LATER.split(";"):
        if statement.strip():
            await service.sql(statement)
    for chore in CHORES:
        await chore.work(service.resources)


async def a_lapsed_claim(service: Service) -> None:
    await service.install_by_link("acme")
    await service.sql("UPDATE claim SET expires_at = now()")


class Held:
    """Holds back what tells Aircall to switch off, until it may go on."""

    def __init__(self, service: Service) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self._disable = service.resources.aircall.disable_integration
        service.resources.aircall.disable_integration = self._held  # type: ignore[method-assign]

    async def _held(self, token: SecretStr) -> None:
        self.reached.set()
        await self.go_on.wait()
        await self._disable(token)


async def cut_off(task: asyncio.Task[None]) -> None:
    """The process is gone; what it asked of Aircall may still arrive."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_who_claims_while_the_unclaimed_lapses_is_on_in_the_end(service: Service) -> None:
    await a_lapsed_claim(service)
    held = Held(service)
    lapsing = asyncio.create_task(claims.expire(service.resources))
    await held.reached.wait()

    answer = await service.claim(await service.install_by_link("acme"), "acme")
    held.go_on.set()
    await lapsing

    assert (answer.status_code, await status(service)) == (200, "active")
    assert is_on(service)


async def test_who_claims_while_the_unclaimed_lapses_is_on_though_the_worker_dies(service: Service) -> None:
    await a_lapsed_claim(service)
    held = Held(service)
    lapsing = asyncio.create_task(claims.expire(service.resources))
    await held.reached.wait()
    await service.claim(await service.install_by_link("acme"), "acme")

    await cut_off(lapsing)
    service.aircall.companies[0].integration.active = False
    await a_while_later(service)

    assert (await status(service), is_on(service)) == ("active", True)


async def test_who_comes_back_within_a_goodbye_is_on_though_the_process_dies(service: Service) -> None:
    installation_id = await service.install()
    partner = await service.partner()
    held = Held(service)

    async def leave() -> None:
        await partner.delete(f"/v1/installations/{installation_id}")

    leaving = asyncio.create_task(leave())
    await held.reached.wait()
    await service.install()
    await cut_off(leaving)
    service.aircall.companies[0].integration.active = False
    await a_while_later(service)

    assert (await status(service), is_on(service)) == ("active", True)


async def test_who_comes_back_while_aircall_does_not_switch_on_is_on_later(service: Service) -> None:
    installation_id = await service.install()
    partner = await service.partner()
    assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204
    service.aircall.break_next("integrations/enable", "error_500", times=2)

    await service.install()
    off = is_on(service)
    await a_while_later(service)
    await a_while_later(service)

    assert (off, is_on(service)) == (False, True)


async def test_what_its_admin_switches_off_at_aircall_stays_off(service: Service) -> None:
    await service.install()
    await a_while_later(service)

    service.aircall.companies[0].integration.active = False
    await a_while_later(service)

    assert (await status(service), is_on(service)) == ("active", False)


@pytest.mark.slow
async def test_a_retired_webhook_that_was_taken_into_use_while_it_was_deleted_is_made_anew(service: Service) -> None:
    """Its installation ended meanwhile and came back, and found that very webhook."""
    installation_id = await service.install()
    retired = another(service)
    known = [hook for hook in service.aircall.webhooks.of(COMPANY) if hook is not retired]
    retire = "INSERT INTO retired_webhook (webhook_id, installation_id, due_at) VALUES ($1, $2, now())"
    await service.sql(retire, retired.webhook_id, installation_id)
    service.aircall.break_next("DELETE webhooks", "slow", seconds=12.0)
    deleting = asyncio.create_task(retiring.delete_retired(service.resources))
    await until(lambda: was_asked(service, "DELETE", f"/v1/webhooks/{retired.webhook_id}"))
    service.aircall.break_next("all", "error_500", times=3)
    partner = await service.partner()
    await partner.delete(f"/v1/installations/{installation_id}")
    service.aircall.heal()
    for hook in known:
        service.aircall.webhooks.delete(COMPANY, hook.webhook_id)

    await service.install()
    (taken,) = await service.sql("SELECT webhook_id FROM webhook")
    await deleting
    await schedule.reconcile_webhooks(service.resources)

    (kept,) = await service.sql("SELECT status, webhook_id FROM webhook")
    assert taken["webhook_id"] == retired.webhook_id
    assert tuple(kept) == ("active", ours(service).webhook_id)
