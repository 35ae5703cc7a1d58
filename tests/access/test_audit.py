"""The audit: one line for each use of what is guarded, written with it or not at all, and never rewritten."""

import asyncio
import json
from contextlib import suppress
from datetime import timedelta

import asyncpg
import pytest

from aircall_oauth.access import audit, audit_lines, callers
from aircall_oauth.access.audit import OPERATOR, Action, Outcome, Who
from aircall_oauth.access.audit_lines import Asked
from aircall_oauth.access.scopes import Scope
from tests.support.service import Service, command_environment, run_command, run_service, settings_for

LONG_AGO = "INSERT INTO audit (id, at, actor, action) VALUES ($1, now() - $2::interval, 'operator', 'token.read')"


async def test_a_line_is_written_with_what_it_tells_of_or_not_at_all(service: Service) -> None:
    async with service.resources.database.session() as session:
        await audit.record(session, OPERATOR, Action.ALL_REVOKED)

    with suppress(LookupError):
        async with service.resources.database.session() as session:
            await audit.record(session, Who("key_1", "192.0.2.1", "req_1"), Action.TOKEN_READ)
            raise LookupError

    (line,) = await audit_lines.newest(service.resources, callers.OPERATOR, Asked(), limit=10)
    told = (line.actor, line.action, line.installation_id, line.address, line.request_id, line.outcome)
    assert told == ("operator", "all.revoked", None, None, None, "done")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'somebody else'",
        "UPDATE audit SET at = now() - interval '1 year'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = 'aud_fresh'",
        "TRUNCATE audit",
        "TRUNCATE audit, installation CASCADE",
    ],
)
async def test_the_database_refuses_to_rewrite_it(service: Service, statement: str) -> None:
    await service.sql(LONG_AGO, "aud_old", timedelta(days=29))
    await service.sql(LONG_AGO, "aud_fresh", timedelta(0))

    with pytest.raises(asyncpg.RaiseError, match="the audit only grows"):
        await service.sql(statement)

    assert await service.sql("SELECT actor FROM audit WHERE action NOT LIKE 'api_key.%'") == [("operator",)] * 2


async def test_a_line_past_the_retention_is_dropped_and_no_other(database_url: str) -> None:
    async with run_service(settings_for(database_url, AUDIT_RETENTION="60d")) as service:
        for name, days in {"fresh": 0, "kept": 59, "old": 61, "older": 600}.items():
            await service.sql(LONG_AGO, f"aud_{name}", timedelta(days=days))

        await audit.forget_old(service.resources)

        left = await service.sql("SELECT id FROM audit ORDER BY at DESC")
        assert [row["id"] for row in left] == ["aud_fresh", "aud_kept"]


async def test_raw_token_reads_beyond_the_rate_are_refused_and_raise_an_alarm(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_service(settings_for(database_url, TOKEN_READS_PER_MINUTE="3")) as service:
        installation_id = await service.installed()
        door = f"/v1/installations/{installation_id}/token"
        greedy, modest = await service.partner(Scope.TOKENS_READ), await service.partner(Scope.TOKENS_READ)

        answers = [await greedy.get(door) for _ in range(5)]
        other = await modest.get(door)

        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["code"] == "too_many_token_reads"
        assert 50 <= int(answers[-1].headers["retry-after"]) <= 60
        assert other.status_code == 200, "another key's rate is its own"
        alarms = [said.msg for said in caplog.records if isinstance(said.msg, dict) and said.msg.get("alarm")]
        assert [(alarm["event"], alarm["level"]) for alarm in alarms] == [("too many token reads", "error")] * 2
        told = await service.sql(
            "SELECT outcome, installation_id, count(*) FROM audit WHERE action NOT LIKE 'api_key.%' "
            "GROUP BY 1, 2 ORDER BY 1"
        )
        assert told == [("done", installation_id, 4), ("refused", installation_id, 1)]
        await service.sql("ALTER TABLE audit DISABLE TRIGGER ALL")
        await service.sql("UPDATE audit SET at = at - interval '61 seconds'")
        assert (await greedy.get(door)).status_code == 200, "a minute later it may again"


async def test_the_rate_holds_over_many_at_once(database_url: str) -> None:
    settings = settings_for(database_url, TOKEN_READS_PER_MINUTE="10")
    async with run_service(settings) as service, run_service(settings) as replica:
        door = f"/v1/installations/{await service.installed()}/token"
        partner = await service.partner(Scope.TOKENS_READ)
        elsewhere = replica.new_browser()
        elsewhere.headers["authorization"] = partner.headers["authorization"]

        answers = await asyncio.gather(*(client.get(door) for _ in range(15) for client in (partner, elsewhere)))

        assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 20
        (reads,) = await service.sql("SELECT count(*) FROM audit WHERE action = 'token.read' AND outcome = 'done'")
        assert reads[0] == 10


async def test_the_address_is_the_sockets_whatever_the_headers_say(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner(Scope.TOKENS_READ)
    lies = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9", "x-real-ip": "203.0.113.9"}

    await partner.get(f"/v1/installations/{installation_id}/token", headers=lies)

    assert await service.sql("SELECT address FROM audit WHERE action NOT LIKE 'api_key.%'") == [("127.0.0.1",)]


@pytest.mark.slow
async def test_an_operator_lists_it(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner(Scope.TOKENS_READ)
    await partner.get(f"/v1/installations/{installation_id}/token", headers={"x-request-id": "trace-me"})
    async with service.resources.database.session() as session:
        await audit.record(session, OPERATOR, Action.API_KEY_REVOKED, outcome=Outcome.FAILED)
    environment = command_environment(service.settings.database_url.get_secret_value())

    table, of_one = await asyncio.gather(
        run_command("audit", environment=environment),
        run_command("audit", "--installation", installation_id, "--json", environment=environment),
    )

    assert (table.exit_code, table.stderr) == (0, "")
    newest, oldest = table.stdout.splitlines()[1:]
    assert [word in newest for word in ("operator", "api_key.revoked", "failed")] == [True] * 3
    assert [word in oldest for word in ("token.read", "done", installation_id, "127.0.0.1", "trace-me")] == [True] * 5
    (line,) = json.loads(of_one.stdout)
    assert (line["action"], line["installation_id"], line["request_id"]) == ("token.read", installation_id, "trace-me")
