"""The deliveries of one event: how far each subscription is with it, what was tried, and which do not want it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import asyncpg
import msgspec

from aircall_oauth.access.callers import Caller
from aircall_oauth.deliveries import subscriptions
from aircall_oauth.events import query
from aircall_oauth.events.query import EventJson, Filter
from aircall_oauth.resources import Resources
from aircall_oauth.storage.statuses import Health, SubscriptionStatus


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


class Reason(StrEnum):
    """Why a subscription does not get an event: the part of its filter that leaves it out, or its position."""

    TYPES = "types"
    OWNERS = "owners"
    INSTALLATIONS = "installations"
    ABOUT_ITSELF = "about_itself"
    ERASED = "erased"  # what is erased is delivered no more
    LATER = "later"  # it was made after the event came in
    PASSED = "passed"  # its position is past the event, and no attempt is kept


class Halt(StrEnum):
    """Why nothing is sent to a subscription's destination, but a probe perhaps."""

    PAUSED = "paused"
    DISABLED = "disabled"  # it answered that it wants no more
    DOWN = "down"


@dataclass(frozen=True)
class Try:
    """One try of a delivery; `replay_id` is the replay that sent it, or `resend`."""

    event_id: str
    subscription_id: str
    at: datetime
    outcome: str
    milliseconds: int
    replay_id: str | None


@dataclass(frozen=True)
class Journey:
    """What became of an event for one subscription that wants it; tries in the order of time."""

    delivery: Delivery
    tries: Sequence[Try]
    due_at: datetime | None  # of the next try, if it is parked
    halt: Halt | None = None


@dataclass(frozen=True)
class Untried:
    """A delivery that waits and was never tried; parked ones wait behind an earlier event."""

    event_id: str
    subscription_id: str
    name: str
    is_parked: bool
    halt: Halt | None


@dataclass(frozen=True)
class LeftOut:
    """A subscription that the event does not go to, and why."""

    subscription_id: str
    name: str
    reasons: Sequence[Reason]
    types: Sequence[str]

    @property
    def is_unwanted(self) -> bool:
        """Whether its filter leaves the event out, and not its position only."""
        return not set(self.reasons) <= {Reason.LATER, Reason.PASSED}


HALTED = f"""
    CASE WHEN {{0}}.status = '{SubscriptionStatus.PAUSED}' THEN '{Halt.PAUSED}'
         WHEN {{0}}.status = '{SubscriptionStatus.DISABLED}' THEN '{Halt.DISABLED}'
         WHEN {{0}}.health = '{Health.DOWN}' THEN '{Halt.DOWN}' END
"""
# So many tries of an event are shown, the newest.
MOST_TRIES = 500
MOST_LEFT_OUT = 2000
TRIES = f"""
    SELECT event_id, subscription_id, at, outcome, milliseconds, replay_id FROM attempt
    WHERE event_id = ANY ($1::text[]) ORDER BY id DESC LIMIT {MOST_TRIES}
"""
# The same for some subscriptions only.
TRIES_FOR = TRIES.replace("ORDER BY", "AND subscription_id = ANY ($2::text[]) ORDER BY")
# The limit of one row keeps PostgreSQL from reading all of `parked` for a join.
STANDING = f"""
    SELECT s.id, p.due_at, {HALTED.format("s")} AS halt FROM subscription s LEFT JOIN LATERAL (
        SELECT due_at FROM parked WHERE subscription_id = s.id AND position = $2 LIMIT 1
    ) AS p ON true
    WHERE s.id = ANY ($1::text[])
"""
OTHERS = f"""
    SELECT id, name, types, owners, installations, created_at FROM subscription
    WHERE ($1::text IS NULL OR owners = ARRAY[$1]) AND id <> ALL ($2::text[]) ORDER BY id LIMIT {MOST_LEFT_OUT}
"""
# Of `parked` one row each, as above. The tries are those of the event, read once: for each subscription anew, the index
# of a subscription's tries would be read, with all that it was tried with.
# A parked or dead event has a row, a tried one its attempts; for the rest the position and the filter decide.
OF_EACH = f"""
    WITH tried AS MATERIALIZED (
        SELECT subscription_id, array_agg(outcome ORDER BY id DESC) AS outcomes, max(at) AS last_at
        FROM attempt WHERE event_id = $1 GROUP BY 1
    )
    SELECT s.id, s.name,
        CASE WHEN p.dead_at IS NOT NULL THEN '{DeliveryStatus.DEAD}'
             WHEN p.position IS NOT NULL THEN '{DeliveryStatus.PARKED}'
             WHEN 'delivered' = ANY (a.outcomes) THEN '{DeliveryStatus.DELIVERED}' ELSE '{DeliveryStatus.WAITING}' END,
        coalesce(cardinality(a.outcomes), 0), a.outcomes[1], a.last_at
    FROM event e CROSS JOIN subscription s CROSS JOIN LATERAL {query.like_patterns("s")} AS patterns
    LEFT JOIN LATERAL (
        SELECT * FROM parked WHERE subscription_id = s.id AND position = e.position LIMIT 1
    ) AS p ON true
    LEFT JOIN tried AS a ON a.subscription_id = s.id
    WHERE e.id = $1 AND ($2::text IS NULL OR s.owners = ARRAY[$2]) AND (
        p.position IS NOT NULL OR a.subscription_id IS NOT NULL OR (
            s.position < e.position AND {query.wanted_by("s", "e", "patterns")}
        )
    )
    ORDER BY s.id
"""
# Of several events, with so many subscriptions each that the pairs are bounded, and the lines too.
MOST_PAIRS, MOST_UNTRIED = 20_000, 500
UNTRIED = f"""
    WITH events AS MATERIALIZED (
        SELECT * FROM event WHERE id = ANY ($1::text[]) AND received_at BETWEEN $2 AND $3
    ), subscriptions AS MATERIALIZED (
        SELECT * FROM subscription WHERE $4::text IS NULL OR owners = ARRAY[$4] ORDER BY id LIMIT $5
    ), tried AS MATERIALIZED (
        SELECT DISTINCT event_id, subscription_id FROM attempt WHERE event_id = ANY ($1::text[])
    )
    SELECT e.id AS event_id, s.id AS subscription_id, s.name, p.position IS NOT NULL AS is_parked,
        {HALTED.format("s")} AS halt
    FROM subscriptions s CROSS JOIN LATERAL {query.like_patterns("s")} AS patterns CROSS JOIN events e
    LEFT JOIN LATERAL (
        SELECT * FROM parked WHERE subscription_id = s.id AND position = e.position LIMIT 1
    ) AS p ON true
    LEFT JOIN tried AS t ON t.event_id = e.id AND t.subscription_id = s.id
    WHERE t.event_id IS NULL AND p.dead_at IS NULL AND (
        p.position IS NOT NULL OR (s.position < e.position AND {query.wanted_by("s", "e", "patterns")})
    )
    ORDER BY e.position, s.id LIMIT {MOST_UNTRIED}
"""


async def of_each_subscription(resources: Resources, key: Caller, event_id: str) -> list[Delivery]:
    """List the deliveries of an event. An API key bound to an owner sees that owner's subscriptions only."""
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(OF_EACH, event_id, key.owner)
    return [Delivery(*row) for row in rows]


async def journeys(resources: Resources, event: EventJson, deliveries: Sequence[Delivery]) -> list[Journey]:
    """Return what became of an event for some of its subscriptions, try by try."""
    ids = [each.subscription_id for each in deliveries]
    async with resources.database.driver_connection() as connection:
        standing = {row["id"]: row for row in await connection.fetch(STANDING, ids, event.position)}
        rows = await connection.fetch(TRIES_FOR, [event.id], ids)
    tried = defaultdict(list)
    for one in (Try(*row) for row in reversed(rows)):
        tried[one.subscription_id].append(one)
    return [_journey(each, tried[each.subscription_id], standing.get(each.subscription_id)) for each in deliveries]


def _journey(delivery: Delivery, tries: Sequence[Try], standing: asyncpg.Record | None) -> Journey:
    if standing is None:  # deleted meanwhile
        return Journey(delivery, tries, None)
    return Journey(delivery, tries, standing["due_at"], _halt(standing["halt"]))


def _halt(value: str | None) -> Halt | None:
    return None if value is None else Halt(value)


async def tries_of(resources: Resources, event_ids: Sequence[str]) -> list[Try]:
    """Return the newest tries of some events, for whichever subscription, in the order of time."""
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(TRIES, event_ids)
    return [Try(*row) for row in reversed(rows)]


async def untried(resources: Resources, key: Caller, events: Sequence[EventJson]) -> list[Untried]:
    """Return the deliveries of some events that wait and were never tried, in the order of the log."""
    received, subscriptions = [event.received_at for event in events], untried_of(len(events))
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(
            UNTRIED, [event.id for event in events], min(received), max(received), key.owner, subscriptions
        )
    return [Untried(**dict(row) | {"halt": _halt(row["halt"])}) for row in rows]


def untried_of(events: int) -> int:
    """Return with how many subscriptions so many events are compared for deliveries that were never tried."""
    return MOST_PAIRS // max(events, 1)


async def left_out(resources: Resources, key: Caller, event: EventJson, but: Sequence[str]) -> list[LeftOut]:
    """Return the subscriptions that an event does not go to, and why; `but` are those that it does go to."""
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(OTHERS, key.owner, but)
    return [LeftOut(row["id"], row["name"], _reasons(row, event), row["types"]) for row in rows]


async def is_wanted(resources: Resources, key: Caller, event: EventJson, subscription_id: str) -> bool:
    """Whether a subscription's filter takes an event; raises `SubscriptionNotFound`."""
    found = await subscriptions.find(resources, key, subscription_id)
    return Filter.of(found).takes(event)


def _reasons(row: asyncpg.Record, event: EventJson) -> list[Reason]:
    if event.erased:
        return [Reason.ERASED]
    wanted = {
        Reason.TYPES: Filter(types=row["types"]),
        Reason.OWNERS: Filter(owners=row["owners"]),
        Reason.INSTALLATIONS: Filter(installations=row["installations"]),
        Reason.ABOUT_ITSELF: Filter(own_id=row["id"]),
    }
    reasons = [reason for reason, part in wanted.items() if not part.takes(event)]
    return reasons or [Reason.LATER if row["created_at"] > event.received_at else Reason.PASSED]
