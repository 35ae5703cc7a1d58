"""A new connection knows the arrays of our statements, and asks PostgreSQL for none of them."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

import aircall_oauth
from aircall_oauth.storage.arrays import ELEMENTS
from aircall_oauth.storage.database import Database

CAST = re.compile(r"::([a-z0-9]+\[\])")
TABLES = "SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
VALUES: dict[str, Any] = {
    "bool": True,
    "bytea": b"\x00\xff",
    "int8": 2**40,
    "int2": 3,
    "int4": -4,
    "float8": 0.5,
    "date": date(2026, 1, 31),
    "timestamptz": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "uuid": UUID(int=7),
    "jsonb": '{"a": [1]}',
}


@pytest.fixture
async def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    async def ask(_self: asyncpg.Connection, numbers: object, _timeout: object) -> None:
        pytest.fail(f"PostgreSQL was asked for the types {numbers}: add them to storage/arrays.py")

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", ask)
    opened = Database(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    opened = await database.connect()
    yield opened
    await opened.close()


@pytest.mark.parametrize("name", [name for name, *_ in ELEMENTS])
async def test_an_array_comes_back_as_it_went(connection: asyncpg.Connection, name: str) -> None:
    sent = [VALUES[name], None, VALUES[name]]
    assert await connection.fetchval(f"SELECT $1::{name}[]", sent) == sent


async def test_numbers_are_those_of_this_postgresql(connection: asyncpg.Connection) -> None:
    names, elements, arrays = zip(*ELEMENTS, strict=True)
    found = await connection.fetch(
        "SELECT typelem::int AS element, oid::int AS array FROM pg_type"
        " JOIN unnest($1::text[]) WITH ORDINALITY AS asked (name, place) ON typname = '_' || name"
        " WHERE typnamespace = 'pg_catalog'::regnamespace ORDER BY place",
        list(names),
    )
    assert [tuple(row) for row in found] == list(zip(elements, arrays, strict=True))


async def test_no_cast_and_no_column_of_ours_has_another_array(connection: asyncpg.Connection) -> None:
    sources = Path(aircall_oauth.__file__).parent.rglob("*.py")
    arrays = {array for source in sources for array in CAST.findall(source.read_text())}
    assert "bigint[]" in arrays
    for array in arrays:
        await connection.prepare(f"SELECT $1::{array}")
    for (table,) in await connection.fetch(TABLES):
        await connection.prepare(f"SELECT * FROM {table}")


async def test_a_session_knows_them_too(database: Database) -> None:
    async with database.session() as session:
        connection = await session.connection()
        row = (await connection.execute(text("SELECT ARRAY[2::bigint, NULL], ARRAY['{\"a\": 1}'::jsonb]"))).one()

    assert tuple(row) == ([2, None], [{"a": 1}])
