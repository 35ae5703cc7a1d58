"""A customer disconnects: removed at once here, undone at Aircall once it answers, without loss to other customers."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.installations.disconnect import farewell
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.sandbox.aircall.companies import Integration
from aircall_oauth.sandbox.aircall.faults import How
from tests.support.service import Service, command_environment, run_command, until

COMPANY = 70077
MAKE_DUE = "UPDATE farewell SET due_at = now()"


async def the_installation(service: Service) -> dict[str, Any]:
    (row,) = await service.sql("SELECT * FROM installation")
    return dict(row)


async def disconnect(service: Service, installation_id: str, *, owner: str | None = None) -> int:
    partner = await service.partner(Scope.INSTALLATIONS_WRITE, owner=owner)
    return (await partner.delete(f"/v1/installations/{installation_id}")).status_code


async def removals(service: Service) -> list[Any]:
    return await service.sql("SELECT data FROM event WHERE type = 'installation.removed'")


def asked(service: Service) -> list[str]:
    return [f"{request.method} {request.path}" for request in service.aircall.requests]


@pytest.mark.slow
async def test_who_disconnects_leaves_nothing_behind(service: Service) -> None:
    installation_id = await service.installed()
    (hook,) = service.aircall.webhooks.of(COMPANY)

    status = await disconnect(service, installation_id)

    kept = await the_installation(service)
    assert (status, kept["status"], kept["token_sealed"], kept["token_fingerprint"]) == (204, "removed", None, None)
    assert service.aircall.webhooks.of(COMPANY) == []
    assert service.aircall.companies[0].integration.active is False
    assert await service.sql("SELECT * FROM farewell") == []
    (webhook,) = await service.sql("SELECT status, webhook_id, token_fingerprint, due_at FROM webhook")
    assert tuple(webhook) == ("missing", None, None, None)
    assert [row["data"] for row in await removals(service)] == ['{"reason":"disconnected"}']
    (line,) = await service.sql("SELECT action, outcome FROM audit WHERE action NOT LIKE 'api_key.%'")
    assert tuple(line) == ("installation.disconnected", "done")
    event = b'{"resource":"call","event":"call.created","timestamp":1,"token":"%s","data":{}}' % hook.token.encode()
    assert (await service.post_event(event)).status_code == 401
    token = await (await service.partner()).get(f"/v1/installations/{installation_id}/token")
    assert token.status_code == 409


async def test_disconnecting_twice_is_as_good_as_once(service: Service) -> None:
    installation_id = await service.installed()

    statuses = [await disconnect(service, installation_id) for _ in range(2)]
    at_once = await asyncio.gather(*(disconnect(service, installation_id) for _ in range(5)))

    assert [*statuses, *at_once] == [204] * 7
    assert len(await removals(service)) == 1
    assert asked(service).count("POST /v1/integrations/disable") == 1


async def test_many_at_once_disconnect_once(service: Service) -> None:
    installation_id = await service.installed()

    statuses = await asyncio.gather(*(disconnect(service, installation_id) for _ in range(8)))

    assert statuses == [204] * 8
    assert len(await removals(service)) == 1
    assert asked(service).count("POST /v1/integrations/disable") == 1


async def test_only_who_sees_an_installation_may_disconnect_it(service: Service) -> None:
    installation_id = await service.installed()
    await service.sql("UPDATE installation SET owner = 'acme'")

    assert await disconnect(service, installation_id, owner="globex") == 404
    assert (await the_installation(service))["status"] == "active"
    assert await disconnect(service, installation_id, owner="acme") == 204


async def test_a_webhook_that_is_gone_already_is_done(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.webhooks.delete_company(COMPANY)

    assert await disconnect(service, installation_id) == 204

    assert "POST /v1/integrations/disable" in asked(service)
    assert await service.sql("SELECT * FROM farewell") == []


@pytest.mark.parametrize("how", ["error_500", "html", "drop_reply", "status_429"])
async def test_where_aircall_is_away_it_is_removed_here_and_the_worker_finishes_the_rest(
    service: Service, how: How
) -> None:
    installation_id = await service.installed()
    service.aircall.break_next("all", how, times=3)

    status = await disconnect(service, installation_id)
    service.aircall.heal()
    (waiting,) = await service.sql("SELECT due_at - now() AS due_in, attempts, last_error, token_sealed FROM farewell")
    await farewell.finish_farewells(service.resources)
    too_early = len(service.aircall.webhooks.of(COMPANY))
    await service.sql(MAKE_DUE)
    await service.sql("DELETE FROM budget")
    await farewell.finish_farewells(service.resources)

    assert (status, (await the_installation(service))["status"]) == (204, "removed")
    assert waiting["due_in"] > timedelta(seconds=10)
    assert (waiting["attempts"], waiting["token_sealed"][:3]) == (1, "v1.")
    assert waiting["last_error"]
    assert too_early == 1
    assert service.aircall.webhooks.of(COMPANY) == []
    assert service.aircall.companies[0].integration.active is False
    assert await service.sql("SELECT * FROM farewell") == []


async def test_a_token_is_not_kept_longer_than_three_days_for_it(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.break_next("all", "error_500", times=1000)
    await disconnect(service, installation_id)
    await service.sql("UPDATE farewell SET due_at = now(), begun_at = now() - interval '73 hours'")
    before = len(service.aircall.requests)

    await farewell.finish_farewells(service.resources)

    assert await service.sql("SELECT * FROM farewell") == []
    assert len(service.aircall.requests) == before


async def test_a_dead_token_is_nothing_to_wait_for(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.grants.revoke_company(COMPANY)

    assert await disconnect(service, installation_id) == 204

    assert await service.sql("SELECT * FROM farewell") == []


async def test_a_webhook_whose_creation_answer_got_lost_is_deleted_too(service: Service) -> None:
    service.aircall.break_next("POST webhooks", "drop_reply")
    installation_id = await service.install()
    (unknown,) = await service.sql("SELECT webhook_id FROM webhook")
    theirs = service.aircall.webhooks.create(COMPANY, {"url": "https://other.example.com/hook"}, 0.0)

    await disconnect(service, installation_id)

    assert unknown["webhook_id"] is None
    assert service.aircall.webhooks.of(COMPANY) == [theirs]


async def test_the_webhook_of_another_installation_of_the_company_stays(service: Service) -> None:
    first = await service.install()
    service.aircall.companies[0].integration = Integration(400999, [55011])
    second = await service.install()
    (stays,) = await service.sql("SELECT webhook_id FROM webhook WHERE installation_id = $1", second)

    await disconnect(service, first)

    assert [hook.webhook_id for hook in service.aircall.webhooks.of(COMPANY)] == [stays["webhook_id"]]


@pytest.mark.slow
async def test_who_comes_back_calls_the_farewell_off(service: Service) -> None:
    installation_id = await service.install()
    service.aircall.break_next("all", "error_500", times=3)
    await disconnect(service, installation_id)
    service.aircall.heal()

    again = await service.install()
    await service.sql(MAKE_DUE)
    await farewell.finish_farewells(service.resources)

    assert again == installation_id
    assert (await the_installation(service))["status"] == "active"
    assert await service.sql("SELECT * FROM farewell") == []
    assert len(service.aircall.webhooks.of(COMPANY)) == 1
    assert service.aircall.companies[0].integration.active is True


async def test_who_comes_back_while_goodbye_is_being_said_is_whole_in_the_end(service: Service) -> None:
    """The new install adopts the old webhook just before it is deleted."""
    installation_id = await service.install()
    service.aircall.break_next("DELETE webhooks", "slow", seconds=1.0)
    leaving_now = asyncio.create_task(disconnect(service, installation_id))
    await until(lambda: any(line.startswith("DELETE") for line in asked(service)))

    again = await service.install()
    await leaving_now
    await schedule.reconcile_webhooks(service.resources)

    assert again == installation_id
    (hook,) = service.aircall.webhooks.of(COMPANY)
    (webhook,) = await service.sql("SELECT status, webhook_id FROM webhook")
    assert tuple(webhook) == ("active", hook.webhook_id)
    assert (await the_installation(service))["status"] == "active"
    assert service.aircall.companies[0].integration.active is True


@pytest.mark.slow
async def test_an_operator_lists_shows_and_disconnects(service: Service) -> None:
    installation_id = await service.installed()
    await service.install(70078)
    environment = command_environment(service.settings.database_url.get_secret_value())

    listed, active, shown, unknown, wrong = await asyncio.gather(
        run_command("installations", "list", environment=environment),
        run_command("installations", "list", "--status", "removed", "--json", environment=environment),
        run_command("installations", "show", installation_id, environment=environment),
        run_command("installations", "show", f"ins_{'0' * 32}", environment=environment),
        run_command("installations", "list", "--status", "gone", environment=environment),
    )
    # Aircall is nowhere for this process: the rest is the worker's.
    ended = await run_command("installations", "disconnect", installation_id, "--yes", environment=environment)

    assert (listed.exit_code, listed.stderr) == (0, "")
    assert [word in listed.stdout for word in (installation_id, "Northwind Demo Ltd", "active")] == [True] * 3
    assert len(listed.stdout.splitlines()) == 3
    assert (active.exit_code, active.stdout) == (0, "[]\n")
    assert f'"id": "{installation_id}"' in shown.stdout
    assert (unknown.exit_code, unknown.stderr) == (1, "aircall-oauth: There is no such installation.\n")
    assert wrong.exit_code == 2
    assert (ended.exit_code, ended.stderr.splitlines()[-1]) == (0, "Disconnected.")
    (line,) = await service.sql("SELECT actor, address FROM audit WHERE action = 'installation.disconnected'")
    assert tuple(line) == ("operator", "-")
    assert len(await service.sql("SELECT * FROM farewell")) == 1
    await service.sql(MAKE_DUE)
    await farewell.finish_farewells(service.resources)
    assert service.aircall.webhooks.of(COMPANY) == []
