"""Sessions over pooled connections, and what is done when one of these has ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.storage import sessions
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.poolers import BACKEND
from aircall_oauth.storage.sessions import POOL_SIZE
from tests.support.processes import eventually, until_closed


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


async def select_one(database: Database) -> asyncpg.Connection:
    """Select 1 in a session, and return its connection."""
    async with database.session() as session:
        connection = await session.connection()
        assert await connection.scalar(text("SELECT 1")) == 1
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
        return driver


async def asked_in_a_session(database: Database) -> list[str]:
    """What a session that selects 1 asks besides; the driver tells of no prepared statement."""
    asked: list[str] = []

    def note(query: Any) -> None:
        asked.append(query.query.strip(" ;"))

    connection = await select_one(database)
    connection.add_query_logger(note)
    assert await select_one(database) is connection
    await asyncio.sleep(0)  # what was asked last is noted in the next turn of the loop
    return asked


async def test_a_session_asks_nothing_but_what_it_is_for(database: Database) -> None:
    assert await asked_in_a_session(database) == ["BEGIN", "COMMIT"]


async def test_a_connection_that_was_idle_for_long_is_asked_whether_it_works(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SURE_SECONDS", -1)

    assert "ROLLBACK" in await asked_in_a_session(database)


@pytest.mark.parametrize("sure_seconds", [-1, 60])
async def test_connections_that_the_server_ended_are_replaced(
    database_url: str, database: Database, sure_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SURE_SECONDS", sure_seconds)
    looking, ended = await asyncpg.connect(database_url), await select_one(database)
    await looking.execute("SELECT pg_terminate_backend($1)", ended.get_server_pid())
    await looking.close()

    async def is_closed() -> bool:
        return bool(ended.is_closed())

    await eventually(is_closed)

    assert await select_one(database) is not ended


async def burst(database: Database) -> list[int]:
    """Use as many connections at once as sessions may have, and return their backends."""
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(database.session()) for _ in range(POOL_SIZE)]
        return [await backend_of(session) for session in sessions]


async def backend_of(session: AsyncSession) -> int:
    backend: int = await (await session.connection()).scalar(text(BACKEND))
    return backend


async def test_sessions_that_follow_one_another_use_one_connection_of_a_burst(database: Database) -> None:
    await burst(database)

    assert len({await select_one(database) for _ in range(POOL_SIZE)}) == 1


@pytest.mark.usefixtures("soon_idle")
async def test_connections_that_were_not_needed_for_a_while_are_closed(database_url: str, database: Database) -> None:
    backends = await burst(database)

    await until_closed(database_url, backends)

    assert (await select_one(database)).get_server_pid() not in backends


@pytest.mark.usefixtures("soon_idle")
async def test_a_connection_in_use_is_never_idle(database_url: str, database: Database) -> None:
    async with database.session() as session:
        in_use = await backend_of(session)
        async with database.session() as other:
            others = await backend_of(other)
        await until_closed(database_url, [others])

        assert await backend_of(session) == in_use
