"""Watches migrations as PostgreSQL runs them: what they lock against the service, and what they do while they have it.

Every table has a row, so that whatever reads, writes or rewrites a table's rows is seen to. How long that would take is
worked out from how many rows the table may have.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import Connection, Engine, event

# Measured with 1.2 million rows of `audit` on a machine that was busy: a CHECK or an index, a new type, an UPDATE.
READ_PER_SECOND, REWRITTEN_PER_SECOND, UPDATED_PER_SECOND = 1_000_000, 200_000, 40_000
# Rows where there are 10,000 customers (docs/sizing.md): 40 million events a day, kept for 30 days.
ROWS = {
    "event": 1_200_000_000,
    "attempt": 1_200_000_000,
    "event_fingerprint": 280_000_000,
    "told_call": 160_000_000,
    "audit": 100_000_000,
    "parked": 10_000_000,
    "event_draft": 1_000_000,
    "erasure_call": 10_000_000,
    "erasure_part": 10_000_000,
    "figure": 10_000_000,
    "flow": 1_000_000,
    "install_attempt": 10_000_000,
    "gap": 1_000_000,
}
# All others have a row or two for each customer, subscription or person.
OTHERWISE = 20_000
BLOCKING = ("AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock")
SEEN = "relname, root, filenode, read, written, lock"
LOOK = f"""
    SELECT c.relname, coalesce(i.inhparent::regclass::text, c.relname), pg_relation_filenode(c.oid),
        pg_stat_get_xact_tuples_returned(c.oid),
        pg_stat_get_xact_tuples_updated(c.oid) + pg_stat_get_xact_tuples_deleted(c.oid),
        (SELECT min(mode) FROM pg_locks l
         WHERE l.relation = c.oid AND l.pid = pg_backend_pid() AND l.granted AND l.mode IN {BLOCKING})
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
"""
COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
    WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
        AND NOT a.atthasdef AND a.attidentity = ''
"""
TABLES = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        AND NOT relispartition AND relname <> 'alembic_version' ORDER BY relname
"""
CHECKS = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'"
ONE_OF = re.compile(r"\(\(?(\w+) = ANY \(\(?ARRAY\['([^']+)'")
VALUES = {
    "text": "'x'",
    "bytea": "'x'",
    "boolean": "false",
    "timestamp with time zone": "now()",
    "jsonb": "'{}'",
}
# What a row needs besides to satisfy the table's checks.
SAMPLES = {"installation": {"status": "'removed'"}, "subscription": {"kind": "'http'", "secret_sealed": "'x'"}}


@dataclass
class Table:
    """What a transaction has done to one table so far."""

    root: str  # the table that it is a part of, or its own name
    filenode: int | None
    read: int = 0
    written: int = 0
    has_locked_rows: bool = False
    seconds: float = 0.0  # for which it would have been locked


@dataclass
class Watch:
    """One migration, from its first statement to its end."""

    name: str
    most_seconds: float
    tables: dict[str, Table]  # those that were there before
    refusals: list[str] = field(default_factory=list)
    _looking: bool = False
    _begun: bool = False

    def before(self, connection: Connection, *_: Any) -> None:
        """Before its first statement, note what the session has read already."""
        if not self._begun and not self._looking:
            self._begun = True
            for name, row in self._look(connection).items():
                list(self._work(name, row))

    def after(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        """Look at what a statement has done."""
        if self._looking:
            return
        rows = self._look(connection)
        work = [told for name, row in rows.items() for told in self._work(name, row)]
        seconds = sum(seconds for _, seconds in work)
        for name, (*_counts, lock) in rows.items():
            self._judge(name, lock, seconds, [told for told, _ in work], statement)

    def _look(self, connection: Connection) -> dict[str, list[Any]]:
        self._looking = True
        try:
            found = connection.exec_driver_sql(LOOK).all()
        finally:
            self._looking = False
        return {name: row for name, *row in found if name in self.tables and name != "alembic_version"}

    def committed(self, _connection: Connection) -> None:
        """No row is locked any more."""
        for table in self.tables.values():
            table.has_locked_rows = False

    def _work(self, name: str, row: list[Any]) -> Iterator[tuple[str, float]]:
        """What the statement did to a table's rows, and how long that would take."""
        root, filenode, read, written, _lock = row
        table, rows = self.tables[name], ROWS.get(root, OTHERWISE)
        if filenode != table.filenode:
            yield f"rewrites {rows:,} rows of {root}", rows / REWRITTEN_PER_SECOND
        elif _grew(table.written, written):
            table.has_locked_rows = True
            yield f"updates {rows:,} rows of {root}", rows / UPDATED_PER_SECOND
        elif _grew(table.read, read):
            yield f"reads {rows:,} rows of {root}", rows / READ_PER_SECOND
        table.filenode, table.read, table.written = filenode, read, written

    def _judge(self, name: str, lock: str | None, seconds: float, work: list[str], statement: str) -> None:
        table = self.tables[name]
        held = lock or ("locks on rows" if table.has_locked_rows else None)
        table.seconds = table.seconds + seconds if held else 0.0
        if seconds and table.seconds > self.most_seconds:
            self.refusals.append(
                f"{self.name} holds {held} of {table.root} for about {table.seconds:,.0f} s: it {', '.join(work)}, "
                f"by {' '.join(statement.split())[:120]}"
            )


def _grew(before: int, now: int) -> bool:
    """Whether a count that PostgreSQL starts anew now and then has grown."""
    return now > (before if now >= before else 0)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Watch each statement that any engine of this process runs while the block lasts."""
    event.listen(Engine, "before_cursor_execute", watch.before)
    event.listen(Engine, "after_cursor_execute", watch.after)
    event.listen(Engine, "commit", watch.committed)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", watch.before)
        event.remove(Engine, "after_cursor_execute", watch.after)
        event.remove(Engine, "commit", watch.committed)


async def tables_of(connection: asyncpg.Connection) -> dict[str, Table]:
    """The tables that are there, each with a row in it."""
    names = [row["relname"] for row in await connection.fetch(TABLES)]
    # No foreign key is checked, and no trigger fires.
    await connection.execute("SET session_replication_role = replica")
    for name in names:
        if not await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {name})"):
            await _fill(connection, name)
    await connection.execute("ANALYZE")
    nodes = await connection.fetch(f"SELECT relname, root, filenode FROM ({LOOK}) AS seen ({SEEN})")
    return {row["relname"]: Table(row["root"], row["filenode"]) for row in nodes}


async def _fill(connection: asyncpg.Connection, table: str) -> None:
    if await connection.fetchval("SELECT relkind = 'p' FROM pg_class WHERE oid = $1::regclass", table):
        await connection.execute(f"CREATE TABLE IF NOT EXISTS {table}_all PARTITION OF {table} DEFAULT")
    checks = " ".join(row[0] for row in await connection.fetch(CHECKS, table))
    allowed = {name: f"'{value}'" for name, value in ONE_OF.findall(checks)} | SAMPLES.get(table, {})
    columns = {name: _value(kind) for name, kind in await connection.fetch(COLUMNS, table)}
    row = {**columns, **{name: value for name, value in allowed.items() if name in columns or table in SAMPLES}}
    values = f"({', '.join(row)}) VALUES ({', '.join(row.values())})" if row else "DEFAULT VALUES"
    await connection.execute(f"INSERT INTO {table} {values}")


def _value(kind: str) -> str:
    """A value of this type; numbers are 0."""
    if kind.endswith("[]"):
        return f"ARRAY[{_value(kind.removesuffix('[]'))}]::{kind}"
    bits = re.fullmatch(r"bit\((\d+)\)", kind)
    return f"B'{'0' * int(bits[1])}'" if bits else VALUES.get(kind, "0")
