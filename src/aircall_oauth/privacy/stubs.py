"""Turns events into stubs, and deletes what waits of them beside the log; in the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from aircall_oauth.storage import locks
from aircall_oauth.storage.models.deliveries import SUBSCRIPTIONS_CHANGED

# To be taken first, so that two who do so never wait for each other.
LOCK = f"SELECT pg_advisory_xact_lock({locks.ERASURES})"
ERASE = """
    UPDATE event SET data = 'null', sealed = NULL, data_key = NULL, subject = NULL, erased_at = clock_timestamp()
    FROM unnest($1::bigint[], $2::timestamptz[]) AS found (place, day)
    WHERE position = place AND received_at = day AND received_at BETWEEN $3 AND $4 AND erased_at IS NULL
    RETURNING event.position, event.id, event.tableoid::regclass::text AS day
"""
# In the order in which a reader that writes its findings takes the locks: the subscription's first.
HOLDERS = """
    SELECT id FROM subscription WHERE id IN (SELECT subscription_id FROM parked WHERE position = ANY ($1::bigint[]))
    ORDER BY id FOR UPDATE
"""
FREE = "DELETE FROM parked WHERE subscription_id = ANY ($1::text[]) AND position = ANY ($2::bigint[])"
# Its reader begins anew, with what is parked now, and without what it has read.
RENEW = """
    WITH renewed AS (UPDATE subscription SET version = version + 1 WHERE id = ANY ($1::text[]) RETURNING id)
    SELECT pg_notify($2, id) FROM renewed
"""


async def free(connection: asyncpg.Connection, positions: Sequence[int]) -> int:
    """Delete what is parked of these positions, and let the readers that wait for it begin anew."""
    holders = [row["id"] for row in await connection.fetch(HOLDERS, positions)]
    if not holders:
        return 0
    answer = await connection.execute(FREE, holders, positions)
    await renew(connection, holders)
    return int(answer.split()[-1])


async def renew(connection: asyncpg.Connection, subscriptions: Sequence[str]) -> None:
    """Let the readers of these subscriptions begin anew."""
    await connection.execute(RENEW, subscriptions, SUBSCRIPTIONS_CHANGED)


async def erase(
    connection: asyncpg.Connection, positions: Sequence[int], days: Sequence[datetime]
) -> list[asyncpg.Record]:
    """Leave stubs of the events at these positions, received at these times; returns those that were none yet."""
    return list(await connection.fetch(ERASE, positions, days, min(days), max(days)))
