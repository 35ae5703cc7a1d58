"""Finds subscriptions that get nothing: their destination takes nothing, or their filter matches nothing."""

from dataclasses import dataclass
from datetime import datetime

from aircall_oauth.resources import Resources
from aircall_oauth.storage.database import database_errors
from aircall_oauth.storage.models.deliveries import Health, SubscriptionStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

TAKES_NOTHING = f"""
    SELECT id AS subscription_id, status, last_error, last_error_at FROM subscription
    WHERE status = '{SubscriptionStatus.DISABLED}'
       OR (status = '{SubscriptionStatus.ACTIVE}' AND health = '{Health.DOWN}')
    ORDER BY id
"""
# A wanted event leaves an attempt, or is parked behind one that did. So if the position is past the day's events and
# there is neither, none of them was wanted: the log itself need not be searched.
MATCHES_NOTHING = f"""
    WITH day AS (
        SELECT max(position) AS last FROM event
        WHERE received_at BETWEEN now() - interval '1 day' AND now() - interval '1 minute'
    )
    SELECT id FROM subscription, day
    WHERE status = '{SubscriptionStatus.ACTIVE}' AND created_at < now() - interval '1 day' AND position >= day.last
      AND (cardinality(types) > 0 OR cardinality(owners) > 0 OR cardinality(installations) > 0)
      AND NOT EXISTS (SELECT 1 FROM parked WHERE subscription_id = subscription.id)
      AND NOT EXISTS (
          SELECT 1 FROM (
              SELECT at FROM attempt WHERE subscription_id = subscription.id ORDER BY id DESC LIMIT 1
          ) AS newest WHERE at > now() - interval '1 day'
      )
    ORDER BY id
"""


@dataclass(frozen=True)
class TakesNothing:
    """A subscription with a destination that is down, or that wants no more (`status` disabled)."""

    subscription_id: str
    status: str
    last_error: str | None
    last_error_at: datetime | None


async def taking_nothing(resources: Resources) -> list[TakesNothing]:
    """List subscriptions with a destination that takes nothing at the moment."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            return [TakesNothing(**dict(row)) for row in await connection.fetch(TAKES_NOTHING)]


async def matching_nothing(resources: Resources) -> list[str]:
    """List the ids of subscriptions with a filter that left out every event of the last day, if there were any."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            return [row["id"] for row in await connection.fetch(MATCHES_NOTHING)]


async def tell_of_idle_filters(resources: Resources) -> None:
    """Write one log line for each subscription that has a filter matching nothing."""
    for subscription_id in await matching_nothing(resources):
        logger.warning("filter matched no event for a day", subscription_id=subscription_id)
