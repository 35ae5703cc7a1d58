"""The SQL of events that wait beside the log: which are due, and which keys they hold up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from aircall_oauth.deliveries.reader.queries import item_of
from aircall_oauth.deliveries.reader.queue import Blocked, Item, OrderKey
from aircall_oauth.events.query import COLUMNS, SIZE, events_of
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.models.deliveries import Subscription
from aircall_oauth.storage.statuses import SubscriptionOrder

CHAIN = 32
PAGE = 500
DUE = f"""
    SELECT {COLUMNS}, attempts FROM (
        SELECT *, sum({SIZE}) OVER (ORDER BY position) - {SIZE} AS past FROM event JOIN (
            SELECT position AS place, received_at AS day, attempts FROM parked
            WHERE subscription_id = $1 AND due_at <= statement_timestamp() AND position <> ALL ($3::bigint[])
            ORDER BY due_at LIMIT $4
        ) AS due ON position = place AND received_at = day
    ) AS next
    WHERE past < $2 AND erased_at IS NULL ORDER BY position
"""
# The first parked event of a key decides for those behind it; one that was never tried is due at once. Keys are those
# of first events that are due, half of the room at most, but for busy ones ($5, $6), and those that the reader
# knows of ($3, $4). All rows of a chain are compared with one moment: with a clock that goes on, the first could be
# left out and later ones taken. The limit of bytes cuts off the end of each chain.
DUE_CHAINS = """
    WITH due AS (
        SELECT installation_id, {about} AS about, due_at FROM parked
        WHERE subscription_id = $1 AND due_at <= statement_timestamp()
          AND (installation_id, {about}) NOT IN (SELECT * FROM unnest($5::text[], $6::text[]))
          AND NOT EXISTS (
              SELECT FROM parked AS earlier
              WHERE earlier.subscription_id = $1 AND earlier.dead_at IS NULL AND earlier.position < parked.position
                AND earlier.installation_id = parked.installation_id AND {earlier_is_of_key}
          )
        ORDER BY due_at LIMIT ($7 + 1) / 2
    ), keys AS (
        SELECT installation_id, about FROM (
            SELECT installation_id, about, 1 AS turn FROM due
            UNION ALL SELECT *, 2 FROM unnest($3::text[], $4::text[])
        ) AS asked
        GROUP BY 1, 2 ORDER BY min(turn) LIMIT $7
    )
    SELECT {columns}, attempts FROM (
        SELECT event.*, attempts, sum({size}) OVER (ORDER BY position) - {size} AS past
        FROM keys
        CROSS JOIN LATERAL (SELECT due_at FROM {chain} LIMIT 1) AS head
        CROSS JOIN LATERAL (
            SELECT position AS place, received_at AS day, attempts FROM {chain} LIMIT {most}
        ) AS chain
        JOIN event ON position = place AND received_at = day
        WHERE head.due_at IS NULL OR head.due_at <= statement_timestamp()
    ) AS next
    WHERE past < $2 AND erased_at IS NULL ORDER BY position
"""
OF_KEY = """
    parked WHERE subscription_id = $1 AND installation_id = keys.installation_id AND {is_of_key} AND dead_at IS NULL
    ORDER BY position
"""
DUE_INSTALLATIONS = DUE_CHAINS.format(
    about="''", earlier_is_of_key="true", chain=OF_KEY.format(is_of_key="true"), columns=COLUMNS, size=SIZE, most=CHAIN
)
DUE_SUBJECTS = DUE_CHAINS.format(
    about="subject",
    earlier_is_of_key="earlier.subject = parked.subject",
    chain=OF_KEY.format(is_of_key="subject = keys.about"),
    columns=COLUMNS,
    size=SIZE,
    most=CHAIN,
)
# `released` if the first one has no due time.
BLOCKED = """
    SELECT installation_id, {about} AS about, count(*) AS parked, min(position) AS first,
           min(position) = min(position) FILTER (WHERE due_at IS NULL) AS released
    FROM parked WHERE subscription_id = $1 AND dead_at IS NULL GROUP BY 1, 2
"""
BLOCKED_INSTALLATIONS = BLOCKED.format(about="''")
BLOCKED_SUBJECTS = BLOCKED.format(about="coalesce(subject, '')")
PAST = "SELECT position FROM parked WHERE subscription_id = $1 AND position > $2"
WITHOUT_SUBJECT = f"""
    SELECT {COLUMNS} FROM event JOIN (
        SELECT position AS place, received_at AS day FROM parked
        WHERE subscription_id = $1 AND position > $2 AND subject IS NULL AND dead_at IS NULL
    ) AS parked ON position = place AND received_at = day
    ORDER BY position LIMIT {PAGE}
"""
GIVE_SUBJECTS = """
    UPDATE parked SET subject = about FROM unnest($2::bigint[], $3::text[]) AS of (place, about)
    WHERE subscription_id = $1 AND position = place
"""


@dataclass(frozen=True)
class Wanted:
    """Which parked events a reader may try now, as it was at one moment."""

    under_way: Sequence[int]  # positions of those that it tries already
    busy: Sequence[OrderKey]  # keys of which one is under way
    released: Sequence[OrderKey]  # idle keys of which the first one has no due time
    limit: int  # so many events; with an order, so many keys


async def due(
    connection: asyncpg.Connection, keys: DataKeys, subscription: Subscription, wanted: Wanted, *, most_bytes: int
) -> list[Item]:
    """Read parked events that are due, but for those under way; at least one, if there is one."""
    values = (subscription.id, most_bytes, wanted.under_way, wanted.limit)
    return await _parked(connection, keys, await connection.fetch(DUE, *values))


async def due_chains(
    connection: asyncpg.Connection, keys: DataKeys, subscription: Subscription, wanted: Wanted, *, most_bytes: int
) -> list[Item]:
    """Read the first parked events of each idle key of which the very first is due; at least one event in all."""
    statement = DUE_SUBJECTS if subscription.ordering == SubscriptionOrder.SUBJECT else DUE_INSTALLATIONS
    values = (subscription.id, most_bytes, *_columns(wanted.released), *_columns(wanted.busy), wanted.limit)
    return await _parked(connection, keys, await connection.fetch(statement, *values))


async def blocked(
    connection: asyncpg.Connection, keys: DataKeys, subscription: Subscription
) -> dict[OrderKey, Blocked]:
    """Count the parked events of each key that has any."""
    by_subject = subscription.ordering == SubscriptionOrder.SUBJECT
    if by_subject:
        await _give_subjects(connection, keys, subscription.id)
    rows = await connection.fetch(BLOCKED_SUBJECTS if by_subject else BLOCKED_INSTALLATIONS, subscription.id)
    return {
        (row["installation_id"], row["about"]): Blocked(row["parked"], row["first"], bool(row["released"]))
        for row in rows
    }


async def past(connection: asyncpg.Connection, subscription: Subscription) -> set[int]:
    """Return the positions past the subscription's own at which an event is parked or dead."""
    rows = await connection.fetch(PAST, subscription.id, subscription.position)
    return {row["position"] for row in rows}


async def _give_subjects(connection: asyncpg.Connection, keys: DataKeys, subscription_id: str) -> None:
    """Say of parked events what they are about, where an earlier version parked them and did not."""
    after = -1
    while rows := await connection.fetch(WITHOUT_SUBJECT, subscription_id, after):
        events = await events_of(connection, keys, rows)
        after = events[-1].position
        abouts = [event.about for event in events]
        await connection.execute(GIVE_SUBJECTS, subscription_id, [event.position for event in events], abouts)


def _columns(keys: Sequence[OrderKey]) -> tuple[list[str], list[str]]:
    return [installation_id for installation_id, _ in keys], [about for _, about in keys]


async def _parked(connection: asyncpg.Connection, keys: DataKeys, rows: Sequence[Any]) -> list[Item]:
    """Return the events that are not erased, with their tries; raises `DataKeyUnusable`."""
    items = []
    for event, row in zip(await events_of(connection, keys, rows), rows, strict=False):
        if not event.erased:
            items.append(item := item_of(event))
            item.parked, item.attempts = True, row["attempts"]
    return items
