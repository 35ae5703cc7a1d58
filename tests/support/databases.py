"""Databases of tests: copies of a migrated template, and one that is emptied between tests where that is enough."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg

from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage import migrations, partitions
from tests.support.kept import Kept

# Whatever creates, alters or drops something in a database draws a number in it.
NOTE_CHANGES = """
    CREATE SCHEMA of_tests;
    CREATE SEQUENCE of_tests.change;
    CREATE FUNCTION of_tests.note_change() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN PERFORM nextval('of_tests.change'); END $$;
    CREATE EVENT TRIGGER note_change ON ddl_command_end EXECUTE FUNCTION of_tests.note_change()
"""
IS_AS_MADE = """
    SELECT NOT is_called AND version_num = $1
           AND NOT EXISTS (SELECT FROM pg_db_role_setting JOIN pg_database ON setdatabase = pg_database.oid
                           WHERE datname = current_database())
           AND (SELECT datconnlimit = -1 FROM pg_database WHERE datname = current_database())
    FROM of_tests.change, alembic_version
"""
HANG_UP = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> ALL ($1::int[])
"""
TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
"""
START_NUMBERS_AGAIN = """
    SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false) FROM pg_sequences
    WHERE last_value IS NOT NULL
"""
# Emptying a small table costs less than giving it new files.
MANY_BYTES = 256 * 1024


@dataclass
class _Copy:
    """What is known of a database that was copied from another one."""

    of: str
    url: str
    # Both stay open: the one has made its plans, the other is for what tests look at.
    connection: asyncpg.Connection | None = None
    looker: asyncpg.Connection | None = None
    names_filled: str = ""
    of_services: Kept = field(init=False)

    def __post_init__(self) -> None:
        self.of_services = Kept(self.url)

    def processes(self) -> list[int]:
        """Return the ids of the processes of PostgreSQL that are behind what is open."""
        return [one.get_server_pid() for one in self._open_ones()] + self.of_services.processes()

    async def close(self) -> None:
        for connection in self._open_ones():
            await connection.close()
        await self.of_services.close()

    def _open_ones(self) -> list[asyncpg.Connection]:
        return [one for one in (self.connection, self.looker) if one is not None and not one.is_closed()]


# By server, as a test process has several now and then.
_templates: set[tuple[int, str]] = set()
_copies: dict[tuple[int, str], _Copy] = {}


async def fresh_database(server: Postgres, name: str) -> str:
    """Return the address of a migrated database with nothing in it, in place of whatever had the name."""
    template, copy = await template_of_today(server), _copies.get((id(server), name))
    if copy is None or copy.of != template or not await _emptied(copy):
        await copy_database(server, name, of=template)
    return server.dsn(name)


@asynccontextmanager
async def migrated_database(server: Postgres, name: str) -> AsyncIterator[str]:
    """The address of a fresh, migrated database that lasts as long as the block."""
    await copy_database(server, name, of=await template_of_today(server))
    yield server.dsn(name)
    await _close_kept(server, name)
    del _copies[id(server), name]
    await administer(server, f"DROP DATABASE {name} WITH (FORCE)")


async def template_of_today(server: Postgres) -> str:
    """The migrated template with the days that a service makes at its start: another one after midnight."""
    name = f"template_{datetime.now(UTC):%Y%m%d}"
    if (id(server), name) not in _templates:
        await administer(server, f"CREATE DATABASE {name}")
        await migrations.migrate(server.dsn(name))
        connection = await asyncpg.connect(server.dsn(name))
        try:
            await partitions.ensure(connection)
            await connection.execute(NOTE_CHANGES)
        finally:
            await connection.close()
        # The next connection writes down what every connection to this database, or to a copy of it, reads first.
        await (await asyncpg.connect(server.dsn(name))).close()
        _templates.add((id(server), name))
    return name


async def copy_database(server: Postgres, name: str, *, of: str) -> None:
    """A database as that one is, in place of whatever had the name."""
    for copied in (name, of):
        await _close_kept(server, copied)
    drop, create = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name} TEMPLATE {of}"
    await administer(server, drop, f"{create} STRATEGY FILE_COPY")
    _copies[id(server), name] = _Copy(of, server.dsn(name))


async def _close_kept(server: Postgres, name: str) -> None:
    """Have PostgreSQL end what was kept, so that it need not be waited for when the database is dropped."""
    if copy := _copies.get((id(server), name)):
        await copy.close()


async def hang_up() -> None:
    """Close the connections that were kept."""
    for copy in _copies.values():
        await copy.close()


async def close_kept(url: str) -> None:
    """Close the connections that are kept for services, for a test that counts all that are open."""
    if copy := _at(url):
        await copy.of_services.close()


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database, kept for the next look where it is a copy; several at a time may look."""
    looker, copy = None, _at(url)
    if copy is not None:
        looker, copy.looker = copy.looker, None
    if looker is None or looker.is_closed():
        looker = await asyncpg.connect(url, statement_cache_size=0)
    is_kept = False
    try:
        yield looker
        copy = _at(url)
        is_kept = copy is not None and copy.looker is None and not looker.is_in_transaction()
    finally:
        if copy is not None and is_kept:
            copy.looker = looker
        else:
            await looker.close()


def _at(url: str) -> _Copy | None:
    return next((copy for copy in _copies.values() if copy.url == url), None)


async def administer(server: Postgres, *statements: str) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _emptied(copy: _Copy) -> bool:
    """Whether the database is as it was made again: never once something but rows has changed in it."""
    try:
        connection = await _connected(copy)
        if not await connection.fetchval(IS_AS_MADE, migrations.newest_schema_version()):
            return False
        await connection.fetch(HANG_UP, copy.processes())
        if copy.looker is not None:
            await copy.looker.reset()
            # The role, too, and what was prepared.
            await copy.looker.execute("DISCARD ALL")
        filled = await connection.fetch(copy.names_filled)
        statements = [
            f"TRUNCATE {row['name']} CASCADE" if row["bytes"] > MANY_BYTES else f"DELETE FROM {row['name']}"
            for row in filled
        ]
        # Neither triggers nor foreign keys have a say.
        together = ("BEGIN", "SET LOCAL session_replication_role = replica", *statements, "COMMIT")
        await connection.execute("; ".join(together))
        await connection.fetch(START_NUMBERS_AGAIN)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False
    return True


async def _connected(copy: _Copy) -> asyncpg.Connection:
    if copy.connection is None or copy.connection.is_closed():
        copy.connection = await asyncpg.connect(copy.url)
        tables = [row[0] for row in await copy.connection.fetch(TABLES)]
        copy.names_filled = " UNION ALL ".join(
            f"SELECT '{table}' AS name, pg_relation_size('{table}') AS bytes WHERE EXISTS (SELECT FROM {table})"
            for table in tables
        )
    return copy.connection
