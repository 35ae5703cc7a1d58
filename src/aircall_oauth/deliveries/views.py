"""What the partner's systems may know about subscriptions: never a secret."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg
from pydantic import BaseModel, Field
from sqlmodel import col, select

from aircall_oauth.callers import Caller
from aircall_oauth.database import database_errors
from aircall_oauth.deliveries import destinations, subscriptions
from aircall_oauth.errors import SubscriptionNotFound
from aircall_oauth.eventjson import Filter
from aircall_oauth.models import (
    Attempt,
    Health,
    Parked,
    Subscription,
    SubscriptionKind,
    SubscriptionOrder,
    SubscriptionStatus,
)
from aircall_oauth.resources import Resources

# So far the events behind are counted one by one; what lies further on is counted by its positions.
COUNTED = 10_000
HEAD = "SELECT coalesce(max(position), 0) FROM event"
BESIDE = """
    SELECT count(*) FILTER (WHERE dead_at IS NULL) AS parked, count(*) FILTER (WHERE dead_at IS NOT NULL) AS dead
    FROM parked WHERE subscription_id = $1
"""


class SubscriptionView(BaseModel):
    id: str = Field(examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    name: str = Field(examples=["crm"])
    kind: SubscriptionKind
    url: str = Field(
        examples=["https://crm.example.com/aircall"],
        description="A broker's without its credentials, and what a query says as `***`",
    )
    subject: str | None = Field(description="NATS only")
    exchange: str | None = Field(description="RabbitMQ only")
    routing_key: str | None = Field(description="RabbitMQ only")
    topic: str | None = Field(description="Kafka only")
    types: list[str] = Field(examples=[["call.*"]])
    owners: list[str] = Field(examples=[["acme"]])
    installations: list[str]
    order: SubscriptionOrder
    status: SubscriptionStatus
    position: int = Field(description="It was delivered, parked or left out up to here", examples=[4711])
    lag: int = Field(description=f"Events behind; beyond {COUNTED:,} counted by their positions", examples=[0])
    parked: int = Field(description="Events that failed and are tried again by schedule", examples=[0])
    dead: int = Field(description="Events that were given up on", examples=[0])
    health: Health = Field(description="`down`: its position holds, and one probe at a time goes out")
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


async def show(resources: Resources, key: Caller, subscription_id: str) -> SubscriptionView:
    """One subscription with how far it is; raises `SubscriptionNotFound`."""
    (view,) = await _views(resources, [await _row(resources, key, subscription_id)])
    return view


async def list_all(resources: Resources, key: Caller, *, cursor: str | None, limit: int) -> SubscriptionList:
    """Subscriptions, oldest first."""
    query = select(Subscription).where(*subscriptions.visible(key)).order_by(col(Subscription.id)).limit(limit + 1)
    if cursor is not None:
        query = query.where(col(Subscription.id) > cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query)).all()
    items = await _views(resources, rows[:limit])
    return SubscriptionList(items=items, next=items[-1].id if len(rows) > limit else None)


async def list_attempts(
    resources: Resources, key: Caller, subscription_id: str, *, event_id: str | None, cursor: int | None, limit: int
) -> AttemptList:
    """What was tried, newest first."""
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
    """What was given up on, in the order of the log."""
    await _row(resources, key, subscription_id)
    query = select(Parked).where(col(Parked.subscription_id) == subscription_id, col(Parked.dead_at).is_not(None))
    if cursor is not None:
        query = query.where(col(Parked.position) > cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query.order_by(col(Parked.position)).limit(limit + 1))).all()
    items = [DeadView.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return DeadList(items=items, next=items[-1].position if len(rows) > limit else None)


async def _row(resources: Resources, key: Caller, subscription_id: str) -> Subscription:
    query = select(Subscription).where(col(Subscription.id) == subscription_id, *subscriptions.visible(key))
    async with resources.database.session() as session:
        row = (await session.exec(query)).first()
    if row is None:
        raise SubscriptionNotFound
    return row


async def _views(resources: Resources, rows: Sequence[Subscription]) -> list[SubscriptionView]:
    with database_errors():
        async with resources.database.driver_connection() as connection:
            head = await connection.fetchval(HEAD)
            return [await _view(connection, row, head) for row in rows]


async def _view(connection: asyncpg.Connection, row: Subscription, head: int) -> SubscriptionView:
    parked, dead = await connection.fetchrow(BESIDE, row.id)
    lag = await _lag(connection, row, head)
    return SubscriptionView(
        **row.model_dump(exclude={"url"}),
        url=destinations.shown_url(row.url),
        order=SubscriptionOrder(row.ordering),
        lag=lag,
        parked=parked,
        dead=dead,
    )


async def _lag(connection: asyncpg.Connection, row: Subscription, head: int) -> int:
    conditions, values = Filter(row.types, row.owners, row.installations).sql(first=3)
    end = row.position + COUNTED
    counted: int = await connection.fetchval(
        f"SELECT count(*) FROM event WHERE position > $1 AND position <= $2 {conditions}", row.position, end, *values
    )
    return counted + max(head - end, 0)
