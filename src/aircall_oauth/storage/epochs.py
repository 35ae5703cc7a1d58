"""The log's epochs: a restored log, or one on a promoted standby, may lack events that its readers have read.

Each new connection checks, before it is used, that the database is the one that the newest epoch began in, and begins
another epoch at the log's end if it is not. So nothing is written into a restored log before its epoch has begun.
"""

from typing import NamedTuple

import asyncpg
from uuid_utils.compat import uuid7

from aircall_oauth.storage import locks

# Identifies cluster, database and timeline, which a restore or a promotion changes.
DATABASE = """
    concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
              (SELECT oid FROM pg_database WHERE datname = current_database()),
              left(pg_walfile_name(pg_current_wal_lsn()), 8))
"""
# The last position that was dropped with its day; NULL where none was.
DROPPED_TO = "(SELECT max(dropped_to) FROM log_start)"
# Where the log ends, be its last events dropped or not.
END = f"greatest((SELECT max(position) FROM event), {DROPPED_TO}, 0)"
# The newest epoch, if it is of this very database. A standby is not asked which one it is.
KNOWN = f"""
    SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(id, '') WHEN database = {DATABASE} THEN id END
    FROM (SELECT) AS one LEFT JOIN LATERAL (SELECT id, database FROM log_epoch ORDER BY number DESC LIMIT 1) AS newest
        ON true
"""
BEGIN = f"INSERT INTO log_epoch (id, database, began_after) SELECT $1, {DATABASE}, {END}"
# A reader of a subscription, or a replay, may have come further in memory than this log goes, whose next positions are
# given to other events. So all leases end, and the next one to take them goes on from where it is written here.
END_LEASES = (
    "UPDATE subscription SET lease_number = lease_number + 1, lease_holder = NULL, lease_until = NULL",
    "UPDATE replay SET lease_number = lease_number + 1, lease_until = NULL WHERE status = 'running'",
)
# A log of a given epoch is the same as this one up to where the first epoch after it began.
COMMON = """
    SELECT min(began_after) FROM log_epoch
    WHERE number > (SELECT number FROM log_epoch WHERE id = $1)
"""
NEWEST = f"""
    SELECT {END} AS head, coalesce(id, '') AS epoch, coalesce(began_after, 0) AS began_after
    FROM (SELECT) AS one
    LEFT JOIN LATERAL (SELECT id, began_after FROM log_epoch ORDER BY number DESC LIMIT 1) AS newest ON true
"""
# Managed variants of PostgreSQL may refuse these functions; then a restore is noticed by positions only.
NOT_TOLD = (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFunctionError)


async def notice(connection: asyncpg.Connection) -> str:
    """Begin an epoch if the database is another one than before. Returns the log's epoch; empty before there is one."""
    try:
        if (known := await connection.fetchval(KNOWN)) is not None:
            return str(known)
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({locks.LOG_EPOCHS})")
            if (known := await connection.fetchval(KNOWN)) is not None:
                return str(known)
            begun = f"log_{uuid7().hex}"
            await connection.execute(BEGIN, begun)
            for leases in END_LEASES:
                await connection.execute(leases)
            return begun
    except (asyncpg.UndefinedTableError, asyncpg.ReadOnlySQLTransactionError, *NOT_TOLD):
        return ""


class Log(NamedTuple):
    """How far the log goes, and the name of its newest epoch with the position it began after; "" and 0 for none."""

    head: int
    epoch: str
    began_after: int


async def newest(connection: asyncpg.Connection) -> Log:
    """Return how far the log goes now, and its epoch."""
    row = await connection.fetchrow(NEWEST)
    return Log(row["head"], row["epoch"], row["began_after"])


async def common_to(connection: asyncpg.Connection, log: Log, epoch: str) -> int | None:
    """Return the position up to which this log is the one of an epoch; None if that is the log's own epoch."""
    if epoch == log.epoch:
        return None
    common: int | None = await connection.fetchval(COMMON, epoch)
    # An epoch that this log does not know began after the copy was made.
    return log.began_after if common is None else common
