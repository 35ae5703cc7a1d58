"""Finds subscriptions in trouble: their destination takes nothing or little, or their filter matches nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from aircall_oauth.deliveries.destinations.outcomes import DELIVERED
from aircall_oauth.resources import Resources
from aircall_oauth.storage import figures
from aircall_oauth.storage.statuses import Health, SubscriptionStatus
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.figures import Delivery, Name

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

# Of the newest tries, those that were made after the last one that was taken. A destination that answers, and has taken
# none of the events that came after the last one it took, refuses them all; so few could be to blame themselves.
NEWEST = 20
PROOF = 3
SINCE_TAKEN = f"""
    SELECT id, event_id, position, at, outcome, took FROM (
        SELECT *, max(id) FILTER (WHERE outcome = '{DELIVERED}') OVER () AS took,
            max(position) FILTER (WHERE outcome = '{DELIVERED}') OVER () AS taken_to
        FROM (SELECT * FROM attempt WHERE subscription_id = {{}} ORDER BY id DESC LIMIT {NEWEST}) AS newest
    ) AS tries
"""
REFUSES = f"""
    SELECT subscription.id AS subscription_id, failed.events, failed.last_failure
    FROM subscription CROSS JOIN LATERAL (
        SELECT count(DISTINCT event_id) AS events, (array_agg(outcome ORDER BY id DESC))[1] AS last_failure
        FROM ({SINCE_TAKEN.format("subscription.id")} WHERE took IS NULL OR (id > took AND position > taken_to)) AS no
        HAVING bool_and(took IS NULL) OR count(DISTINCT event_id) >= {PROOF}
    ) AS failed
    WHERE status = '{SubscriptionStatus.ACTIVE}' AND health = '{Health.UP}' AND ($1::text[] IS NULL OR id = ANY ($1))
      AND EXISTS (SELECT FROM parked WHERE subscription_id = subscription.id AND dead_at IS NULL)
    ORDER BY 1
"""
# An outage is dated by its first try, which may lie far back: each resumption in vain adds a run of tries. The order by
# both columns of the index, of a range, keeps PostgreSQL off the primary key, by which it would read the tries of all
# subscriptions since.
MOST_TRIES = 1_000
FAILURES = f"""
    WITH newest AS MATERIALIZED (
        SELECT id, at, outcome FROM attempt WHERE subscription_id BETWEEN $1 AND $1
        ORDER BY subscription_id DESC, id DESC LIMIT $2
    ), taken AS (
        SELECT max(id) AS id FROM newest WHERE outcome = '{DELIVERED}'
    )
    SELECT taken.id AS took, min(at) AS since FROM newest, taken
    WHERE taken.id IS NULL OR newest.id > taken.id GROUP BY 1
"""

# Well again after an outage: its newest tries were all taken; or the newest one, and none waits to be tried again.
DELIVERS_AGAIN = f"""
    SELECT s.id FROM unnest($1::text[]) AS s (id) CROSS JOIN LATERAL (
        SELECT (array_agg(outcome ORDER BY id DESC))[1] = '{DELIVERED}' AS newest,
            count(*) = {NEWEST} AND bool_and(outcome = '{DELIVERED}') AS all
        FROM (SELECT id, outcome FROM attempt WHERE subscription_id = s.id ORDER BY id DESC LIMIT {NEWEST}) AS tries
    ) AS taken
    WHERE taken.all OR (taken.newest AND NOT EXISTS (
        SELECT FROM parked WHERE subscription_id = s.id AND dead_at IS NULL
    ))
"""
# Of the events that were tried within an hour, by the newest tries, those that were not taken since, and are kept.
NEWEST_OF_AN_HOUR = 500
UNTAKEN = f"""
    SELECT s.id, events.tried, events.untaken, events.last_failure
    FROM unnest($1::text[]) AS s (id) CROSS JOIN LATERAL (
        SELECT count(*) AS tried, count(*) FILTER (WHERE NOT taken) AS untaken,
            (array_agg(last ORDER BY id DESC) FILTER (WHERE NOT taken))[1] AS last_failure
        FROM (
            SELECT event_id, max(id) AS id, bool_or(outcome = '{DELIVERED}') OR NOT EXISTS (
                    SELECT FROM parked WHERE subscription_id = s.id AND position = min(newest.position)
                ) AS taken, (array_agg(outcome ORDER BY id DESC))[1] AS last
            FROM (
                SELECT * FROM attempt WHERE subscription_id = s.id ORDER BY id DESC LIMIT {NEWEST_OF_AN_HOUR}
            ) AS newest
            WHERE at > now() - interval '1 hour' GROUP BY event_id
        ) AS event
    ) AS events
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
DAY, LATELY = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True)
class Failing:
    """A subscription with a destination that is up and refuses events: what the last 24 hours came to."""

    subscription_id: str
    delivered: int
    failed: int
    given_up: int

    @property
    def is_mostly(self) -> bool:
        """Whether more tries failed than were delivered, and more than a few."""
        return self.failed > max(self.delivered, FEW_FAILURES - 1)


@dataclass(frozen=True)
class TakesNothing:
    """A subscription with a destination that is down, or that wants no more (`status` disabled)."""

    subscription_id: str
    status: str
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True)
class Refusing:
    """A subscription with a destination that is up and took none of its newest tries, of so many events."""

    subscription_id: str
    events: int
    last_failure: str


@dataclass(frozen=True)
class Lately:
    """How a subscription's destination took its newest tries: what of them it refuses, and whether it is well again."""

    refuses_all: bool = False
    tried: int = 0  # events within an hour
    untaken: int = 0  # those of them that it has not taken since
    last_failure: str | None = None
    delivers_again: bool = False


async def lately(resources: Resources, ids: Sequence[str]) -> dict[str, Lately]:
    """Return how the destinations of some subscriptions took their newest tries."""
    refusing_all = {each.subscription_id for each in await refusing(resources, ids) if each.events >= PROOF}
    async with resources.database.driver_connection() as connection:
        again = {row["id"] for row in await connection.fetch(DELIVERS_AGAIN, ids)}
        rows = await connection.fetch(UNTAKEN, ids)
    return {
        row["id"]: Lately(
            row["id"] in refusing_all, row["tried"], row["untaken"], row["last_failure"], row["id"] in again
        )
        for row in rows
    }


async def taking_nothing(resources: Resources) -> list[TakesNothing]:
    """List subscriptions with a destination that takes nothing at the moment."""
    async with resources.database.driver_connection() as connection:
        return [TakesNothing(**dict(row)) for row in await connection.fetch(TAKES_NOTHING)]


async def matching_nothing(resources: Resources) -> list[str]:
    """List the ids of subscriptions with a filter that left out every event of the last day, if there were any."""
    async with resources.database.driver_connection() as connection:
        return [row["id"] for row in await connection.fetch(MATCHES_NOTHING)]


async def refusing(resources: Resources, ids: Sequence[str] | None = None) -> list[Refusing]:
    """List subscriptions, or those of some ids, with a destination that is up and refuses each event."""
    async with resources.database.driver_connection() as connection:
        return [Refusing(**dict(row)) for row in await connection.fetch(REFUSES, ids)]


async def failing_since(resources: Resources, subscription_id: str) -> datetime | None:
    """Return when the tries began to fail, of which none was taken since; None if the newest one was taken."""
    async with resources.database.driver_connection() as connection:
        row = await connection.fetchrow(FAILURES, subscription_id, MOST_TRIES)
    if row is None:
        return None
    first: datetime = row["since"]
    if row["took"] is not None:
        return first
    counted = await figures.began(
        resources.database, Name.DELIVERIES, subscription_id, bad=Delivery.FAILED, good=Delivery.DELIVERED
    )
    return first if counted is None else min(counted, first)


async def failing(resources: Resources) -> list[Failing]:
    """List subscriptions that gave up on events within a day, or of which more tries failed than were delivered."""
    counted = await _counted(resources, DAY)
    async with resources.database.driver_connection() as connection:
        given_up = {row["id"]: row["dead"] for row in await connection.fetch(GIVEN_UP, list(counted))}
    return [
        replace(each, given_up=given_up.get(each.subscription_id, 0))
        for each in counted.values()
        if each.is_mostly or each.subscription_id in given_up
    ]


async def failing_lately(resources: Resources) -> list[Failing]:
    """List subscriptions of which more tries failed within an hour than were delivered, and that are not well again.

    What is counted is a minute late; the tries are not.
    """
    found = [each for each in (await _counted(resources, LATELY)).values() if each.is_mostly]
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(DELIVERS_AGAIN, [each.subscription_id for each in found])
    again = {row["id"] for row in rows}
    return [each for each in found if each.subscription_id not in again]


async def _counted(resources: Resources, within: timedelta) -> dict[str, Failing]:
    async with resources.database.driver_connection() as connection:
        ids = [row["id"] for row in await connection.fetch(ACTIVE_AND_UP)]
    found = await figures.totals(resources.database, Name.DELIVERIES, ids, within=within)
    nothing = [0] * len(Delivery)
    return {
        each: Failing(each, counts[Delivery.DELIVERED], counts[Delivery.FAILED], 0)
        for each in ids
        for counts in [found.get(each, nothing)]
    }


async def tell_of_idle_filters(resources: Resources) -> None:
    """Write one log line for each subscription that has a filter matching nothing."""
    for subscription_id in await matching_nothing(resources):
        logger.warning("filter matched no event for a day", subscription_id=subscription_id)
