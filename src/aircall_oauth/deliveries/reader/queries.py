"""The reader's SQL: events past a position, and the statement that writes findings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import asyncpg
import msgspec

from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.deliveries.reader.queue import Item
from aircall_oauth.events import positions
from aircall_oauth.events.query import EventJson, Filter, next_events, page_of
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.statuses import Health, SubscriptionStatus

# A filter may leave out almost everything: one statement looks this many positions ahead.
FAR = 50_000
# Positions have gaps: where a commit failed, and where a day was dropped.
SPARE = 1000
# Only the holder of the lease writes. Findings about the destination are written only if the row still has the version
# that was read: another version may have another destination.
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
        INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, subject, attempts,
                            reason, due_at, dead_at)
        SELECT mine.id, p.* FROM mine,
            unnest($17::bigint[], $18::timestamptz[], $19::text[], $20::text[], $21::text[], $22::integer[],
                   $23::text[], $24::timestamptz[], $25::timestamptz[]) AS p
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


class Attempt(NamedTuple):
    """One attempt of a delivery, as a row of the table."""

    event_id: str
    position: int
    at: datetime
    outcome: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that is parked or dead now."""

    item: Item
    attempts: int
    reason: str
    due_at: datetime | None
    dead_at: datetime | None


@dataclass
class Findings:
    """What deliveries came to and is not written down yet."""

    attempts: list[Attempt] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)  # positions of parked events
    parked: dict[int, ParkedEvent] = field(default_factory=dict)  # by position
    last_error: str | None = None
    last_error_at: datetime | None = None

    @property
    def concern_parked(self) -> bool:
        """Whether rows of parked events are to be added, changed or deleted."""
        return bool(self.delivered or self.parked)

    def after(self, earlier: "Findings") -> "Findings":
        """Return these findings joined to earlier ones that could not be written."""
        parked = {position: each for position, each in earlier.parked.items() if position not in self.delivered}
        return Findings(
            [*earlier.attempts, *self.attempts],
            [*earlier.delivered, *self.delivered],
            parked | self.parked,
            self.last_error or earlier.last_error,
            self.last_error_at or earlier.last_error_at,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A reader's position, and what it knows of the destination."""

    subscription_id: str
    lease_number: int
    version: int
    position: int
    health: Health
    quiet_until: datetime | None
    probes: int
    gone: bool


async def read(
    connection: asyncpg.Connection, keys: DataKeys, wanted: Filter, after: int, *, limit: int, most_bytes: int
) -> tuple[list[Item], int, bool]:
    """Read the next events past a position.

    Returns them, the position up to which there are no others, and whether there is more to read. Raises
    `DataKeyUnusable` if the first of them does not open: the reader stops there.
    """
    # What is about the subscription itself is rare, and left out here: without conditions the statement is cheaper.
    conditions, values = replace(wanted, own_id=None).sql(first=5)
    head = await positions.newest_position(connection)
    # Always bounded: without statistics of a new day the database would sort all that lies ahead, for a few events.
    end = min(head, after + (FAR if conditions else limit + SPARE))
    if end <= after:
        return [], after, False
    rows = await connection.fetch(next_events(conditions), after, end, limit, most_bytes, *values)
    events, is_cut = await page_of(connection, keys, rows, limit)
    items = [item_of(event) for event in events if not (event.erased or wanted.is_about_itself(event))]
    if is_cut:
        return items, events[-1].position, True
    return items, end, end < head


async def read_unfiltered(
    connection: asyncpg.Connection, keys: DataKeys, after: int, *, limit: int, most_bytes: int
) -> tuple[list[EventJson], int, bool]:
    """Read as `read` does, without a filter, and with one statement if there are any events."""
    end = after + limit + SPARE
    rows = await connection.fetch(next_events(""), after, end, limit, most_bytes)
    if not rows:
        # The end of the log is asked for before the events up to it: one committed in between must not be passed over.
        head = await positions.newest_position(connection)
        end = min(head, end)
        if head <= after:
            return [], head, False
        rows = await connection.fetch(next_events(""), after, end, limit, most_bytes)
        if not rows:
            return [], end, head > end
    events, is_cut = await page_of(connection, keys, rows, limit)
    return events, events[-1].position, is_cut


async def keep_positions(connection: asyncpg.Connection, checkpoints: Sequence[Checkpoint]) -> set[str]:
    """Write the positions, and nothing else, of many checkpoints; returns the ids of the subscriptions that moved."""
    rows = await connection.fetch(
        KEEP_POSITIONS,
        [each.subscription_id for each in checkpoints],
        [each.lease_number for each in checkpoints],
        [each.position for each in checkpoints],
    )
    return {row["id"] for row in rows}


async def keep(connection: asyncpg.Connection, checkpoint: Checkpoint, findings: Findings) -> tuple[int, bool] | None:
    """Move the position and write down the findings, or neither.

    Returns the subscription's version and whether it is active; None if another worker reads for it, or it is gone.
    """
    attempts, parked = findings.attempts, list(findings.parked.values())
    row = await connection.fetchrow(
        KEEP,
        checkpoint.subscription_id,
        checkpoint.lease_number,
        checkpoint.position,
        checkpoint.version,
        checkpoint.health,
        checkpoint.quiet_until,
        checkpoint.probes,
        checkpoint.gone,
        findings.last_error,
        findings.last_error_at,
        *(zip(*attempts, strict=True) if attempts else [()] * len(Attempt._fields)),
        findings.delivered,
        [each.item.position for each in parked],
        [each.item.received_at for each in parked],
        [each.item.message.event_id for each in parked],
        [each.item.installation_id for each in parked],
        [each.item.about for each in parked],
        [each.attempts for each in parked],
        [each.reason for each in parked],
        [each.due_at for each in parked],
        [each.dead_at for each in parked],
    )
    return None if row is None else (row["version"], row["status"] == SubscriptionStatus.ACTIVE)


def message_of(event: EventJson) -> Message:
    """Return the message that goes out for an event."""
    return Message(event.id, event.installation_id, event.type, msgspec.json.encode(event))


def item_of(event: EventJson) -> Item:
    """Return an event, to be delivered."""
    return Item(message_of(event), event.position, event.received_at, event.about)
