"""A client that falls silent in the middle of a transaction keeps its locks for seconds, also behind a proxy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from aircall_oauth.operations import sessions
from tests.support.gates import SYNC
from tests.support.held import EXECUTE, Line, through
from tests.support.service import Service, run_service, settings_for

SILENT = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND wait_event = 'ClientRead' AND xact_start IS NOT NULL
"""


@pytest.fixture(autouse=True)
def _short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SILENT_SECONDS", 1.0)


@pytest.mark.slow
async def test_an_installation_locked_by_a_client_that_fell_silent_can_be_changed_again(database_url: str) -> None:
    """PostgreSQL's own timeout does not see it: the statement was sent, and the end of the message never comes."""
    silent, executing = asyncio.Event(), set[int]()

    async def fall_silent(line: Line, kind: int, _body: bytes) -> None:
        if kind == EXECUTE and any("FOR NO KEY UPDATE" in said for said in line.said):
            executing.add(line.backend)
        if kind == SYNC and line.backend in executing:
            silent.set()
        if silent.is_set():
            await asyncio.Event().wait()

    async with (
        run_service(settings_for(database_url)) as service,
        through(database_url, fall_silent) as url,
        run_service(settings_for(url)) as other,
    ):
        installation_id = await service.installed()
        partner, others_partner = await service.partner(), await other.partner()
        leaving = asyncio.create_task(others_partner.delete(f"/v1/installations/{installation_id}"))
        await silent.wait()
        assert await service.sql(SILENT) == [(1,)]

        await sessions.end_silent(service.resources)

        assert await service.sql(SILENT) == [(0,)]
        assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204
        leaving.cancel()


async def test_sessions_that_go_on_or_are_anothers_are_left_alone(service: Service, database_url: str) -> None:
    async with (
        _in_transaction(database_url, name="aircall-oauth") as busy,
        _in_transaction(database_url, name="psql") as anothers,
    ):
        ending = asyncio.create_task(sessions.end_silent(service.resources))
        while not ending.done():
            await busy.execute("SELECT 1")
            await asyncio.sleep(0.2)
        await ending

        await busy.execute("SELECT 1")
        await anothers.execute("SELECT 1")


@asynccontextmanager
async def _in_transaction(database_url: str, *, name: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url, server_settings={"application_name": name})
    await connection.execute("BEGIN; SELECT 1")
    try:
        yield connection
    finally:
        await connection.close()
