"""The reader's SQL: events past a position, parked ones that are due, and what keeps the findings of deliveries."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import msgspec

from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.deliveries.reader.queue import Item
from aircall_oauth.events import store
from aircall_oauth.events.query import COLUMNS, EventJson, Filter, event_of, next_events
from aircall_oauth.storage.models.deliveries import Health, SubscriptionStatus

# A filter may leave out almost everything: so far one statement looks.
FAR = 50_000
# Positions may have gaps: where a commit failed, and where a day was dropped.
SPARE = 1000
CHAIN = 32
DUE = f"""
    SELECT {COLUMNS}, attempts FROM (
        SELECT *, sum(octet_length(data)) OVER (ORDER BY position) - octet_length(data) AS past FROM event JOIN (
            SELECT position AS place, received_at AS day, attempts FROM parked
            WHERE subscription_id = $1 AND due_at <= statement_timestamp() AND position <> ALL ($3::bigint[])
            ORDER BY due_at LIMIT $4
        ) AS due ON position = place AND received_at = day
    ) AS next
    WHERE past < $2 ORDER BY position
"""
# An installation's first parked event decides for those behind it; one that was never tried is due at once. By one
# moment for all rows of a chain: by a clock that goes on, its first ones could be left out, and the others not. What is
# cut off by its bytes is the end of each chain.
DUE_CHAINS = f"""
    SELECT {COLUMNS}, attempts FROM (
        SELECT event.*, attempts, sum(octet_length(data)) OVER (ORDER BY position) - octet_length(data) AS past
        FROM unnest($3::text[]) AS blocked
        CROSS JOIN LATERAL (
            SELECT due_at FROM parked WHERE subscription_id = $1 AND installation_id = blocked AND dead_at IS NULL
            ORDER BY position LIMIT 1
        ) AS head
        CROSS JOIN LATERAL (
            SELECT position AS place, received_at AS day, attempts FROM parked
            WHERE subscription_id = $1 AND installation_id = blocked AND dead_at IS NULL
            ORDER BY position LIMIT {CHAIN}
        ) AS chain
        JOIN event ON position = place AND received_at = day
        WHERE head.due_at IS NULL OR head.due_at <= statement_timestamp()
    ) AS next
    WHERE past < $2 ORDER BY position
"""
BLOCKED = """
    SELECT installation_id, count(*) AS parked FROM parked WHERE subscription_id = $1 AND dead_at IS NULL GROUP BY 1
"""
# Only by the holder of the lease; what is known of the destination only where it is still that destination.
KEEP = f"""
    WITH mine AS (
        UPDATE subscription SET
            position = $3,
            health = CASE version WHEN $4 THEN $5 ELSE health END,
            quiet_until = CASE version WHEN $4 THEN $6 ELSE quiet_until END,
            probes = CASE version WHEN $4 THEN $7 ELSE probes END,
            status = CASE WHEN version = $4 AND $8 THEN '{SubscriptionStatus.DISABLED}' ELSE status END,
            last_error = coalesce($9, last_error),
            last_error_at = coalesce($10, last_error_at)
        WHERE id = $1 AND lease_number = $2
        RETURNING id, version, status
    ), tried AS (
        INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds)
        SELECT mine.id, a.* FROM mine,
            unnest($11::text[], $12::bigint[], $13::timestamptz[], $14::text[], $15::integer[]) AS a
    ), delivered AS (
        DELETE FROM parked USING mine WHERE subscription_id = mine.id AND position = ANY ($16::bigint[])
    ), beside AS (
        INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason,
                            due_at, dead_at)
        SELECT mine.id, p.* FROM mine,
            unnest($17::bigint[], $18::timestamptz[], $19::text[], $20::text[], $21::integer[], $22::text[],
                   $23::timestamptz[], $24::timestamptz[]) AS p
        ON CONFLICT (subscription_id, position) DO UPDATE SET attempts = excluded.attempts, reason = excluded.reason,
            due_at = excluded.due_at, dead_at = excluded.dead_at
    )
    SELECT version, status FROM mine
"""
KEEP_POSITIONS = """
    UPDATE subscription SET position = place.position
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS place (subscription_id, lease_number, position)
    WHERE id = subscription_id AND subscription.lease_number = place.lease_number
      AND subscription.position < place.position
    RETURNING id
"""


class Tried(NamedTuple):
    """One attempt."""

    event_id: str
    position: int
    at: datetime
    outcome: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Beside:
    """An event that is parked or dead now."""

    item: Item
    attempts: int
    reason: str
    due_at: datetime | None
    dead_at: datetime | None


@dataclass
class Findings:
    """What deliveries came to, and is not kept yet."""

    tried: list[Tried] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)  # positions of parked events
    beside: dict[int, Beside] = field(default_factory=dict)
    last_error: str | None = None
    last_error_at: datetime | None = None

    def after(self, earlier: "Findings") -> "Findings":
        """Both, where the earlier could not be kept."""
        beside = {position: each for position, each in earlier.beside.items() if position not in self.delivered}
        return Findings(
            [*earlier.tried, *self.tried],
            [*earlier.delivered, *self.delivered],
            beside | self.beside,
            self.last_error or earlier.last_error,
            self.last_error_at or earlier.last_error_at,
        )


@dataclass(frozen=True)
class Place:
    """Where a reader stands, and what it knows of the destination."""

    subscription_id: str
    lease_number: int
    version: int
    position: int
    health: Health
    quiet_until: datetime | None
    probes: int
    gone: bool


async def read(
    connection: asyncpg.Connection, wanted: Filter, after: int, *, limit: int, most_bytes: int
) -> tuple[list[Item], int, bool]:
    """The next events past a position; the place up to which there are no others; whether there is more to read."""
    conditions, values = wanted.sql(first=5)
    head = await store.newest_position(connection)
    # Bounded always: without statistics of a new day the database sorts all that lies ahead, for a few of them.
    end = min(head, after + (FAR if conditions else limit + SPARE))
    if end <= after:
        return [], after, False
    rows = await connection.fetch(next_events(conditions), after, end, limit, most_bytes, *values)
    items = [_item(row[:-1]) for row in rows]
    if rows and (rows[0]["found"] == limit or rows[0]["found"] > len(rows)):
        return items, items[-1].position, True
    return items, end, end < head


async def came(
    connection: asyncpg.Connection, after: int, *, limit: int, most_bytes: int
) -> tuple[list[EventJson], int, bool]:
    """As `read`, for all events alike, and with one statement where there are any."""
    end = after + limit + SPARE
    rows = await connection.fetch(next_events(""), after, end, limit, most_bytes)
    if not rows:
        # The end of the log is asked for before what lies ahead of it: what is committed in between must not be passed.
        head = await store.newest_position(connection)
        end = min(head, end)
        if head <= after:
            return [], head, False
        rows = await connection.fetch(next_events(""), after, end, limit, most_bytes)
        if not rows:
            return [], end, head > end
    events = [event_of(row[:-1]) for row in rows]
    return events, events[-1].position, rows[0]["found"] == limit or rows[0]["found"] > len(rows)


async def keep_positions(connection: asyncpg.Connection, places: Sequence[Place]) -> set[str]:
    """Move the positions of many subscriptions, of which nothing else is to be kept; of which that was done."""
    rows = await connection.fetch(
        KEEP_POSITIONS,
        [place.subscription_id for place in places],
        [place.lease_number for place in places],
        [place.position for place in places],
    )
    return {row["id"] for row in rows}


async def due(
    connection: asyncpg.Connection, subscription_id: str, *, but: Sequence[int], limit: int, most_bytes: int
) -> list[Item]:
    """Parked events whose time has come, without those that are under way; one at least where there is one."""
    return [_parked(row) for row in await connection.fetch(DUE, subscription_id, most_bytes, but, limit)]


async def due_chains(
    connection: asyncpg.Connection, subscription_id: str, installation_ids: Sequence[str], *, most_bytes: int
) -> list[Item]:
    """Of these installations, the first parked events of those whose very first is due; one at least."""
    return [_parked(row) for row in await connection.fetch(DUE_CHAINS, subscription_id, most_bytes, installation_ids)]


async def blocked(connection: asyncpg.Connection, subscription_id: str) -> Counter[str]:
    """How many events of each installation are parked."""
    rows = await connection.fetch(BLOCKED, subscription_id)
    return Counter({row["installation_id"]: row["parked"] for row in rows})


async def keep(connection: asyncpg.Connection, place: Place, findings: Findings) -> tuple[int, bool] | None:
    """Move the position, and write down what came of the deliveries, or neither.

    The subscription's version and whether it is active; None where somebody else reads for it, or it is gone.
    """
    tried, beside = findings.tried, list(findings.beside.values())
    row = await connection.fetchrow(
        KEEP,
        place.subscription_id,
        place.lease_number,
        place.position,
        place.version,
        place.health,
        place.quiet_until,
        place.probes,
        place.gone,
        findings.last_error,
        findings.last_error_at,
        *(zip(*tried, strict=True) if tried else [()] * len(Tried._fields)),
        findings.delivered,
        [each.item.position for each in beside],
        [each.item.received_at for each in beside],
        [each.item.message.event_id for each in beside],
        [each.item.installation_id for each in beside],
        [each.attempts for each in beside],
        [each.reason for each in beside],
        [each.due_at for each in beside],
        [each.dead_at for each in beside],
    )
    return None if row is None else (row["version"], row["status"] == SubscriptionStatus.ACTIVE)


def message_of(event: EventJson) -> Message:
    """What goes out of an event."""
    return Message(event.id, event.installation_id, event.type, msgspec.json.encode(event))


def _item(row: Any) -> Item:
    event = event_of(row)
    return Item(message_of(event), event.position, event.received_at)


def _parked(row: Any) -> Item:
    *event, attempts = row
    item = _item(event)
    item.parked, item.attempts = True, attempts
    return item
