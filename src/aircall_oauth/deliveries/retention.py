"""The worker's chores that delete attempts and parked events past the retention."""

from aircall_oauth.resources import Resources
from aircall_oauth.storage import batches, clocks

FORGET_ATTEMPTS = """
    DELETE FROM attempt WHERE id IN (SELECT id FROM attempt WHERE at < $1 LIMIT $2)
"""
FORGET_PARKED = """
    DELETE FROM parked WHERE (subscription_id, position) IN (
        SELECT subscription_id, position FROM parked WHERE position <= (SELECT dropped_to FROM log_start) LIMIT $1
    )
"""


async def forget_attempts(resources: Resources) -> None:
    """Delete attempts older than `AIRCALL_OAUTH_EVENT_RETENTION`."""
    before = await clocks.log_now(resources.database) - resources.settings.event_retention
    await batches.delete(resources.database, FORGET_ATTEMPTS, before)


async def forget_parked(resources: Resources) -> None:
    """Delete the rows of parked and dead events that the log has dropped: nothing is left to deliver."""
    await batches.delete(resources.database, FORGET_PARKED)
