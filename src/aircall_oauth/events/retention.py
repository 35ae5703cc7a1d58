"""The worker's chores for the log: make days ahead, drop old days, delete old fingerprints."""

from datetime import datetime, timedelta

import asyncpg

from aircall_oauth.events import expiry
from aircall_oauth.resources import Resources
from aircall_oauth.storage import batches, clocks, partitions
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# Aircall repeats an event for hours; no repeat comes later than this.
FINGERPRINTS_KEPT = timedelta(days=7)
# A fingerprint begins with the time of its event, so old ones come first. But an old event may have been received late.
FORGET = """
    WITH old AS MATERIALIZED (
        SELECT fingerprint FROM event_fingerprint
        WHERE fingerprint > $1 AND fingerprint < int8send(extract(epoch FROM $2::timestamptz)::bigint)
              AND received_at < $2
        ORDER BY fingerprint LIMIT $3
    ), forgotten AS (
        DELETE FROM event_fingerprint USING old WHERE event_fingerprint.fingerprint = old.fingerprint
    )
    SELECT fingerprint FROM old ORDER BY fingerprint DESC LIMIT 1
"""
# Fingerprints with a time in the future never become old, and those before 1970 sort last. Both are rare.
FORGET_AHEAD = """
    DELETE FROM event_fingerprint WHERE fingerprint IN (
        SELECT fingerprint FROM event_fingerprint
        WHERE fingerprint >= int8send(extract(epoch FROM $1::timestamptz)::bigint) AND received_at < $2 LIMIT $3
    )
"""
FORGET_CALLS = """
    DELETE FROM told_call WHERE fingerprint IN (
        SELECT fingerprint FROM told_call WHERE received_at < $1 LIMIT $2
    )
"""
# A day of the log is dropped as a whole, up to this long after its events' retention.
CALLS_OUTLAST_EVENTS = timedelta(days=2)


async def make_days(resources: Resources) -> None:
    """Make the log's days for the coming week."""
    async with resources.database.driver_connection() as connection:
        await partitions.ensure(connection)


async def drop_days(resources: Resources) -> None:
    """Drop the oldest day in which nothing is kept any longer: one per run, so that a mistake costs one day.

    The retention is counted back from the newest event, and a day that was written under a wrong clock is kept.
    """
    async with resources.database.driver_connection() as connection:
        now = await clocks.of_the_log(connection)
        for day in await partitions.ended_before(connection, now - resources.settings.event_retention):
            if await partitions.holds_what_came_late(connection, day, until=now):
                logger.warning("day kept: events in it came after those of later days", day=day)
            else:
                await _drop(connection, day)
                return
        if (early := await _early(resources, connection, now)) is not None:
            await _drop(connection, early)


async def _early(resources: Resources, connection: asyncpg.Connection, now: datetime) -> str | None:
    """Return the oldest day if all its events are past their own retention.

    No day goes before an earlier one: readers that are behind would be told that the earlier one has gone, too.
    """
    keeping = await expiry.keeping_of(resources, connection)
    oldest = await partitions.oldest(connection)
    if oldest is None or not partitions.ends_before(oldest, now - keeping.shortest):
        return None
    if await partitions.holds_what_came_late(connection, oldest, until=now):
        return None
    past = await expiry.past(connection, oldest, keeping, now)
    return oldest if past.is_all else None


async def _drop(connection: asyncpg.Connection, day: str) -> None:
    await partitions.drop(connection, day)
    logger.info("day dropped", day=day)


async def drop_all_before(resources: Resources, age: timedelta) -> list[str]:
    """Drop every day that ended longer ago than `age`, and return their names; raises `ClocksDisagree`."""
    await resources.require_ready()
    async with resources.database.driver_connection() as connection:
        days = await partitions.ended_before(connection, await clocks.agreed(connection) - age)
        for day in days:
            await partitions.drop(connection, day)
    return days


async def forget_fingerprints(resources: Resources) -> None:
    """Delete the fingerprints of events that Aircall repeats no more, and those of calls that the log has dropped.

    In batches, each in a transaction of its own.
    """
    now = await clocks.log_now(resources.database)
    last: bytes | None = b""
    while last is not None:
        async with resources.database.driver_connection() as connection:
            last = await connection.fetchval(FORGET, last, now - FINGERPRINTS_KEPT, batches.BATCH)
    await batches.delete(resources.database, FORGET_AHEAD, now, now - FINGERPRINTS_KEPT)
    calls_before = now - resources.settings.event_retention - CALLS_OUTLAST_EVENTS
    await batches.delete(resources.database, FORGET_CALLS, calls_before)
