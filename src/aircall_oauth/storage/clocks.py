"""The time by which old rows are deleted, which does not rely on a single clock.

A clock that jumps ahead would make everything old at once. So the database's clock and this process's must agree, and
the log's age is counted from its newest event too, which no clock makes older.
"""

from datetime import UTC, datetime, timedelta

import asyncpg

from aircall_oauth.errors import ClocksDisagree
from aircall_oauth.storage.database import Database

MAY_DIFFER = timedelta(minutes=1)
NEWEST_EVENT = "SELECT received_at FROM event ORDER BY position DESC LIMIT 1"


async def agreed_now(database: Database) -> datetime:
    """Return the earlier of the database's time and ours; raises `ClocksDisagree` if they differ by over a minute."""
    async with database.driver_connection() as connection:
        return await agreed(connection)


async def log_now(database: Database) -> datetime:
    """Return the time to count the log's age from: `agreed_now`, or when the newest event was received, if earlier."""
    async with database.driver_connection() as connection:
        return await of_the_log(connection)


async def agreed(connection: asyncpg.Connection) -> datetime:
    """Do as `agreed_now` does, over this connection."""
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    ours = datetime.now(UTC)
    if abs(theirs - ours) > MAY_DIFFER:
        raise ClocksDisagree(theirs - ours)
    return min(theirs, ours)


async def of_the_log(connection: asyncpg.Connection) -> datetime:
    """Do as `log_now` does, over this connection."""
    now = await agreed(connection)
    newest: datetime | None = await connection.fetchval(NEWEST_EVENT)
    return now if newest is None else min(now, newest)
