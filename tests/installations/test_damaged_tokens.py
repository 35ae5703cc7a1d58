"""A token that does not open holds up no other installation, and its own can still be ended and mended."""

from datetime import timedelta

import pytest

from aircall_oauth.errors import KeysUnfit
from aircall_oauth.installations.disconnect import revoke_all, uninstalls
from aircall_oauth.installations.oauth import claims
from aircall_oauth.installations.outages import backfill, gaps
from aircall_oauth.installations.upkeep import retired, schedule
from aircall_oauth.resources import open_resources
from aircall_oauth.storage.statuses import GapReason
from tests.support.service import Service, run_service, settings_for

COMPANIES = (70077, 70078, 70079)


async def damaged_and_well(service: Service) -> tuple[str, list[str]]:
    """Some installations; the token of one, which comes first everywhere, was tampered with."""
    damaged, *well = [await service.install(company) for company in COMPANIES]
    await damage(service, "installation", damaged)
    return damaged, well


async def damage(service: Service, table: str, row_id: str) -> None:
    await service.sql(f"UPDATE {table} SET token_sealed = left(token_sealed, -4) || 'AAAA' WHERE id = $1", row_id)


async def test_the_webhooks_of_the_others_are_looked_after(service: Service) -> None:
    damaged, well = await damaged_and_well(service)
    await service.sql(
        "UPDATE webhook SET checked_at = NULL, due_at = now() - (installation_id = $1)::int * '1 h'::interval", damaged
    )

    await schedule.reconcile_webhooks(service.resources)

    looked_at = await service.sql("SELECT installation_id FROM webhook WHERE checked_at IS NOT NULL ORDER BY 1")
    (put_off,) = await service.sql("SELECT * FROM webhook WHERE checked_at IS NULL AND due_at > now()")
    assert [row["installation_id"] for row in looked_at] == well
    assert (put_off["installation_id"], put_off["leased_until"]) == (damaged, None)
    assert "sealed secret" in put_off["last_error"]


async def test_the_gaps_of_the_others_are_filled(service: Service) -> None:
    damaged, well = await damaged_and_well(service)
    async with service.resources.database.session() as session:
        for installation_id in (damaged, *well):
            await gaps.begin(session, installation_id, reason=GapReason.WEBHOOK_DISABLED)
            await gaps.end(session, installation_id)
    await service.sql("UPDATE gap SET due_at = now() - (installation_id = $1)::int * '1 h'::interval", damaged)

    await backfill.fill_gaps(service.resources)

    rows = await service.sql(
        "SELECT installation_id, done_at IS NOT NULL AS done, due_at > now() AS later FROM gap ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [(damaged, False, True), *((one, True, None) for one in well)]


async def test_the_retired_webhooks_of_the_others_are_deleted(service: Service) -> None:
    damaged, well = await damaged_and_well(service)
    await service.sql(
        "INSERT INTO retired_webhook (webhook_id, installation_id, due_at) "
        "SELECT webhook_id, installation_id, now() - (installation_id = $1)::int * '1 h'::interval FROM webhook",
        damaged,
    )

    await retired.delete_retired(service.resources)

    rows = await service.sql("SELECT installation_id FROM retired_webhook WHERE deleted_at IS NOT NULL ORDER BY 1")
    assert [row["installation_id"] for row in rows] == well


@pytest.mark.slow
async def test_goodbye_is_said_to_the_others(service: Service) -> None:
    partner = await service.partner()
    installation_ids = [await service.install(company) for company in COMPANIES]
    service.aircall.break_next("all", "drop_request", times=100)
    for installation_id in installation_ids:
        assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204
    service.aircall.heal()
    (damaged, *_) = await service.sql("SELECT id FROM farewell ORDER BY id")
    await damage(service, "farewell", damaged["id"])
    await service.sql("UPDATE farewell SET due_at = now() - (id = $1)::int * '1 h'::interval", damaged["id"])
    await service.sql("DELETE FROM budget")

    report = await revoke_all.revoke_all(service.resources, give_up_after=timedelta(seconds=30))

    assert [(left.company_id, left.why) for left in report.refused] == [(COMPANIES[0], "its token does not open")]
    assert await service.sql("SELECT 1 FROM farewell") == []
    assert [company.integration.active for company in service.aircall.companies] == [True, False, False]


async def test_the_uninstalls_of_the_others_are_found_out(service: Service) -> None:
    damaged, well = await damaged_and_well(service)
    for company in COMPANIES:
        await service.aircall.uninstall(company)
    await service.aircall.settle()

    await uninstalls.notice_uninstalls(service.resources)
    await uninstalls.confirm_uninstalls(service.resources)

    rows = await service.sql("SELECT id FROM installation WHERE status = 'removed' ORDER BY id")
    assert [row["id"] for row in rows] == well
    assert [row["installation_id"] for row in await service.sql("SELECT * FROM uninstall")] == [damaged]


async def test_what_nobody_claimed_is_erased(database_url: str) -> None:
    async with run_service(settings_for(database_url, CLAIM="required")) as service:
        await damaged_and_well(service)
        await service.sql("UPDATE claim SET expires_at = now()")

        await claims.expire(service.resources)

        assert await service.sql("SELECT 1 FROM installation WHERE token_sealed IS NOT NULL") == []
        assert [company.integration.active for company in service.aircall.companies] == [True, False, False]


async def test_it_can_be_disconnected(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    damaged, _ = await damaged_and_well(service)
    partner = await service.partner()

    answer = await partner.delete(f"/v1/installations/{damaged}")
    shown = (await partner.get(f"/v1/installations/{damaged}")).json()

    assert (answer.status_code, shown["status"]) == (204, "removed")
    assert await service.sql("SELECT 1 FROM farewell") == []
    alarms = [said.msg for said in caplog.records if isinstance(said.msg, dict) and said.msg.get("alarm")]
    assert [alarm["reason"] for alarm in alarms] == ["seal_broken"]
    assert service.resources.metrics.registry.get_sample_value("aircall_oauth_seal_refusals_total") == 1


async def test_everything_can_be_revoked_and_what_is_left_at_aircall_is_told(service: Service) -> None:
    damaged, _ = await damaged_and_well(service)

    report = await revoke_all.revoke_all(service.resources, give_up_after=timedelta(seconds=30))

    (left,) = report.refused
    assert (left.installation_id, left.why) == (damaged, "its token does not open")
    assert (report.progress.ended, report.progress.said, report.progress.farewells) == (3, 2, 2)
    assert await service.sql("SELECT 1 FROM installation WHERE status <> 'removed'") == []


async def test_a_new_install_mends_it(service: Service) -> None:
    damaged, _ = await damaged_and_well(service)

    assert await service.install(COMPANIES[0]) == damaged

    await service.sql("UPDATE webhook SET checked_at = NULL, due_at = now()")
    await schedule.reconcile_webhooks(service.resources)
    assert await service.sql("SELECT 1 FROM webhook WHERE checked_at IS NULL") == []


async def test_the_service_starts_all_the_same(service: Service) -> None:
    *_, newest = [await service.install(company) for company in COMPANIES]
    await damage(service, "installation", newest)

    async with open_resources(service.settings) as started:
        await started.require_ready()


async def test_where_none_opens_it_does_not_start(service: Service) -> None:
    await damage(service, "installation", await service.install())

    with pytest.raises(KeysUnfit):
        async with open_resources(service.settings):
            pass
