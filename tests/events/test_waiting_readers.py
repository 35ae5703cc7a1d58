"""Readers that wait, on real connections: many of them, and some with a connection that breaks."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.resources import open_resources
from tests.support.databases import close_kept
from tests.support.forked import WebProcess, web_processes
from tests.support.service import settings_for

READERS = 500
CONNECTIONS_OF_A_PROCESS = 18
BREAKS = 15
MOST_EVENTS_BETWEEN = 40


@pytest.mark.slow
async def test_five_hundred_readers_wait_on_one_process_without_a_connection_each(
    database_url: str, tmp_path: Path
) -> None:
    async with web_processes(1, database_url, tmp_path) as ((service,), token), _reader(database_url) as reader:
        start = (await _page(reader, service, after=0))["next"]
        waiting = [asyncio.create_task(_page(reader, service, after=start, wait=30)) for _ in range(READERS)]
        # They read in turn: when those have their page that came last, all others have read the log, and wait.
        await asyncio.sleep(0)
        await asyncio.gather(*(_page(reader, service, after=0, wait=30) for _ in range(10)))
        connections = await _connections(database_url)

        answer = await _post(reader, service, token, 1)
        pages = await asyncio.gather(*waiting)

    assert answer == 200
    assert connections <= CONNECTIONS_OF_A_PROCESS
    assert [[1]] * READERS == [[event["data"]["id"] for event in page["events"]] for page in pages]


@pytest.mark.slow
async def test_a_stream_that_breaks_again_and_again_loses_and_repeats_nothing(
    database_url: str, tmp_path: Path
) -> None:
    async with web_processes(1, database_url, tmp_path) as ((service,), token), _reader(database_url) as reader:
        posting = asyncio.create_task(_post_on(reader, service, token))
        seen = [0]
        for breaks in range(BREAKS):
            seen += await _follow(reader, service, seen[-1], random.randint(1, MOST_EVENTS_BETWEEN))
            if breaks % 5 == 4:
                await service.kill()
                await service.start()
        posting.cancel()

    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT position FROM event WHERE position <= $1 ORDER BY position", seen[-1])
    await connection.close()
    assert [0, *(row["position"] for row in rows)] == seen


@asynccontextmanager
async def _reader(database_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with open_resources(settings_for(database_url)) as resources:
        key = await keys.create(resources, name="test", scopes=[Scope.EVENTS_READ])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"authorization": f"Bearer {key}"}) as session:
        yield session


async def _page(reader: aiohttp.ClientSession, service: WebProcess, *, after: int, wait: int = 0) -> dict[str, Any]:
    async with reader.get(f"{service.url}/v1/events", params={"after": after, "wait": wait}) as answer:
        assert answer.status == 200, await answer.text()
        page: dict[str, Any] = await answer.json()
        return page


async def _follow(reader: aiohttp.ClientSession, service: WebProcess, last: int, count: int) -> list[int]:
    """The positions of so many events of the stream, which is then broken off in the middle."""
    seen: list[int] = []
    async with reader.get(f"{service.url}/v1/events/stream", headers={"last-event-id": str(last)}) as answer:
        async for line in answer.content:
            if line.startswith(b"id:"):
                seen.append(int(line.removeprefix(b"id:")))
            if len(seen) == count:
                answer.close()
                break
    return seen


async def _post_on(reader: aiohttp.ClientSession, service: WebProcess, token: str) -> None:
    """Event after event, whether the service is there or not."""
    for number in itertools.count():
        with suppress(aiohttp.ClientError):
            await _post(reader, service, token, number)
        await asyncio.sleep(0)


async def _post(reader: aiohttp.ClientSession, service: WebProcess, token: str, number: int) -> int:
    event = {"event": "call.created", "token": token, "data": {"id": number}}
    async with reader.post(f"{service.url}/aircall/webhook", data=json.dumps(event)) as answer:
        return answer.status


async def _connections(database_url: str) -> int:
    """How many the service has to PostgreSQL."""
    await close_kept(database_url)
    connection = await asyncpg.connect(database_url)
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'aircall-oauth'"
    )
    await connection.close()
    return count
