"""What time it is, where something is deleted because it is old: no single clock is believed.

A clock that jumps ahead makes everything old at once. So the database's clock and this process's must agree, and the
log's age is counted from its newest event too, which no clock makes older.
"""

from datetime import UTC, datetime, timedelta

import asyncpg

from aircall_oauth.errors import ClocksDisagree
from aircall_oauth.storage.database import Database, database_errors

MAY_DIFFER = timedelta(minutes=1)
NEWEST_EVENT = "SELECT received_at FROM event ORDER BY position DESC LIMIT 1"


async def agreed_now(database: Database) -> datetime:
    """The earlier of the database's clock and ours; raises `ClocksDisagree` where they are more than a minute apart."""
    with database_errors():
        async with database.driver_connection() as connection:
            return await agreed(connection)


async def log_now(database: Database) -> datetime:
    """What the age of the log is counted from: `agreed_now`, or when the newest event came in, if that is earlier."""
    with database_errors():
        async with database.driver_connection() as connection:
            return await of_the_log(connection)


async def agreed(connection: asyncpg.Connection) -> datetime:
    """As `agreed_now`, over this connection."""
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    ours = datetime.now(UTC)
    if abs(theirs - ours) > MAY_DIFFER:
        raise ClocksDisagree(theirs - ours)
    return min(theirs, ours)


async def of_the_log(connection: asyncpg.Connection) -> datetime:
    """As `log_now`, over this connection."""
    now = await agreed(connection)
    newest: datetime | None = await connection.fetchval(NEWEST_EVENT)
    return now if newest is None else min(now, newest)
