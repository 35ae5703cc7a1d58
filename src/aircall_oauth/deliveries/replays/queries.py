"""The SQL of running replays: claim one, read its next events, write down how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg

from aircall_oauth.deliveries.reader.queries import Attempt
from aircall_oauth.deliveries.replays.jobs import conditions_of, filters_of
from aircall_oauth.events.query import EventJson, next_events, page_of
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.models.deliveries import Replay, Subscription
from aircall_oauth.storage.statuses import ReplayStatus

LEASE = timedelta(seconds=15)
# A filter may leave out almost everything: one statement looks at so many positions.
FAR = 50_000
BATCH = 64
MOST_BYTES = 4 * 1024 * 1024

# One replay of a subscription runs at a time, the oldest first.
CLAIM = f"""
    UPDATE replay SET lease_until = clock_timestamp() + $1, lease_number = lease_number + 1
    WHERE id = (
        SELECT id FROM replay r
        WHERE status = '{ReplayStatus.RUNNING}' AND (lease_until IS NULL OR lease_until < clock_timestamp())
          AND NOT EXISTS (
              SELECT 1 FROM replay o
              WHERE o.subscription_id = r.subscription_id AND o.status = '{ReplayStatus.RUNNING}' AND o.id < r.id
          )
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING *
"""
# Only by the holder of the lease, and only while nobody has stopped it.
MINE = f"id = $1 AND lease_number = $2 AND status = '{ReplayStatus.RUNNING}'"
KEEP = f"""
    WITH kept AS (
        UPDATE replay SET position = $3, delivered = delivered + $4, failed = failed + $5,
            last_error = coalesce($6, last_error), lease_until = clock_timestamp() + $7,
            status = $8, ended_at = CASE WHEN $8 <> '{ReplayStatus.RUNNING}' THEN clock_timestamp() END
        WHERE {MINE} RETURNING subscription_id
    ), tried AS (
        INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds, replay_id)
        SELECT subscription_id, t.*, $1 FROM kept, unnest(
            $9::text[], $10::bigint[], $11::timestamptz[], $12::text[], $13::int[]
        ) AS t
    )
    SELECT 1 FROM kept
"""
SUBSCRIPTION = f"SELECT * FROM subscription WHERE id = (SELECT subscription_id FROM replay WHERE {MINE})"
GIVE_BACK = "UPDATE replay SET lease_until = NULL WHERE id = $1 AND lease_number = $2"


@dataclass
class Progress:
    """What came of a replay's deliveries since it was last written down."""

    delivered: int = 0
    failed: int = 0
    last_error: str | None = None
    attempts: list[Attempt] = field(default_factory=list)


async def claim(connection: asyncpg.Connection) -> Replay | None:
    """Take over a replay that no worker carries out, if there is one."""
    row = await connection.fetchrow(CLAIM, LEASE)
    return None if row is None else Replay(**dict(row))


async def keep(
    connection: asyncpg.Connection, replay: Replay, progress: Progress, status: ReplayStatus = ReplayStatus.RUNNING
) -> bool:
    """Write down `replay.position` and the progress, and renew the lease.

    Returns false, having written nothing, where the replay was stopped, deleted or taken over.
    """
    tried = progress.attempts
    kept = await connection.fetchval(
        KEEP,
        replay.id,
        replay.lease_number,
        replay.position,
        progress.delivered,
        progress.failed,
        progress.last_error,
        LEASE,
        status,
        [each.event_id for each in tried],
        [each.position for each in tried],
        [each.at for each in tried],
        [each.outcome for each in tried],
        [each.milliseconds for each in tried],
    )
    return kept is not None


async def give_back(connection: asyncpg.Connection, replay: Replay) -> None:
    """Let another worker take the replay over at once."""
    await connection.execute(GIVE_BACK, replay.id, replay.lease_number)


async def subscription_of(connection: asyncpg.Connection, replay: Replay) -> Subscription | None:
    """The replay's subscription as it is now; none where the replay was stopped, deleted or taken over."""
    row = await connection.fetchrow(SUBSCRIPTION, replay.id, replay.lease_number)
    return None if row is None else Subscription.model_construct(**dict(row))


async def next_batch(
    connection: asyncpg.Connection, keys: DataKeys, replay: Replay, subscription: Subscription
) -> tuple[Sequence[EventJson], int]:
    """The replay's next events past `replay.position`, and the position up to which there are no others."""
    conditions, values = conditions_of(filters_of(replay, subscription), replay.since, replay.until, first=5)
    end = min(replay.last_position, replay.position + FAR)
    rows = await connection.fetch(next_events(conditions), replay.position, end, BATCH, MOST_BYTES, *values)
    events, is_cut = await page_of(connection, keys, rows, BATCH)
    return [event for event in events if not event.erased], events[-1].position if is_cut else end
