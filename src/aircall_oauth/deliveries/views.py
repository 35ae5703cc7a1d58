"""Subscriptions, attempts and dead events as the partner's systems see them: never a secret."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
from pydantic import BaseModel, Field, create_model
from sqlmodel import col, select

from aircall_oauth.access.callers import Caller
from aircall_oauth.deliveries import subscriptions
from aircall_oauth.deliveries.destinations import brokers, registry
from aircall_oauth.deliveries.destinations.outcomes import DELIVERED
from aircall_oauth.errors import SubscriptionNotFound
from aircall_oauth.events import query
from aircall_oauth.events.positions import NEWEST_POSITION
from aircall_oauth.resources import Resources
from aircall_oauth.storage import figures
from aircall_oauth.storage.models.deliveries import Attempt, Parked, Subscription
from aircall_oauth.storage.statuses import Health, SubscriptionKind, SubscriptionOrder, SubscriptionStatus
from aircall_oauth.telemetry.figures import Delivery, Name

MOST_TRIES = 2_000  # are looked through for failures
NOTHING = (0,) * len(Delivery)
# So many events behind are counted one by one; those further on by their positions.
COUNTED = 10_000
# The same for all subscriptions of a list together.
COUNTED_IN_ALL = 100_000
# So many that wait beside the log, or were given up on, are counted of one, and of all of a list together.
MOST_BESIDE, MOST_BESIDE_IN_ALL = 10_000, 1_000_000
BESIDE = """
    (SELECT count(*) FROM (
        SELECT FROM parked WHERE subscription_id = s.id AND dead_at {} LIMIT m.beside
    ) AS bounded)
"""
SHOWN = f"""
    WITH shown AS MATERIALIZED (
        SELECT * FROM subscription
        WHERE ($1::text IS NULL OR owners = ARRAY[$1]) AND ($2::text IS NULL OR id = $2)
          AND ($3::text IS NULL OR id > $3)
        ORDER BY id LIMIT $4
    ), measure AS MATERIALIZED (
        SELECT {NEWEST_POSITION} AS head,
            (SELECT least({COUNTED}, {COUNTED_IN_ALL} / greatest(count(*), 1)) FROM shown) AS counted,
            (SELECT least({MOST_BESIDE}, {MOST_BESIDE_IN_ALL} / greatest(count(*), 1)) FROM shown) AS beside
    )
    SELECT s.*, {BESIDE.format("IS NULL")} AS parked, {BESIDE.format("IS NOT NULL")} AS dead,
        behind.count + greatest(m.head - s.position - m.counted, 0) AS lag,
        round(extract(epoch FROM clock_timestamp() - least(
            (SELECT received_at FROM parked WHERE subscription_id = s.id AND dead_at IS NULL
             ORDER BY received_at LIMIT 1),
            coalesce(behind.oldest, (
                SELECT received_at FROM event WHERE position > s.position + m.counted ORDER BY position LIMIT 1
            ))
        )))::bigint AS oldest_undelivered_seconds
    FROM shown s CROSS JOIN measure m
    CROSS JOIN LATERAL {query.like_patterns("s")} AS patterns
    CROSS JOIN LATERAL (
        SELECT count(*), min(e.received_at) AS oldest FROM event e
        WHERE e.position > s.position AND e.position <= s.position + m.counted
          AND {query.wanted_by("s", "e", "patterns")}
    ) AS behind
    ORDER BY s.id
"""
NAMED_LIKE = """
    SELECT id, name FROM subscription
    WHERE strpos(lower(name), lower($1)) > 0 AND ($2::text IS NULL OR owners = ARRAY[$2]) ORDER BY id LIMIT $3
"""
FAILED = f"""
    SELECT event_id, position, at, outcome, milliseconds, replay_id FROM (
        SELECT * FROM attempt WHERE subscription_id = $1 ORDER BY id DESC LIMIT {MOST_TRIES}
    ) AS newest WHERE outcome <> '{DELIVERED}' ORDER BY id DESC LIMIT $2
"""


class _WithoutTarget(BaseModel):
    id: str = Field(examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    name: str = Field(examples=["crm"])
    kind: SubscriptionKind
    url: str = Field(
        examples=["https://crm.example.com/aircall"],
        description="A broker's without its credentials, and what a query says as `***`",
    )


if TYPE_CHECKING:
    _WithTarget = _WithoutTarget
else:
    # Where at its broker a subscription's events go: the fields of every kind, null but for those of its own.
    _WithTarget = create_model(
        "_WithTarget",
        __base__=_WithoutTarget,
        **{
            field: (str | None, Field(description=f"{broker.title} only"))
            for broker in brokers.KINDS.values()
            for field in broker.target
        },
    )


class SubscriptionView(_WithTarget):
    types: list[str] = Field(examples=[["call.*"]])
    owners: list[str] = Field(examples=[["acme"]])
    installations: list[str]
    order: SubscriptionOrder
    status: SubscriptionStatus
    position: int = Field(description="It was delivered, parked or left out up to here", examples=[4711])
    lag: int = Field(description=f"Events behind; beyond {COUNTED:,} counted by their positions", examples=[0])
    parked: int = Field(
        description="Events that failed and are tried again by schedule; no more than "
        f"{MOST_BESIDE:,} are counted, of more than 100 subscriptions fewer of each",
        examples=[0],
    )
    dead: int = Field(description="Events that were given up on, counted likewise", examples=[0])
    matched_24h: int = Field(
        description="Events that it wanted and that were delivered or parked in the last 24 hours. Those that still "
        "wait are in `lag`. Counted by the workers, and written once a minute",
        examples=[1290],
    )
    delivered_24h: int = Field(
        description="Deliveries of the last 24 hours, replays apart; written once a minute", examples=[1288]
    )
    failed_24h: int = Field(
        description="Tries of the last 24 hours that failed, replays apart; written once a minute", examples=[3]
    )
    oldest_undelivered_seconds: int | None = Field(
        description="How long ago the oldest event came in that it wants and has not got, at the time of the answer; "
        f"null if there is none. More than {COUNTED:,} positions behind, an event that it does not want may count",
        examples=[None],
    )
    health: Health = Field(description="`down`: its position holds, and one probe at a time goes out")
    next_probe_at: datetime | None = Field(
        description="When the next probe goes out, if its destination is down; null if it is up", examples=[None]
    )
    last_error: str | None = Field(description="The last failure, in one word", examples=["http_503"])
    last_error_at: datetime | None
    created_at: datetime


class SubscriptionList(BaseModel):
    items: list[SubscriptionView]
    next: str | None = Field(description="The `cursor` of the next page; null at the end.")


class AttemptView(BaseModel):
    event_id: str = Field(examples=["evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    position: int = Field(examples=[4711])
    at: datetime
    outcome: str = Field(
        examples=["delivered"], description="One word: `delivered`, `timeout`, `refused`, `http_503` …"
    )
    milliseconds: int = Field(examples=[23])
    replay_id: str | None = Field(description="The replay that sent it, or `resend`; null for a live delivery")


class AttemptList(BaseModel):
    items: list[AttemptView]
    next: int | None = Field(description="The `cursor` of the next page; null at the end.")


class DeadView(BaseModel):
    event_id: str = Field(examples=["evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    position: int = Field(examples=[4711])
    installation_id: str = Field(examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    attempts: int = Field(examples=[12])
    reason: str = Field(examples=["http_500"])
    dead_at: datetime


class DeadList(BaseModel):
    items: list[DeadView]
    next: int | None = Field(description="The `cursor` of the next page; null at the end.")


class ParkedView(BaseModel):
    """An event that failed and is tried again by schedule, or waits behind one."""

    event_id: str
    position: int
    installation_id: str
    attempts: int
    reason: str
    due_at: datetime | None


async def show(resources: Resources, key: Caller, subscription_id: str) -> SubscriptionView:
    """Show one subscription; raises `SubscriptionNotFound`."""
    found = await _views(resources, key.owner, subscription_id, None, 1)
    if not found:
        raise SubscriptionNotFound
    return found[0]


async def list_all(resources: Resources, key: Caller, *, cursor: str | None, limit: int) -> SubscriptionList:
    """List subscriptions, oldest first."""
    found = await _views(resources, key.owner, None, cursor, limit + 1)
    return SubscriptionList(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


async def names_of(resources: Resources, key: Caller, ids: Collection[str]) -> dict[str, str]:
    """Return the names of those subscriptions that the key may see."""
    query = select(Subscription.id, Subscription.name).where(col(Subscription.id).in_(ids), *subscriptions.visible(key))
    async with resources.database.session() as session:
        return dict((await session.exec(query.order_by(col(Subscription.id)))).all())


async def named_like(resources: Resources, key: Caller, text: str, *, limit: int) -> dict[str, str]:
    """Return the names of subscriptions that hold a text, in whatever case, by their ids."""
    async with resources.database.driver_connection() as connection:
        return dict(await connection.fetch(NAMED_LIKE, text, key.owner, limit))


async def list_attempts(
    resources: Resources, key: Caller, subscription_id: str, *, event_id: str | None, cursor: int | None, limit: int
) -> AttemptList:
    """List attempts, newest first."""
    await _row(resources, key, subscription_id)
    query = select(Attempt).where(col(Attempt.subscription_id) == subscription_id)
    if event_id is not None:
        query = query.where(col(Attempt.event_id) == event_id)
    if cursor is not None:
        query = query.where(col(Attempt.id) < cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query.order_by(col(Attempt.id).desc()).limit(limit + 1))).all()
    items = [AttemptView.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return AttemptList(items=items, next=rows[limit - 1].id if len(rows) > limit else None)


async def list_dead(
    resources: Resources, key: Caller, subscription_id: str, *, cursor: int | None, limit: int
) -> DeadList:
    """List dead events, in the order of the log."""
    await _row(resources, key, subscription_id)
    query = select(Parked).where(col(Parked.subscription_id) == subscription_id, col(Parked.dead_at).is_not(None))
    if cursor is not None:
        query = query.where(col(Parked.position) > cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query.order_by(col(Parked.position)).limit(limit + 1))).all()
    items = [DeadView.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return DeadList(items=items, next=items[-1].position if len(rows) > limit else None)


async def list_parked(resources: Resources, key: Caller, subscription_id: str, *, limit: int) -> list[ParkedView]:
    """List the events that are tried again, those due next first; then those that wait behind another one."""
    await _row(resources, key, subscription_id)
    theirs = select(Parked).where(col(Parked.subscription_id) == subscription_id)
    # One after the other: each is read along an index of its own.
    due = theirs.where(col(Parked.due_at).is_not(None)).order_by(col(Parked.due_at))
    behind = theirs.where(col(Parked.dead_at).is_(None), col(Parked.due_at).is_(None)).order_by(col(Parked.received_at))
    async with resources.database.session() as session:
        rows = list((await session.exec(due.limit(limit))).all())
        if len(rows) < limit:
            rows += (await session.exec(behind.limit(limit - len(rows)))).all()
    return [ParkedView.model_validate(row, from_attributes=True) for row in rows]


async def list_failures(resources: Resources, key: Caller, subscription_id: str, *, limit: int) -> list[AttemptView]:
    """List the newest tries that failed, of the newest 2,000 tries, newest first."""
    await _row(resources, key, subscription_id)
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(FAILED, subscription_id, limit)
    return [AttemptView(**dict(row)) for row in rows]


async def _row(resources: Resources, key: Caller, subscription_id: str) -> Subscription:
    query = select(Subscription).where(col(Subscription.id) == subscription_id, *subscriptions.visible(key))
    async with resources.database.session() as session:
        row = (await session.exec(query)).first()
    if row is None:
        raise SubscriptionNotFound
    return row


async def _views(resources: Resources, *asked: str | int | None) -> list[SubscriptionView]:
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(SHOWN, *asked)
    days = await figures.totals(resources.database, Name.DELIVERIES, [row["id"] for row in rows])
    return [_view(row, days.get(row["id"], NOTHING)) for row in rows]


def _view(row: asyncpg.Record, day: Sequence[int]) -> SubscriptionView:
    waiting = row["oldest_undelivered_seconds"]
    # Its event's clock may be a little ahead.
    counted = {"oldest_undelivered_seconds": waiting and max(waiting, 0)}
    counted["next_probe_at"] = row["quiet_until"] if row["health"] == Health.DOWN else None
    counted |= {f"{outcome.name.lower()}_24h": day[outcome] for outcome in Delivery}
    return SubscriptionView(**dict(row) | counted | {"url": registry.shown_url(row["url"]), "order": row["ordering"]})
