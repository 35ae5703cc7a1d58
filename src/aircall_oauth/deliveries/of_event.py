"""The deliveries of one event: how far each subscription is with it."""

from datetime import datetime
from enum import StrEnum

import msgspec

from aircall_oauth.access.callers import Caller
from aircall_oauth.events import query
from aircall_oauth.resources import Resources
from aircall_oauth.storage.database import database_errors


class DeliveryStatus(StrEnum):
    WAITING = "waiting"  # the subscription has not come to its position
    DELIVERED = "delivered"
    PARKED = "parked"
    DEAD = "dead"


class Delivery(msgspec.Struct):
    """How far one subscription is with the event."""

    subscription_id: str
    name: str
    status: DeliveryStatus
    attempts: int
    last_outcome: str | None
    last_at: datetime | None


# A parked or dead event has a row, a tried one its attempts; for the rest the position and the filter decide.
OF_EACH = f"""
    SELECT s.id, s.name,
        CASE WHEN p.dead_at IS NOT NULL THEN '{DeliveryStatus.DEAD}'
             WHEN p.position IS NOT NULL THEN '{DeliveryStatus.PARKED}'
             WHEN 'delivered' = ANY (a.outcomes) THEN '{DeliveryStatus.DELIVERED}' ELSE '{DeliveryStatus.WAITING}' END,
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
    """List the deliveries of an event. An API key bound to an owner sees that owner's subscriptions only."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            rows = await connection.fetch(OF_EACH, event_id, key.owner)
    return [Delivery(*row) for row in rows]
