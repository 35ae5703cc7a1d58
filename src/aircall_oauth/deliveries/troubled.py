"""Finds subscriptions in trouble: their destination takes nothing or little, or their filter matches nothing."""

from dataclasses import dataclass
from datetime import datetime

from aircall_oauth.resources import Resources
from aircall_oauth.storage import figures
from aircall_oauth.storage.models.deliveries import Health, SubscriptionStatus
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.figures import Name

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

GIVEN_UP = """
    SELECT subscription_id AS id, count(*) AS dead FROM parked
    WHERE dead_at > now() - interval '1 day' AND subscription_id = ANY ($1::text[]) GROUP BY 1
"""
ACTIVE_AND_UP = f"""
    SELECT id FROM subscription WHERE status = '{SubscriptionStatus.ACTIVE}' AND health = '{Health.UP}' ORDER BY id
"""
# Fewer failures a day are told in a subscription's `last_error` only.
FEW_FAILURES = 5


@dataclass(frozen=True)
class Failing:
    """A subscription with a destination that is up and refuses events: what the last 24 hours came to."""

    subscription_id: str
    delivered: int
    failed: int
    given_up: int


@dataclass(frozen=True)
class TakesNothing:
    """A subscription with a destination that is down, or that wants no more (`status` disabled)."""

    subscription_id: str
    status: str
    last_error: str | None
    last_error_at: datetime | None


async def taking_nothing(resources: Resources) -> list[TakesNothing]:
    """List subscriptions with a destination that takes nothing at the moment."""
    async with resources.database.driver_connection() as connection:
        return [TakesNothing(**dict(row)) for row in await connection.fetch(TAKES_NOTHING)]


async def matching_nothing(resources: Resources) -> list[str]:
    """List the ids of subscriptions with a filter that left out every event of the last day, if there were any."""
    async with resources.database.driver_connection() as connection:
        return [row["id"] for row in await connection.fetch(MATCHES_NOTHING)]


async def failing(resources: Resources) -> list[Failing]:
    """List subscriptions that gave up on events within a day, or of which more tries failed than were delivered."""
    async with resources.database.driver_connection() as connection:
        ids = [row["id"] for row in await connection.fetch(ACTIVE_AND_UP)]
        given_up = {row["id"]: row["dead"] for row in await connection.fetch(GIVEN_UP, ids)}
    days = await figures.totals(resources.database, Name.DELIVERIES, ids)
    found = []
    for subscription_id in ids:
        _, delivered, failed = days.get(subscription_id, (0, 0, 0))
        dead = given_up.get(subscription_id, 0)
        if dead or failed > max(delivered, FEW_FAILURES - 1):
            found.append(Failing(subscription_id, delivered, failed, dead))
    return found


async def tell_of_idle_filters(resources: Resources) -> None:
    """Write one log line for each subscription that has a filter matching nothing."""
    for subscription_id in await matching_nothing(resources):
        logger.warning("filter matched no event for a day", subscription_id=subscription_id)
