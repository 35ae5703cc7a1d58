"""A token that does not open (damaged, tampered with) is an alarm, and harms nobody but its own installation."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from aircall_oauth.errors import KeysUnfit, SealBroken
from aircall_oauth.installations import backfill, claims, gaps, leaving, revoke, uninstalls, upkeep
from aircall_oauth.models import GapReason
from aircall_oauth.resources import open_resources
from tests.fakes import Service, run_service, settings_for

DAMAGE = "token_sealed = left(token_sealed, -8) || 'AAAAAAAA'"
DUE = "UPDATE webhook SET due_at = now(), leased_until = NULL, checked_at = NULL"
SHORTLY = timedelta(seconds=5)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, RETURN_URLS="https://app.example.com/")) as it:
        yield it


async def installed(service: Service) -> tuple[str, str]:
    """Two installations; the first one's token does not open."""
    damaged, well = await service.install(70077), await service.install(70078)
    await service.sql(f"UPDATE installation SET {DAMAGE} WHERE id = $1", damaged)
    return damaged, well


async def statuses(service: Service) -> dict[str, str]:
    return {row["id"]: row["status"] for row in await service.sql("SELECT id, status FROM installation")}


async def test_the_webhooks_of_the_others_are_looked_at(service: Service) -> None:
    damaged, well = await installed(service)
    await service.sql(DUE)

    with pytest.raises(SealBroken):
        await upkeep.look_after_webhooks(service.resources)

    looked = {row["installation_id"]: row["checked_at"] for row in await service.sql("SELECT * FROM webhook")}
    assert looked[well] is not None
    assert looked[damaged] is None


async def test_the_gaps_of_the_others_are_filled(service: Service) -> None:
    damaged, well = await installed(service)
    since = datetime.now(UTC) - timedelta(hours=2)
    for installation_id in (damaged, well):
        async with service.resources.database.session() as session:
            await gaps.begin(session, installation_id, since=since, reason=GapReason.WEBHOOK_DISABLED)
            await gaps.end(session, installation_id)
    await service.sql("UPDATE gap SET due_at = now()")

    with pytest.raises(SealBroken):
        await backfill.fill_gaps(service.resources)

    filled = {row["installation_id"]: row["done_at"] for row in await service.sql("SELECT * FROM gap")}
    assert filled[well] is not None
    assert filled[damaged] is None


async def test_the_uninstalls_of_the_others_are_noticed(service: Service) -> None:
    damaged, well = await installed(service)
    for hook in service.aircall.webhooks.all:
        body = b'{"resource":"integration","event":"integration.deleted","timestamp":1767261600,"token":"%s","data":{}}'
        assert (await service.post_event(body % hook.token.encode())).status_code == 200
    for company_id in (70077, 70078):
        service.aircall.grants.revoke_company(company_id)

    await uninstalls.notice_uninstalls(service.resources)
    await uninstalls.look_at_uninstalls(service.resources)

    assert await statuses(service) == {damaged: "active", well: "removed"}
    assert [row["installation_id"] for row in await service.sql("SELECT * FROM uninstall")] == [damaged]


async def test_what_nobody_claimed_is_erased(service: Service) -> None:
    for company_id in (70077, 70078):
        await service.install_by_link("acme", company_id)
    await service.sql(f"UPDATE installation SET {DAMAGE} WHERE company_id = 70077")
    await service.sql("UPDATE claim SET expires_at = now()")

    await claims.expire(service.resources)

    assert set((await statuses(service)).values()) == {"removed"}
    switched_off = [company.id for company in service.aircall.companies if not company.integration.active]
    assert switched_off == [70078]


async def test_it_can_be_disconnected(service: Service) -> None:
    damaged, well = await installed(service)
    partner = await service.partner()

    answer = await partner.delete(f"/v1/installations/{damaged}")

    assert answer.status_code == 204
    assert await statuses(service) == {damaged: "removed", well: "active"}
    assert service.resources.vault.refusals == {"seal_broken": 1}


async def test_the_kill_switch_ends_all_and_says_where_it_could_do_no_more(service: Service) -> None:
    damaged, well = await installed(service)

    report = await revoke.revoke_all(service.resources, give_up_after=SHORTLY)

    assert await statuses(service) == {damaged: "removed", well: "removed"}
    assert [(left.installation_id, left.why) for left in report.refused] == [(damaged, "its token does not open")]
    assert (report.progress.ended, report.progress.farewells, report.progress.said) == (2, 1, 1)
    assert report.waiting == []


async def test_a_farewell_that_does_not_open_is_told_and_given_up(service: Service) -> None:
    damaged = await service.install(70077)
    service.aircall.break_next("GET webhooks", "error_500", times=5)
    assert (await (await service.partner()).delete(f"/v1/installations/{damaged}")).status_code == 204
    await service.sql(f"UPDATE farewell SET due_at = now(), {DAMAGE}")

    report = await revoke.revoke_all(service.resources, give_up_after=SHORTLY)
    await leaving.say_goodbyes(service.resources)

    assert [(left.installation_id, left.why) for left in report.refused] == [(damaged, "its token does not open")]
    assert await service.sql("SELECT * FROM farewell") == []


async def test_the_service_starts_all_the_same(service: Service) -> None:
    await service.install(70077)
    newest = await service.install(70078)
    await service.sql(f"UPDATE installation SET {DAMAGE} WHERE id = $1", newest)

    async with open_resources(service.settings) as started:
        await started.require_ready()


async def test_where_none_opens_it_does_not_start(service: Service) -> None:
    await installed(service)
    await service.sql(f"UPDATE installation SET {DAMAGE}")

    with pytest.raises(KeysUnfit):
        async with open_resources(service.settings):
            pass
