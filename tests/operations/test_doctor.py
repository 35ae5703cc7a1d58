"""`aircall-oauth doctor`: what can be wrong is found and said, with what to do, and an exit code for scripts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina

from aircall_oauth.cli.reference import OPERATIONS
from aircall_oauth.operations import connections, doctor
from aircall_oauth.operations.doctor import Finding, Level
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings
from tests.support.processes import eventually, world
from tests.support.service import Service, command_environment, run_command, settings_for

COMPANY = 70077
# As a worker does at the turn of each minute.
WORKER_COUNTED = (
    "INSERT INTO figure (name, label, step, at, highest, amounts) "
    "VALUES ('alive', 'worker', 'minute', date_trunc('minute', now()), false, '{1}') ON CONFLICT DO NOTHING"
)
ANOTHER_KEY = "k9:" + "A" * 43 + "="


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Any:
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


async def findings(service: Service, **options: Any) -> dict[str, Finding]:
    """By check, where something is to be said; of several the last."""

    @asynccontextmanager
    async def opener(_settings: Settings) -> AsyncIterator[Resources]:
        yield service.resources

    options = {"opener": opener, **options}
    found = [finding async for finding in doctor.examine(service.settings, **options)]
    assert all(finding.advice for finding in found if finding.level != Level.OK)
    return {finding.check: finding for finding in found}


@pytest.mark.slow
async def test_a_deployment_that_is_well_is_told_so(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        await it.start_service("--with-worker")
        await it.browser.get(await it.consent())
        await it.control("place-call")
        await eventually(lambda: it.sql("SELECT 1 FROM event WHERE source = 'aircall'"))
        await it.sql(WORKER_COUNTED)

        table, as_json = await asyncio.gather(
            run_command("doctor", environment=it.environment),
            run_command("doctor", "--json", environment=it.environment),
        )

    assert (table.exit_code, as_json.exit_code) == (0, 0), table.stdout
    found = json.loads(as_json.stdout)
    assert {one["check"]: one["level"] for one in found} == dict.fromkeys(
        (
            "settings",
            "database",
            "connections",
            "schema",
            "keys",
            "public url",
            "consent page",
            "worker",
            "aircall",
            "app",
            "installations",
        ),
        "ok",
    )
    assert len(table.stdout.splitlines()) == len(found)
    assert "1 well, 1 in all" in table.stdout


async def test_wrong_settings_are_found_without_a_value(database_url: str) -> None:
    environment = command_environment(database_url, CLAIM="c4n4ry", PUBLIC_URL="ftp://c4n4ry")

    ended = await run_command("doctor", "--json", environment=environment)

    found = json.loads(ended.stdout)
    assert ended.exit_code == 1
    assert {(one["check"], one["level"]) for one in found} == {("settings", "problem")}
    assert [one["seen"].split()[0] for one in found] == ["AIRCALL_OAUTH_CLAIM", "AIRCALL_OAUTH_PUBLIC_URL"]
    assert "c4n4ry" not in ended.stdout + ended.stderr


@pytest.mark.slow
async def test_a_database_that_is_away_behind_or_sealed_otherwise_is_found(
    service: Service, empty_database: str
) -> None:
    await service.installed()
    url = service.settings.database_url.get_secret_value()
    environments = {
        "database": command_environment("postgresql://user:c4n4ry@127.0.0.1:1/nowhere"),
        "schema": command_environment(empty_database),
        "keys": command_environment(url, SECRET_KEYS=ANOTHER_KEY),
    }

    ended = await asyncio.gather(*(run_command("doctor", "--json", environment=e) for e in environments.values()))

    for check, one in zip(environments, ended, strict=True):
        last = json.loads(one.stdout)[-1]
        assert (one.exit_code, last["check"], last["level"]) == (1, check, "problem"), one.stderr
        assert last["advice"]
        assert "c4n4ry" not in one.stdout + one.stderr


async def test_a_server_without_room_for_our_connections_is_found(service: Service) -> None:
    well = (await findings(service))["connections"]
    await service.sql("ALTER DATABASE test CONNECTION LIMIT 20")

    found = (await findings(service))["connections"]

    assert (well.level, found.level) == (Level.OK, Level.WARNING)
    assert "PostgreSQL allows 20, " in found.seen
    assert "a web process opens 18 at most, a worker 16, both in one 24" in found.seen


def test_the_documented_connections_are_those_that_are_opened() -> None:
    page = " ".join(OPERATIONS.read_text().split())
    web, worker, both = connections.WEB, connections.WORKER, connections.BOTH

    assert f"At most {web.all} connections per web process" in page
    assert f"{worker.all} per worker" in page
    assert f"{both.all} for both in one" in page
    assert f"{web.pooled} per web process, {worker.pooled} per worker, {both.pooled} for both in one" in page
    assert f"{web.direct} per web process, {worker.direct} per worker, {both.direct} for both in one" in page


async def test_aircall_away_is_found(service: Service) -> None:
    service.aircall.break_next("all", "error_500", times=10)

    found = (await findings(service))["aircall"]

    assert (found.level, "500" in found.seen) == (Level.PROBLEM, True)


async def test_credentials_that_aircall_refuses_are_found(service: Service) -> None:
    service.aircall.grants.client.secret = "another"

    found = await findings(service)

    assert (found["aircall"].level, found["app"].level) == (Level.OK, Level.PROBLEM)
    assert "installations" not in found, "no use in asking any further"


async def test_another_service_at_the_public_url_is_found(service: Service) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hello, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        database_url = service.settings.database_url.get_secret_value()
        service.resources.settings = settings_for(database_url, PUBLIC_URL=url)
        there = (await findings(service))["public url"]
    gone = (await findings(service))["public url"]

    assert (there.level, gone.level) == (Level.PROBLEM, Level.WARNING)


@pytest.mark.parametrize(("hours", "word"), [(1, "behind"), (-1, "ahead of")])
async def test_a_clock_that_differs_is_found(service: Service, hours: int, word: str) -> None:
    class SayingWhen(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            told = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
            return httpx.Response(401, headers={"date": told}, json={"message": "Unauthorized"})

    async with httpx.AsyncClient(transport=SayingWhen()) as http:
        whole, service.resources.aircall._http = service.resources.aircall._http, http
        found = (await findings(service))["clock"]
        service.resources.aircall._http = whole

    assert found.level == Level.PROBLEM
    assert word in found.seen
    assert "Aircall's" in found.seen


async def test_a_worker_that_never_ran_or_is_gone_or_late_is_found(service: Service) -> None:
    await service.installed()
    never = (await findings(service))["worker"]
    await service.sql(WORKER_COUNTED)
    running = (await findings(service))["worker"]
    await service.sql("UPDATE figure SET at = at - interval '10 minutes'")
    gone = (await findings(service))["worker"]
    await service.sql("UPDATE webhook SET due_at = now() - interval '20 minutes'")
    late = (await findings(service))["worker"]

    said = [(found.level, found.seen.partition(";")[0]) for found in (never, running, late)]
    assert said == [
        (Level.WARNING, "none has run yet, or within the last two days"),
        (Level.OK, "nothing is overdue"),
        (Level.PROBLEM, "work is overdue"),
    ]
    assert (gone.level, gone.seen[:19]) == (Level.PROBLEM, "none has run since ")


async def test_an_installation_that_is_well_is_counted(service: Service) -> None:
    for company in service.aircall.companies:
        await service.install(company)

    found = await findings(service)

    assert found["installations"].seen == "3 well, 3 in all"
    assert found.keys() & {"token", "webhook", "numbers", "silence", "integration", "farewell"} == set()


async def test_who_is_silent_at_its_usual_hours_is_found(service: Service) -> None:
    silent = "INSERT INTO rhythm (installation_id, hour, spoke, silent_at) VALUES ($1, 490000, 0::bit(672), now())"
    await service.sql(silent, await service.installed())

    found = (await findings(service))["silence"]

    assert (found.level, "silent since 2025-11-24 17:00Z" in found.seen) == (Level.WARNING, True)


async def test_each_thing_wrong_with_an_installation_is_found(service: Service) -> None:
    installation_id = await service.installed()
    (hook,) = service.aircall.webhooks.of(COMPANY)
    integration = service.aircall.companies[0].integration

    async def found_with(check: str) -> Finding:
        found = (await findings(service))[check]
        assert found.installation_id == installation_id
        return found

    integration.number_ids = []
    assert (await found_with("numbers")).level == Level.WARNING
    integration.number_ids = [55010]
    integration.active = False
    assert (await found_with("integration")).level == Level.WARNING
    integration.active = True
    await service.sql("UPDATE installation SET connected_at = now() - interval '8 days'")
    assert "connected but silent" in (await found_with("silence")).seen
    assert "silence" not in await findings(service, silent_after=timedelta(days=9))
    hook.switch(active=False)
    assert "switched it off" in (await found_with("webhook")).seen
    hook.switch(active=True)
    hook.url = "https://other.example.com/aircall/webhook"
    assert "another address" in (await found_with("webhook")).seen
    service.aircall.webhooks.delete_company(COMPANY)
    assert "no more" in (await found_with("webhook")).seen
    await service.sql("UPDATE webhook SET status = 'pending'")
    assert "pending" in (await found_with("webhook")).seen
    await service.sql("DELETE FROM budget")
    service.aircall.break_next("integrations/me", "error_500", times=2)
    assert (await found_with("token")).level == Level.WARNING
    service.aircall.grants.revoke_company(COMPANY)
    assert (await found_with("token")).level == Level.PROBLEM
    (kept,) = await service.sql("SELECT status FROM installation")
    assert kept["status"] == "active", "looking changes nothing"
    await service.sql("UPDATE installation SET token_sealed = left(token_sealed, -4) || 'AAAA'")
    assert (await found_with("token")).seen == "it does not open (seal_broken)"
    await service.sql("UPDATE installation SET status = 'unauthorized'")
    assert (await found_with("token")).seen == "Aircall no longer accepts it"


async def test_a_farewell_that_waits_is_told(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.break_next("all", "error_500", times=2)
    await (await service.partner()).delete(f"/v1/installations/{installation_id}")
    service.aircall.heal()

    found = (await findings(service))["farewell"]

    assert (found.level, found.installation_id) == (Level.WARNING, installation_id)
    assert "500" in found.seen


@pytest.mark.parametrize(
    ("status", "level"), [(404, "warning"), (410, "warning"), (503, "warning"), (400, "ok"), (302, "ok")]
)
async def test_a_consent_page_that_moved_away_is_found(service: Service, status: int, level: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/oauth/authorize"
        found = await doctor.consent_page(service.settings.model_copy(update={"authorize_url": url}))

    assert found.level == level
    assert level == "ok" or "https://dashboard.aircall.io/oauth/authorize" in (found.advice or "")


async def test_a_consent_page_that_cannot_be_reached_is_found(service: Service) -> None:
    found = await doctor.consent_page(service.settings.model_copy(update={"authorize_url": "http://127.0.0.1:9/x"}))

    assert found.level == "warning"
    assert "can't be reached" in found.seen
