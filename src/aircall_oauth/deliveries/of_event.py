"""What became of an event for each subscription: delivered, parked, dead, or not its turn yet."""

from datetime import datetime
from enum import StrEnum

import msgspec

from aircall_oauth.access.callers import Caller
from aircall_oauth.events import query
from aircall_oauth.resources import Resources
from aircall_oauth.storage.database import database_errors


class Became(StrEnum):
    WAITING = "waiting"  # the subscription has not come that far
    DELIVERED = "delivered"
    PARKED = "parked"
    DEAD = "dead"


class Delivery(msgspec.Struct):
    """How far one subscription is with the event."""

    subscription_id: str
    name: str
    status: Became
    attempts: int
    last_outcome: str | None
    last_at: datetime | None


# Parked and dead ones have their rows, tried ones their attempts; for the rest the position and the filter tell.
OF_EACH = f"""
    SELECT s.id, s.name,
        CASE WHEN p.dead_at IS NOT NULL THEN '{Became.DEAD}' WHEN p.position IS NOT NULL THEN '{Became.PARKED}'
             WHEN 'delivered' = ANY (a.outcomes) THEN '{Became.DELIVERED}' ELSE '{Became.WAITING}' END,
        cardinality(a.outcomes), a.outcomes[1], a.last_at
    FROM event e CROSS JOIN subscription s CROSS JOIN LATERAL {query.like_patterns("s")} AS patterns
    LEFT JOIN parked p ON p.subscription_id = s.id AND p.position = e.position
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(outcome ORDER BY id DESC), '{{}}') AS outcomes, max(at) AS last_at
        FROM attempt WHERE event_id = e.id AND subscription_id = s.id
    ) AS a
    WHERE e.id = $1 AND ($2::text IS NULL OR s.owners = ARRAY[$2]) AND (
        p.position IS NOT NULL OR cardinality(a.outcomes) > 0 OR (
            s.position < e.position AND {query.wanted_by("s", "e", "patterns")}
        )
    )
    ORDER BY s.id
"""


async def of_each_subscription(resources: Resources, key: Caller, event_id: str) -> list[Delivery]:
    """What became of an event; an API key bound to an owner sees that owner's subscriptions only."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            rows = await connection.fetch(OF_EACH, event_id, key.owner)
    return [Delivery(*row) for row in rows]
