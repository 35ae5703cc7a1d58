"""The worker's chores around the log: days made ahead, days dropped, fingerprints forgotten."""

from datetime import timedelta

from aircall_oauth import log, partitions
from aircall_oauth.database import database_errors
from aircall_oauth.resources import Resources

logger = log.get(__name__)

# Aircall repeats an event for hours; a fingerprint older than this can meet no repeat.
FINGERPRINTS_KEPT = timedelta(days=7)
BATCH = 5000
# A fingerprint begins with the time of its event, so the old ones come first. An old event may have come late, though.
FORGET = """
    WITH old AS MATERIALIZED (
        SELECT fingerprint FROM event_fingerprint
        WHERE fingerprint > $1 AND fingerprint < int8send(extract(epoch FROM now() - $2::interval)::bigint)
              AND received_at < now() - $2::interval
        ORDER BY fingerprint LIMIT $3
    ), forgotten AS (
        DELETE FROM event_fingerprint USING old WHERE event_fingerprint.fingerprint = old.fingerprint
    )
    SELECT fingerprint FROM old ORDER BY fingerprint DESC LIMIT 1
"""
FORGET_CALLS = """
    DELETE FROM told_call WHERE fingerprint IN (
        SELECT fingerprint FROM told_call WHERE received_at < now() - $1::interval LIMIT $2
    )
"""
# A day of the log goes as a whole, and not at once.
CALLS_OUTLAST_EVENTS = timedelta(days=2)


async def make_days(resources: Resources) -> None:
    """Keep the days of the week to come ready."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            await partitions.ensure(connection)


async def drop_days(resources: Resources) -> None:
    """Drop the days past `AIRCALL_OAUTH_EVENT_RETENTION`."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            dropped = await partitions.drop_older(connection, resources.settings.event_retention)
    if dropped:
        logger.info("days dropped", days=dropped)


async def forget_fingerprints(resources: Resources) -> None:
    """Forget the fingerprints that can meet no repeat any more, and the calls that the log has dropped.

    Some at a time, each in a transaction of its own.
    """
    last: bytes | None = b""
    while last is not None:
        with database_errors():
            async with resources.database.driver_connection() as connection:
                last = await connection.fetchval(FORGET, last, FINGERPRINTS_KEPT, BATCH)
    await _forget_calls(resources, resources.settings.event_retention + CALLS_OUTLAST_EVENTS)


async def _forget_calls(resources: Resources, age: timedelta) -> None:
    forgotten = BATCH
    while forgotten == BATCH:
        with database_errors():
            async with resources.database.driver_connection() as connection:
                answer = await connection.execute(FORGET_CALLS, age, BATCH)
        forgotten = int(answer.split()[-1])
