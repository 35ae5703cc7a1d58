"""No client that is slow, or falls silent, keeps events out: the log's lock is never held over a message of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from aircall_oauth.installations.outages import backfill
from aircall_oauth.storage import locks
from tests.support.gates import COMMIT, QUERY, SYNC
from tests.support.held import EXECUTE, Hook, Line, through
from tests.support.processes import eventually
from tests.support.service import Service, run_service, settings_for

# What any single fault may cost, and as much again for a machine that is busy with other things.
REFUSED_SECONDS = 20.0
HELD_BY = f"""
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = $1
        AND classid = {locks.LOG >> 32} AND objid::bigint = {locks.LOG & 0xFFFFFFFF}
"""


async def test_the_log_is_never_locked_while_its_holder_waits_for_its_client(database_url: str) -> None:
    """A message is held back until it is known that the session it is for does not have the lock.

    The end of a statement apart: it is in the same write as the statement, and the last test of these is about it.
    """
    admin = await asyncpg.connect(database_url)
    found: list[str] = []
    looking = asyncio.Lock()

    async def look(line: Line, kind: int, _body: bytes) -> None:
        async with looking:
            if kind != SYNC and line.backend and await admin.fetch(HELD_BY, line.backend):
                found.append(f"{chr(kind)} after {line.said[-1:]}")

    async with (
        through(database_url, look) as url,
        run_service(settings_for(url, RETURN_URLS="http://localhost:9000/home")) as service,
    ):
        installation_id = await service.install()
        assert (await service.post_event(_event(service, 1))).status_code == 200
        now = datetime.now(UTC)
        since, until = (now - timedelta(hours=hours) for hours in (3, 1))
        service.aircall.record_calls(20, since=since.timestamp(), until=until.timestamp())
        steps = [
            step async for step in backfill.by_hand(service.resources, installation_id, since=now - timedelta(hours=4))
        ]
        other = service.aircall.companies[1]
        claim = await service.install_by_link("acme", other)
        assert (await service.claim(claim)).status_code == 200
        partner = await service.partner()
        assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204

    await admin.close()
    assert steps[-1].gap.added == 20
    assert found == []


@pytest.mark.slow
async def test_a_worker_that_falls_silent_before_its_commit_keeps_no_event_out(database_url: str) -> None:
    silent = asyncio.Event()

    async def fall_silent(line: Line, kind: int, body: bytes) -> None:
        if kind == QUERY and COMMIT.match(body.decode(errors="replace")) and line.appends:
            silent.set()
        if silent.is_set():
            await asyncio.Event().wait()

    async with _two_services(database_url, fall_silent) as (service, other):
        partner = await other.partner()
        other_id = await _second_installation(service)
        leaving = asyncio.create_task(partner.delete(f"/v1/installations/{other_id}"))
        await silent.wait()

        await _accepted(service, 1)

        leaving.cancel()


@pytest.mark.slow
async def test_a_receiver_that_falls_silent_at_the_last_byte_of_its_statement_keeps_no_event_out(
    database_url: str,
) -> None:
    silent, executing = asyncio.Event(), set[int]()

    async def fall_silent(line: Line, kind: int, _body: bytes) -> None:
        if kind == EXECUTE and any("event_fingerprint" in said for said in line.said):
            executing.add(line.backend)
        if kind == SYNC and line.backend in executing:
            silent.set()
        if silent.is_set():
            await asyncio.Event().wait()

    async with _two_services(database_url, fall_silent) as (service, other):
        posting = asyncio.create_task(other.post_event(_event(service, 0)))
        await silent.wait()

        await _accepted(service, 1)
        # What was undone is sent again.
        assert (await posting).status_code == 503
        await _accepted(service, 0)


@asynccontextmanager
async def _two_services(database_url: str, hook: Hook) -> AsyncIterator[tuple[Service, Service]]:
    """Over one database; the second one reaches it through the hook."""
    async with (
        run_service(settings_for(database_url)) as service,
        through(database_url, hook) as url,
    ):
        await service.install()
        async with run_service(settings_for(url)) as other:
            yield service, other


async def _second_installation(service: Service) -> str:
    return await service.install(service.aircall.companies[1])


async def _accepted(service: Service, number: int) -> None:
    async def accepted() -> bool:
        return (await service.post_event(_event(service, number))).status_code == 200

    await eventually(accepted, REFUSED_SECONDS)


def _event(service: Service, number: int) -> bytes:
    return (
        f'{{"resource":"call","event":"call.created","timestamp":{1767261600 + number},'
        f'"token":"{service.webhook_token()}","data":{{"id":{number}}}}}'
    ).encode()
