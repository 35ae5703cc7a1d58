"""Lookups that callers share."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from aircall_oauth.errors import DatabaseAway
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.lookups import Lookups


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


async def test_all_who_ask_before_a_lookup_is_sent_share_it_and_no_one_after(database: Database) -> None:
    lookups, sent, answered = Lookups(database), asyncio.Event(), asyncio.Event()
    numbers = iter(range(10))

    async def look(connection: asyncpg.Connection) -> int:
        number = next(numbers)
        sent.set()
        await answered.wait()
        found: int = await connection.fetchval("SELECT $1::int", number)
        return found

    first = [asyncio.create_task(lookups.find(b"key", look)) for _ in range(3)]
    await sent.wait()
    sent.clear()
    later = [asyncio.create_task(lookups.find(b"key", look)) for _ in range(2)]
    await sent.wait()
    other = asyncio.create_task(lookups.find(b"another", look))
    answered.set()

    assert await asyncio.gather(*first, *later, other) == [0, 0, 0, 1, 1, 2]


async def test_a_caller_that_leaves_takes_the_answer_from_no_other(database: Database) -> None:
    lookups = Lookups(database)

    async def look(connection: asyncpg.Connection) -> int:
        found: int = await connection.fetchval("SELECT 7")
        return found

    leaves, stays = (asyncio.create_task(lookups.find(b"key", look)) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()

    assert await stays == 7


async def test_all_are_told_that_the_database_is_away_and_the_next_one_tries_again(database: Database) -> None:
    lookups, fails = Lookups(database), iter((True, False))

    async def look(connection: asyncpg.Connection) -> int:
        if next(fails):
            raise TimeoutError
        found: int = await connection.fetchval("SELECT 7")
        return found

    told = await asyncio.gather(*(lookups.find(b"key", look) for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in told] == [DatabaseAway] * 3
    assert await lookups.find(b"key", look) == 7


async def test_a_lookup_that_could_not_be_sent_is_made_again() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/nothing")
    lookups = Lookups(away)

    async def look(_connection: asyncpg.Connection) -> None:
        raise AssertionError("there is no connection")

    for _ in range(2):
        with pytest.raises(DatabaseAway):
            await lookups.find(b"key", look)
    await away.close()
