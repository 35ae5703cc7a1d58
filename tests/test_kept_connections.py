"""A connection that a service takes from one that ended works like a new one (`support/kept.py`)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from aircall_oauth.storage.database import Database
from tests.support.databases import close_kept
from tests.support.kept import Use, use_of

LEAVE_SOMETHING = """
    SET application_name = 'left'; SET ROLE pg_monitor; LISTEN left_behind; CREATE TEMPORARY TABLE left_behind ();
    PREPARE left_behind AS SELECT 1; SELECT pg_advisory_lock(7)
"""
LEFT = """
    SELECT current_user <> session_user OR current_setting('application_name') = 'left'
        OR to_regclass('pg_temp.left_behind') IS NOT NULL
        OR EXISTS (SELECT FROM pg_listening_channels())
        OR EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'left_behind')
        OR EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""


@pytest.fixture
async def use(database_url: str) -> AsyncIterator[Use]:
    await close_kept(database_url)
    with use_of(database_url) as use:
        yield use


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


async def test_a_session_is_taken_once_and_remembers_nothing(database: Database, use: Use) -> None:
    first = await database.connect()
    process = first.get_server_pid()
    await first.set_type_codec("jsonb", encoder=str, decoder=lambda _: "decoded", schema="pg_catalog")
    await first.execute(LEAVE_SOMETHING)
    await first.close()
    second, third = await database.connect(), await database.connect()

    assert (second.get_server_pid(), await second.fetchval(LEFT)) == (process, False)
    assert await second.fetchval("SELECT '{}'::jsonb") == "{}"
    assert third.get_server_pid() != process
    assert first.is_closed()
    with pytest.raises(asyncpg.InterfaceError):
        await first.fetchval("SELECT 1")
    for connection in (second, third):
        await connection.close()


async def test_its_locks_end_when_it_is_closed(database_url: str, database: Database, use: Use) -> None:
    first, looking = await database.connect(), await asyncpg.connect(database_url)
    await first.execute(LEAVE_SOMETHING)
    await first.close()

    assert await looking.fetchval("SELECT pg_try_advisory_lock(7)")
    await looking.close()


@pytest.mark.parametrize("when", ["before it is opened", "while it is open", "while it is kept"])
async def test_what_is_set_for_new_connections_meets_the_next_one(
    when: str, database_url: str, database: Database, use: Use
) -> None:
    looking = await asyncpg.connect(database_url)

    async def set_it(now: str) -> None:
        if when == now:
            await looking.execute("ALTER DATABASE test SET work_mem = '7MB'")

    await set_it("before it is opened")
    first = await database.connect()
    await set_it("while it is open")
    await first.close()
    await set_it("while it is kept")
    second = await database.connect()
    seen = await second.fetchval("SHOW work_mem")
    await second.close()
    await looking.execute("ALTER DATABASE test RESET work_mem")
    third = await database.connect()

    assert seen == "7MB"
    assert await third.fetchval("SHOW work_mem") == "4MB"
    for connection in (third, looking):
        await connection.close()


async def test_what_a_service_closes_while_it_is_at_work_is_closed(database: Database, use: Use) -> None:
    with use.at_work():
        first = await database.connect()
        process = first.get_server_pid()
        await first.close()
        second = await database.connect()

    assert second.get_server_pid() != process
    await second.close()


async def in_a_transaction(connection: asyncpg.Connection) -> None:
    await connection.execute("BEGIN")


async def with_a_statement_that_is_being_cancelled(connection: asyncpg.Connection) -> None:
    asked = asyncio.create_task(connection.execute("SELECT pg_sleep(30)"))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def that_broke(connection: asyncpg.Connection) -> None:
    await asyncio.gather(
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid(), 5000)"), return_exceptions=True
    )


@pytest.mark.parametrize("spoil", [in_a_transaction, with_a_statement_that_is_being_cancelled, that_broke])
async def test_a_session_that_another_could_stumble_over_is_not_kept(
    spoil: Callable[[asyncpg.Connection], Awaitable[None]], database: Database, use: Use
) -> None:
    spoilt = await database.connect()
    process = spoilt.get_server_pid()
    await spoil(spoilt)
    spoilt.terminate()
    taken = await database.connect()

    assert taken.get_server_pid() != process
    assert await taken.fetchval("SELECT 1") == 1
    await taken.close()


async def test_one_that_broke_since_it_was_kept_is_not_lent(database_url: str, database: Database, use: Use) -> None:
    kept, looking = await database.connect(), await asyncpg.connect(database_url)
    process = kept.get_server_pid()
    await kept.close()
    await looking.fetch("SELECT pg_terminate_backend($1, 5000)", process)
    taken = await database.connect()

    assert taken.get_server_pid() != process
    for connection in (taken, looking):
        await connection.close()


async def test_another_loop_and_other_options_get_new_ones(database: Database, use: Use) -> None:
    async def elsewhere() -> int:
        other = await database.connect()
        process: int = other.get_server_pid()
        await other.close()
        return process

    first = await database.connect()
    process = first.get_server_pid()
    await first.close()
    in_another = await asyncio.to_thread(asyncio.run, elsewhere())
    unlike = await database.connect(statement_cache_size=0, server_settings={"work_mem": "7MB"})
    alike = await database.connect()

    assert process not in {in_another, unlike.get_server_pid()}
    assert alike.get_server_pid() == process
    for connection in (unlike, alike):
        await connection.close()
