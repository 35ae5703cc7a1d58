"""Start, count, list and stop replays. A worker carries them out: `runner`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
from pydantic import BaseModel, Field
from sqlalchemy import text, update
from sqlmodel import col, select

from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.deliveries import auditing, subscriptions
from aircall_oauth.errors import InvalidRequest, PositionGone, ReplayNotFound
from aircall_oauth.events import spans
from aircall_oauth.events.query import Filter
from aircall_oauth.events.spans import Span
from aircall_oauth.resources import Resources
from aircall_oauth.storage import epochs
from aircall_oauth.storage.models.deliveries import Replay, Subscription
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.statuses import ReplayStatus

# More would take days beside the live reader, and is what moving the reader is for.
MOST_EVENTS = 1_000_000
MOST_UNDER_WAY = 10  # of one subscription
KEPT = 500  # of one subscription

FORGET = text(f"""
    DELETE FROM replay WHERE subscription_id = :subscription_id AND status <> '{ReplayStatus.RUNNING}' AND id <= (
        SELECT id FROM replay WHERE subscription_id = :subscription_id ORDER BY id DESC OFFSET {KEPT} LIMIT 1
    )
""")


@dataclass(frozen=True)
class Window:
    """Which part of the log is replayed: by the time it was received, by position, or both. Ends are as stored."""

    first: int | None = None  # this position and later
    last: int | None = None  # up to and including this one
    since: datetime | None = None  # received then or later
    until: datetime | None = None  # received before


class ReplayView(BaseModel):
    """One replay and how far it is."""

    id: str = Field(examples=["rpl_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    subscription_id: str = Field(examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    status: ReplayStatus = Field(description="`failed`: the destination answered that it wants no more")
    since: datetime | None = Field(description="Events received then or later")
    until: datetime | None = Field(description="Events received before")
    first_position: int = Field(description="Events from this position on", examples=[4001])
    last_position: int = Field(description="Up to and including this one", examples=[4711])
    types: list[str] = Field(examples=[["call.*"]])
    owners: list[str] = Field(examples=[["acme"]])
    installations: list[str]
    per_second: int = Field(description="At most so many deliveries a second", examples=[50])
    events: int = Field(description="Events to deliver, counted when it was started", examples=[412])
    customers: int = Field(description="Of so many installations", examples=[3])
    position: int = Field(description="Every event up to here was delivered or has failed", examples=[4300])
    delivered: int = Field(examples=[180])
    failed: int = Field(description="Events given up on after every try; see the subscription's attempts", examples=[0])
    last_error: str | None = Field(description="The last failure, in one word", examples=["http_503"])
    created_at: datetime
    ended_at: datetime | None


class ReplayList(BaseModel):
    items: list[ReplayView]
    next: str | None = Field(description="The `cursor` of the next page; null at the end.")


class ReplayPreview(BaseModel):
    """What a replay would deliver. Nothing was started."""

    events: int = Field(examples=[412])
    customers: int = Field(description="Of so many installations", examples=[3])
    first_position: int = Field(examples=[4001])
    last_position: int = Field(examples=[4711])


async def preview(
    resources: Resources, key: Caller, subscription_id: str, window: Window, wanted: Filter
) -> ReplayPreview:
    """Count what a replay would deliver: events in the window that the subscription and `wanted` both take.

    Raises `SubscriptionNotFound`, `PositionGone` where the window begins before the log, and `InvalidRequest` for more
    than a million events.
    """
    subscription = await subscriptions.find(resources, key, subscription_id)
    async with resources.database.driver_connection() as connection:
        return await _count(connection, subscription, window, wanted)


async def start(
    resources: Resources,
    key: Caller,
    who: Who,
    subscription_id: str,
    window: Window,
    wanted: Filter,
    *,
    per_second: int,
    replay_id: str | None = None,
) -> ReplayView:
    """Start a replay; a worker takes it up within seconds. Raises what `preview` raises.

    The newest 500 replays of a subscription are kept. Where there is one of this id, nothing is started: a form was
    sent twice.
    """
    counted = await preview(resources, key, subscription_id, window, wanted)
    replay = Replay(
        id=replay_id or new_id("rpl"),
        subscription_id=subscription_id,
        status=ReplayStatus.RUNNING,
        since=window.since,
        until=window.until,
        first_position=counted.first_position,
        last_position=counted.last_position,
        types=list(wanted.types),
        owners=list(wanted.owners),
        installations=list(wanted.installations),
        per_second=per_second,
        events=counted.events,
        customers=counted.customers,
        position=counted.first_position - 1,
        created_at=now(),
    )
    async with resources.database.session() as session:
        # Locked, so that two at once cannot both find room, and none is started for one that is being deleted.
        owners = (await subscriptions.held(session, key, subscription_id)).owners
        if (before := await session.get(Replay, replay.id)) is not None:
            return _view(before)
        under_way = select(Replay.id).where(
            col(Replay.subscription_id) == subscription_id, col(Replay.status) == ReplayStatus.RUNNING
        )
        if len((await session.exec(under_way)).all()) >= MOST_UNDER_WAY:
            raise InvalidRequest(f"The subscription has {MOST_UNDER_WAY} replays under way. Stop one, or wait.")
        session.add(replay)
        await session.flush()
        await (await session.connection()).execute(FORGET, {"subscription_id": subscription_id})
        view = _view(replay)
        await auditing.record(session, who, Action.REPLAY_STARTED, subscription_id, owners, _details(view))
        return view


async def list_of(
    resources: Resources, key: Caller, subscription_id: str, *, cursor: str | None, limit: int
) -> ReplayList:
    """Replays of a subscription, newest first. Raises `SubscriptionNotFound`."""
    await subscriptions.find(resources, key, subscription_id)
    query = select(Replay).where(col(Replay.subscription_id) == subscription_id)
    if cursor is not None:
        query = query.where(col(Replay.id) < cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query.order_by(col(Replay.id).desc()).limit(limit + 1))).all()
    items = [_view(row) for row in rows[:limit]]
    return ReplayList(items=items, next=items[-1].id if len(rows) > limit else None)


async def show(resources: Resources, key: Caller, subscription_id: str, replay_id: str) -> ReplayView:
    """One replay; raises `SubscriptionNotFound` or `ReplayNotFound`."""
    await subscriptions.find(resources, key, subscription_id)
    query = select(Replay).where(col(Replay.id) == replay_id, col(Replay.subscription_id) == subscription_id)
    async with resources.database.session() as session:
        found = (await session.exec(query)).first()
    if found is None:
        raise ReplayNotFound
    return _view(found)


async def stop(resources: Resources, key: Caller, who: Who, subscription_id: str, replay_id: str) -> ReplayView:
    """End a replay; what is out at that moment may still arrive. One that has ended stays as it is.

    Raises `SubscriptionNotFound` or `ReplayNotFound`.
    """
    subscription = await subscriptions.find(resources, key, subscription_id)
    stopped = (
        update(Replay)
        .where(
            col(Replay.id) == replay_id,
            col(Replay.subscription_id) == subscription_id,
            col(Replay.status) == ReplayStatus.RUNNING,
        )
        .values(status=ReplayStatus.STOPPED, ended_at=now(), lease_number=Replay.lease_number + 1)
        .returning(col(Replay.events), col(Replay.delivered), col(Replay.failed), col(Replay.position))
    )
    async with resources.database.session() as session:
        row = (await session.exec(stopped)).one_or_none()
        if row is not None:
            details = {"replay_id": replay_id, **row._asdict()}
            await auditing.record(session, who, Action.REPLAY_STOPPED, subscription_id, subscription.owners, details)
    return await show(resources, key, subscription_id, replay_id)


def filters_of(replay: Replay, subscription: Subscription) -> tuple[Filter, Filter]:
    """What the replay and what the subscription take; an event must be taken by both."""
    return Filter.of(replay), Filter.of(subscription)


def conditions_of(
    filters: Sequence[Filter], since: datetime | None, until: datetime | None, *, first: int
) -> tuple[str, list[Any]]:
    """The SQL conditions of a window and its filters, and their values from parameter number `first` on."""
    parts: list[str] = []
    values: list[Any] = []
    asked: list[Span | Filter] = [Span(since, until), *filters]
    for one in asked:
        sql, more = one.sql(first=first + len(values))
        parts.append(sql)
        values += more
    return " ".join(parts), values


async def _count(
    connection: asyncpg.Connection, subscription: Subscription, window: Window, wanted: Filter
) -> ReplayPreview:
    first, last = await _positions(connection, window)
    own = Filter.of(subscription)
    conditions, values = conditions_of((wanted, own), window.since, window.until, first=4)
    row = await connection.fetchrow(
        f"""
        SELECT count(*) AS events, count(DISTINCT installation_id) AS customers FROM (
            SELECT installation_id FROM event
            WHERE position BETWEEN $1 AND $2 AND erased_at IS NULL {conditions} LIMIT $3
        ) AS wanted
        """,
        first,
        last,
        MOST_EVENTS + 1,
        *values,
    )
    if row["events"] > MOST_EVENTS:
        raise InvalidRequest(f"More than {MOST_EVENTS:,} events. Choose a shorter window, or fewer customers or types.")
    return ReplayPreview(events=row["events"], customers=row["customers"], first_position=first, last_position=last)


async def _positions(connection: asyncpg.Connection, window: Window) -> tuple[int, int]:
    """The window's ends as positions that the log has now: what comes in later is not part of it."""
    dropped_to = await connection.fetchval(f"SELECT {epochs.DROPPED_TO}") or 0
    # 0 is the beginning of what is kept, as it is for readers of the log.
    if window.first and window.first <= dropped_to:
        raise PositionGone(dropped_to)
    head = await connection.fetchval(spans.HEAD)
    past, newest = await spans.ends(connection, Span(window.since, window.until), head)
    first = max(window.first or 0, dropped_to + 1, past + 1)
    last = newest if window.last is None else min(window.last, newest)
    return first, max(last, first - 1)


def _details(replay: ReplayView) -> dict[str, Any]:
    """What the audit tells of a replay: its window, whom it is for, and how much it is."""
    told = ("since", "until", "first_position", "last_position", "types", "owners", "installations")
    counts = ("per_second", "events", "customers")
    return {"replay_id": replay.id} | auditing.clipped(replay.model_dump(mode="json", include={*told, *counts}))


def _view(replay: Replay) -> ReplayView:
    return ReplayView.model_validate(replay, from_attributes=True)
