"""The worker's chores around deliveries: what is past the retention is forgotten."""

from aircall_oauth.resources import Resources
from aircall_oauth.storage import clocks
from aircall_oauth.storage.database import database_errors

BATCH = 5000
FORGET_ATTEMPTS = """
    DELETE FROM attempt WHERE id IN (SELECT id FROM attempt WHERE at < $1 LIMIT $2)
"""
FORGET_PARKED = """
    DELETE FROM parked WHERE (subscription_id, position) IN (
        SELECT subscription_id, position FROM parked WHERE position <= (SELECT dropped_to FROM log_start) LIMIT $1
    )
"""


async def forget_attempts(resources: Resources) -> None:
    """Forget what was tried before `AIRCALL_OAUTH_EVENT_RETENTION`."""
    before = await clocks.log_now(resources.database) - resources.settings.event_retention
    await _in_batches(resources, FORGET_ATTEMPTS, before)


async def forget_parked(resources: Resources) -> None:
    """Forget parked and dead events that the log has dropped: nothing is left to deliver."""
    await _in_batches(resources, FORGET_PARKED)


async def _in_batches(resources: Resources, statement: str, *values: object) -> None:
    """Some rows at a time, each in a transaction of its own."""
    forgotten = BATCH
    while forgotten == BATCH:
        with database_errors():
            async with resources.database.driver_connection() as connection:
                answer = await connection.execute(statement, *values, BATCH)
        forgotten = int(answer.split()[-1])
