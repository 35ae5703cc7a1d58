"""What ends an installation without its owner's doing: a dead token, an uninstall at Aircall, a token gone foreign."""

import asyncio
from typing import Any

import pytest
import stamina
from sqlmodel import col, select

from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.disconnect import uninstalls
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.sandbox.aircall.companies import Integration
from aircall_oauth.storage.models.installations import Installation
from tests.support.processes import eventually
from tests.support.service import Service, until

COMPANY = 70077


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Any:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


async def status_of(service: Service, installation_id: str) -> str:
    (row,) = await service.sql("SELECT status FROM installation WHERE id = $1", installation_id)
    status: str = row["status"]
    return status


async def told(service: Service, type_: str) -> int:
    return len(await service.sql("SELECT * FROM event WHERE type = $1", type_))


async def uninstall_told(service: Service, token: str | None = None) -> None:
    """`integration.deleted` as Aircall sends it, to the webhook with this token."""
    event = b'{"resource":"integration","event":"integration.deleted","timestamp":1767261600,"token":"%s","data":%s}'
    data = b'{"integration_id":400123,"company_id":70077}'
    answer = await service.post_event(event % ((token or service.webhook_token()).encode(), data))
    assert answer.status_code == 200


async def look_now(service: Service) -> None:
    """Both chores, with what they wait for due."""
    await uninstalls.notice_uninstalls(service.resources)
    await service.sql("UPDATE uninstall SET due_at = now()")
    await uninstalls.confirm_uninstalls(service.resources)


async def test_a_token_that_a_look_finds_dead_makes_it_unauthorized(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.grants.revoke_company(COMPANY)

    dead = await tokens.suspect_token(service.resources, installation_id)

    assert (dead, await status_of(service, installation_id)) == (True, "unauthorized")
    assert await told(service, "installation.unauthorized") == 1
    answer = await (await service.partner()).get(f"/v1/installations/{installation_id}/token")
    assert (answer.status_code, answer.json()["code"]) == (409, "installation_not_active")


async def test_however_many_suspect_it_the_log_tells_it_once(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.grants.revoke_company(COMPANY)

    found = await asyncio.gather(*(tokens.suspect_token(service.resources, installation_id) for _ in range(10)))

    assert found == [True] * 10
    assert await told(service, "installation.unauthorized") == 1


async def test_a_token_that_a_look_finds_alive_stays(service: Service) -> None:
    installation_id = await service.installed()

    dead = await tokens.suspect_token(service.resources, installation_id)

    assert (dead, await status_of(service, installation_id)) == (False, "active")
    assert await told(service, "installation.unauthorized") == 0


async def test_aircall_away_is_no_proof(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.grants.revoke_company(COMPANY)
    service.aircall.break_next("integrations/me", "error_500", times=3)

    dead = await tokens.suspect_token(service.resources, installation_id)

    assert (dead, await status_of(service, installation_id)) == (False, "active")


@pytest.mark.parametrize("what", ["company", "integration"])
async def test_a_token_that_answers_for_another_is_not_used_any_further(service: Service, what: str) -> None:
    installation_id = await service.installed()
    if what == "company":
        service.aircall.grants.tokens[service.aircall.tokens_of()[0]].company_id = 70078
    else:
        service.aircall.companies[0].integration = Integration(400999, [55011])
    (before,) = await service.sql("SELECT * FROM installation")

    await tokens.refresh(service.resources, installation_id)

    (after,) = await service.sql("SELECT * FROM installation")
    assert dict(after) == dict(before) | {"status": "unauthorized"}
    (event,) = await service.sql("SELECT data FROM event WHERE type = 'installation.unauthorized'")
    assert event["data"] == '{"token":"foreign"}'


async def test_a_token_refused_twice_minutes_apart_is_dead_and_a_new_install_heals_it(
    service: Service,
) -> None:
    installation_id = await service.install()
    await service.sql("UPDATE installation SET owner = 'acme'")
    service.aircall.grants.revoke_company(COMPANY)
    service.aircall.webhooks.delete_company(COMPANY)
    await service.sql("UPDATE webhook SET due_at = now()")

    await schedule.reconcile_webhooks(service.resources)
    refused_once = await status_of(service, installation_id)
    (wait,) = await service.sql("SELECT extract(epoch FROM due_at - now()) AS seconds FROM webhook")
    await service.sql("UPDATE webhook SET due_at = now(), refused_at = refused_at - interval '2 minutes'")
    await schedule.reconcile_webhooks(service.resources)
    unauthorized = await status_of(service, installation_id)
    again = await service.install()

    (healed,) = await service.sql("SELECT id, status, owner FROM installation")
    assert (refused_once, unauthorized) == ("active", "unauthorized")
    assert 90 < wait["seconds"] < 300
    assert await told(service, "installation.unauthorized") == 1
    assert (again, "active", "acme") == (healed["id"], healed["status"], healed["owner"])
    assert again == installation_id
    assert len(service.aircall.webhooks.of(COMPANY)) == 1


async def test_webhooks_of_the_dead_do_not_hold_up_the_living(service: Service) -> None:
    """More dead installations than a batch takes, all due before the living one."""
    installation_id = await service.installed()
    await service.sql(
        "INSERT INTO installation (id, status, company_id, number_ids, connected_at) "
        "SELECT 'ins_' || n, 'removed', n, '{}', now() FROM generate_series(1, 50) n"
    )
    await service.sql(
        "INSERT INTO webhook (id, installation_id, status, due_at) "
        "SELECT 'whk_' || n, 'ins_' || n, 'pending', now() - interval '1 day' FROM generate_series(1, 50) n"
    )
    await service.sql(
        "UPDATE webhook SET status = 'pending', due_at = now() WHERE installation_id = $1", installation_id
    )

    await schedule.reconcile_webhooks(service.resources)

    (webhook,) = await service.sql("SELECT status FROM webhook WHERE installation_id = $1", installation_id)
    assert webhook["status"] == "active"


async def test_an_uninstall_that_a_look_confirms_ends_it(service: Service) -> None:
    installation_id = await service.installed()
    await uninstall_told(service)
    await service.aircall.uninstall()
    await service.aircall.settle()

    await look_now(service)

    (kept,) = await service.sql("SELECT status, token_sealed FROM installation WHERE id = $1", installation_id)
    assert tuple(kept) == ("removed", None)
    (webhook,) = await service.sql("SELECT status, token_fingerprint FROM webhook")
    assert tuple(webhook) == ("missing", None)
    (event,) = await service.sql("SELECT data FROM event WHERE type = 'installation.removed'")
    assert event["data"] == '{"reason":"uninstalled"}'
    assert await service.sql("SELECT * FROM uninstall") == []
    (line,) = await service.sql("SELECT actor, action FROM audit")
    assert tuple(line) == ("service", "installation.disconnected")


async def test_an_uninstall_told_late_does_not_end_a_fresh_installation(service: Service) -> None:
    installation_id = await service.install()
    await uninstall_told(service)
    service.aircall.grants.revoke_company(COMPANY)
    await service.install()

    for _ in range(5):
        await look_now(service)

    assert await status_of(service, installation_id) == "active"
    assert await told(service, "installation.removed") == 0
    assert await service.sql("SELECT * FROM uninstall") == []


async def test_an_uninstall_told_before_the_token_is_dead_is_not_lost(service: Service) -> None:
    installation_id = await service.installed()
    await uninstall_told(service)
    await look_now(service)
    still = await status_of(service, installation_id)
    (waiting,) = await service.sql("SELECT looks, due_at > now() AS later FROM uninstall")

    service.aircall.grants.revoke_company(COMPANY)
    await look_now(service)

    assert (still, tuple(waiting)) == ("active", (1, True))
    assert await status_of(service, installation_id) == "removed"


async def test_an_uninstall_is_believed_no_sooner_because_aircall_is_away(service: Service) -> None:
    installation_id = await service.installed()
    await uninstall_told(service)
    service.aircall.break_next("integrations/me", "error_500", times=3)

    await look_now(service)

    assert await status_of(service, installation_id) == "active"
    assert [row["looks"] for row in await service.sql("SELECT looks FROM uninstall")] == [0]


async def test_a_reinstall_during_the_look_is_not_ended_by_it(service: Service) -> None:
    installation_id = await service.install()
    await uninstall_told(service)
    service.aircall.grants.revoke_company(COMPANY)
    service.aircall.break_next("integrations/me", "slow", seconds=1.0)
    await uninstalls.notice_uninstalls(service.resources)

    looking = asyncio.create_task(uninstalls.confirm_uninstalls(service.resources))
    asked = len(service.aircall.requests)
    await until(lambda: len(service.aircall.requests) > asked)
    await service.install()
    await looking

    assert await status_of(service, installation_id) == "active"
    assert await told(service, "installation.removed") == 0


async def test_an_uninstall_noted_while_its_installation_is_removed_is_forgotten(service: Service) -> None:
    installation_id = await service.installed()
    await uninstall_told(service)

    async with service.resources.database.session() as session:
        locked = select(Installation).where(col(Installation.id) == installation_id).with_for_update()
        installation = (await session.exec(locked)).one()
        noting = asyncio.create_task(uninstalls.notice_uninstalls(service.resources))
        await eventually(lambda: service.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        await lifecycle.remove(session, installation, reason="disconnected")
    await noting
    noted = await service.sql("SELECT * FROM uninstall")
    await uninstalls.confirm_uninstalls(service.resources)

    assert len(noted) == 1
    assert await service.sql("SELECT * FROM uninstall") == []
    assert await told(service, "installation.removed") == 1


async def test_each_part_of_the_log_is_read_once_however_many_workers_read(service: Service) -> None:
    await service.installed()
    await uninstall_told(service)
    await asyncio.gather(*(uninstalls.notice_uninstalls(service.resources) for _ in range(5)))
    await service.sql("DELETE FROM uninstall")

    await asyncio.gather(*(uninstalls.notice_uninstalls(service.resources) for _ in range(5)))

    (reader,) = await service.sql("SELECT position, (SELECT max(position) FROM event) AS head FROM log_reader")
    assert reader["position"] == reader["head"]
    assert await service.sql("SELECT * FROM uninstall") == []


async def test_other_events_are_passed_over(service: Service) -> None:
    await service.installed()
    await service.aircall.place_call()
    await service.aircall.settle()

    await uninstalls.notice_uninstalls(service.resources)

    assert await service.sql("SELECT * FROM uninstall") == []
