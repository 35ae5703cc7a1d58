"""The log's days: each is a partition, made ahead, or at once if it is missing, and dropped when it is old.

Both are done by functions that run with their owner's rights (migration 0028), so the service need not own the log.

There is no default partition: rows in it would keep their day from ever being made. Instead the writer that meets a
missing day makes it, so that no event is refused for it: on a fresh day, after a month without a worker, under a clock
that jumps.
"""

from datetime import UTC, date, datetime, timedelta

import asyncpg

MADE_AHEAD = timedelta(days=7)
# Waits for other processes that make days, and makes those that are missing then.
MAKE = "SELECT make_log_days($1)"
# Waits for its lock for 300 ms, and notes the last position that is dropped.
DROP = "SELECT drop_log_day($1)"
# Reads the catalogue instead of `to_regclass`, which may remember a day as missing that another process has made.
IS_ANY_MISSING = """
    SELECT EXISTS (
        SELECT FROM generate_series(0, $1) AS n
        WHERE 'event_' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD') NOT IN (
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'event'::regclass))
"""
PRESENT = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'event'::regclass ORDER BY c.relname
"""
FIRST_BETWEEN = """
    SELECT min(position) FROM event
    WHERE received_at >= $1::date::timestamp AT TIME ZONE 'UTC' AND received_at <= $2::timestamptz
"""
# The number of days that are there from today on, today included, until the first missing one.
DAYS_AHEAD = """
    SELECT n::int FROM generate_series(0, 3650) AS n
    WHERE 'event_' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD') NOT IN (
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'event'::regclass)
    ORDER BY n LIMIT 1
"""


async def ensure(connection: asyncpg.Connection, *, ahead: timedelta = MADE_AHEAD) -> int:
    """Make the missing days from today on, and return how many. Inserts go on meanwhile."""
    if not await connection.fetchval(IS_ANY_MISSING, ahead.days):
        return 0
    made: int = await connection.fetchval(MAKE, ahead.days)
    return made


async def ended_before(connection: asyncpg.Connection, moment: datetime) -> list[str]:
    """Return the names of the days that ended before a moment, oldest first."""
    names = [row["relname"] for row in await connection.fetch(PRESENT)]
    return [name for name in names if ends_before(name, moment)]


def ends_before(name: str, moment: datetime) -> bool:
    """Whether a day of this name ends before a moment's day, in UTC."""
    return _day_of(name) + timedelta(days=1) <= moment.astimezone(UTC).date()


async def oldest(connection: asyncpg.Connection) -> str | None:
    """Return the name of the oldest day."""
    return next((row["relname"] for row in await connection.fetch(PRESENT)), None)


async def holds_what_came_late(connection: asyncpg.Connection, name: str, *, until: datetime) -> bool:
    """Whether a day has events that were received after some event of a later day: then a clock was wrong.

    Later days are those up to `until`; days beyond that were written under a wrong clock themselves.
    """
    end = _day_of(name) + timedelta(days=1)
    first_kept = await connection.fetchval(FIRST_BETWEEN, end, until)
    newest = await connection.fetchval(f"SELECT max(position) FROM {name}")
    return first_kept is not None and newest is not None and bool(newest > first_kept)


async def drop(connection: asyncpg.Connection, name: str) -> None:
    """Drop a day; raises `LockNotAvailableError` if it is being read.

    All other statements on the log queue behind this one while it waits for its lock, so it waits for a moment only; a
    day that is in use is dropped the next time.
    """
    await connection.execute(DROP, _day_of(name))


async def days_ahead(connection: asyncpg.Connection) -> int:
    """Return how many days are there from today on, today included, until the first missing one."""
    ahead: int = await connection.fetchval(DAYS_AHEAD)
    return ahead


def _day_of(name: str) -> date:
    return datetime.strptime(name.removeprefix("event_"), "%Y%m%d").replace(tzinfo=UTC).date()
