"""An event that was answered 200 is in the log once, whichever process is killed at whatever moment."""

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from aircall_oauth.storage import migrations
from tests.support.forked import WebProcess, web_processes
from tests.support.processes import durable_postgres
from tests.support.service import until

SENDERS = 16
SERVICE_KILLS = 20
POSTGRES_KILLS = 5
# A kill comes after so many answers more: somewhere between two commits, or in one.
MOST_ANSWERS_BETWEEN = 300
PATIENCE_SECONDS = 30.0


class Ledger:
    """Every event that was sent, and every answer it got; None where none came."""

    def __init__(self) -> None:
        self.answers: defaultdict[int, list[int | None]] = defaultdict(list)
        self._kept = 0

    @property
    def kept(self) -> set[int]:
        return {number for number, answers in self.answers.items() if 200 in answers}

    def write(self, number: int, answer: int | None) -> None:
        self.answers[number].append(answer)
        self._kept += answer == 200

    async def grows(self) -> None:
        """Wait for a random number of further answers of 200."""
        enough = self._kept + random.randint(1, MOST_ANSWERS_BETWEEN)
        await until(lambda: self._kept >= enough, PATIENCE_SECONDS)


@pytest.mark.slow
async def test_killed_again_and_again_the_service_loses_nothing_it_answered(tmp_path: Path) -> None:
    async with (
        durable_postgres(tmp_path / "postgres") as postgres,
        _migrated(postgres.dsn()) as url,
        web_processes(1, url, tmp_path) as ((service,), token),
        _sending(service, token) as ledger,
    ):
        for _ in range(SERVICE_KILLS):
            await ledger.grows()
            await service.kill()
            await service.start()

    assert None in itertools.chain(*ledger.answers.values()), "nobody was killed in the middle of anything"
    assert dict.fromkeys(ledger.answers, 1) == await _in_the_log(tmp_path)


@pytest.mark.slow
async def test_killed_again_and_again_postgresql_loses_nothing_the_service_answered(tmp_path: Path) -> None:
    async with (
        durable_postgres(tmp_path / "postgres") as postgres,
        _migrated(postgres.dsn()) as url,
        web_processes(1, url, tmp_path) as ((service,), token),
        _sending(service, token) as ledger,
    ):
        for _ in range(POSTGRES_KILLS):
            await ledger.grows()
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.restart)

    assert {200, 503} >= set(itertools.chain(*ledger.answers.values())), "an outage is no reason for anything else"
    assert dict.fromkeys(ledger.answers, 1) == await _in_the_log(tmp_path)


@pytest.mark.slow
async def test_the_same_event_at_once_over_two_processes_is_kept_once(database_url: str, tmp_path: Path) -> None:
    async with (
        web_processes(2, database_url, tmp_path) as (services, token),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        posts = [_post(session, service, token, 1) for service in services for _ in range(100)]
        answers = await asyncio.gather(*posts)

    assert [200] * 200 == answers
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM event WHERE source = 'aircall'") == 1
    await connection.close()


@asynccontextmanager
async def _migrated(url: str) -> AsyncIterator[str]:
    await migrations.migrate(url)
    yield url


@asynccontextmanager
async def _sending(service: WebProcess, token: str) -> AsyncIterator[Ledger]:
    """Events are sent while the block lasts, each until it is answered 200, as Aircall does; some again after that."""
    ledger, numbers, enough = Ledger(), itertools.count(), asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)

    async def send(session: aiohttp.ClientSession) -> None:
        while not enough.is_set():
            number = next(numbers)
            while 200 not in ledger.answers[number]:
                ledger.write(number, await _post(session, service, token, number))
            if number % 10 == 0:
                ledger.write(number, await _post(session, service, token, number))

    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as senders:
        for _ in range(SENDERS):
            senders.create_task(send(session))
        yield ledger
        enough.set()


async def _post(session: aiohttp.ClientSession, service: WebProcess, token: str, number: int) -> int | None:
    event = {"event": "call.created", "timestamp": 1767261600 + number, "token": token, "data": {"id": number}}
    try:
        async with session.post(f"{service.url}/aircall/webhook", data=json.dumps(event)) as answer:
            return answer.status
    except aiohttp.ClientError:
        await asyncio.sleep(0.01)
        return None


async def _in_the_log(folder: Path) -> dict[int, int]:
    """The events that are there after yet another start of PostgreSQL, and how often each."""
    async with durable_postgres(folder / "postgres") as postgres:
        connection = await asyncpg.connect(postgres.dsn())
        rows = await connection.fetch(
            "SELECT (data::json ->> 'id')::int AS id, count(*) FROM event WHERE source = 'aircall' GROUP BY 1"
        )
        await connection.close()
    return {row["id"]: row["count"] for row in rows}
