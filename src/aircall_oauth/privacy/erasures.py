"""Erasures: asked for, listed, shown. A worker carries them out: `erasing`."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import func, text
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import SERVICE, Action, Who
from aircall_oauth.access.callers import OPERATOR, Caller
from aircall_oauth.errors import ErasureNotFound, InstallationNotFound, InvalidRequest, OwnerNotAllowed
from aircall_oauth.events.spans import HEAD
from aircall_oauth.privacy.people import Person
from aircall_oauth.resources import Resources
from aircall_oauth.storage import batches, clocks, data_keys, locks
from aircall_oauth.storage.models.erasures import PATTERN_COLUMN, Erasure
from aircall_oauth.storage.models.installations import Installation
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.storage.statuses import ErasureKind, ErasureStatus, InstallationStatus
from aircall_oauth.storage.vault import SealedAt

MOST_UNDER_WAY = 100
LOCK = f"SELECT pg_advisory_xact_lock({locks.ERASURES})"
POSITIONS = """
    SELECT DISTINCT place FROM erasure_part, unnest(positions) AS place
    WHERE erasure_id = $1 AND place > $2 ORDER BY place LIMIT $3
"""
AT_ONCE = 20
# Those that left long ago and were not erased since; each stays, so that its coming back is recognised.
DEPARTED = f"""
    SELECT i.id FROM installation i CROSS JOIN LATERAL (
        SELECT received_at FROM event e WHERE e.installation_id = i.id AND e.type = 'installation.removed'
        ORDER BY e.position DESC LIMIT 1
    ) AS gone
    WHERE i.status = '{InstallationStatus.REMOVED}' AND gone.received_at < $1 AND NOT EXISTS (
        SELECT FROM erasure r WHERE r.installation_id = i.id AND r.kind = '{ErasureKind.INSTALLATION}'
          AND r.owner IS NULL AND r.created_at > gone.received_at
    )
    ORDER BY i.id LIMIT $2
"""  # noqa: S608 - only constants of ours are put in
FORGET_PARTS = """
    DELETE FROM erasure_part WHERE (erasure_id, first) IN (
        SELECT p.erasure_id, p.first FROM erasure_part p JOIN erasure e ON e.id = erasure_id
        WHERE e.ended_at < $1 LIMIT $2
    )
"""
FORGET = "DELETE FROM erasure WHERE id IN (SELECT id FROM erasure WHERE ended_at < $1 LIMIT $2)"


class ErasureView(BaseModel):
    """One erasure: how far it is, and what it came to. It holds nothing of the person."""

    id: str = Field(examples=["era_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    status: ErasureStatus = Field(
        description="`searching` the log for the person; `following` the calls that were found, for what else belongs "
        "to them; `settling` until no worker has any of it in memory; `done`"
    )
    by: ErasureKind = Field(description="What the person is known by; `installation`: all of a customer's")
    owner: str | None = Field(description="Only events of this owner", examples=["acme"])
    installation_id: str | None = Field(
        description="Only events of this installation", examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"]
    )
    position: int = Field(description="Events up to here are searched", examples=[4300])
    last_position: int | None = Field(description="The newest event when the search ended", examples=[4711])
    searched: int = Field(description="Events read; those read twice count twice", examples=[4300])
    erased: int = Field(description="Events erased", examples=[12])
    parked: int = Field(description="Parked and dead deliveries deleted", examples=[1])
    delivered: int = Field(
        description="Of the events erased, how many a subscription of yours had taken before: those it cannot reach",
        examples=[11],
    )
    created_at: datetime
    ended_at: datetime | None
    backups_until: datetime | None = Field(
        description="Until then the last backup that still has it is kept: `AIRCALL_OAUTH_BACKUPS_KEPT` after the end"
    )


class ErasureList(BaseModel):
    items: list[ErasureView]
    next: str | None = Field(description="The `cursor` of the next page; null at the end.")


class ErasedPositions(BaseModel):
    """The receipt: which events were erased."""

    positions: list[int] = Field(examples=[[4001, 4005, 4711]])
    next: int | None = Field(description="The `after` of the next page; null at the end.", examples=[4711])


async def create(
    resources: Resources, key: Caller, who: Who, person: Person, *, owner: str | None, installation_id: str | None
) -> ErasureView:
    """Begin to erase a person; a worker takes it up within seconds.

    Raises `OwnerNotAllowed`, `InstallationNotFound`, and `InvalidRequest` while too many are under way.
    """
    if owner is not None and not key.may_act_for(owner):
        raise OwnerNotAllowed
    async with resources.database.session() as session:
        if installation_id is not None:
            await _require(session, key, installation_id)
        erasure = Erasure(
            id=new_id("era"),
            status=ErasureStatus.SEARCHING,
            kind=person.kind,
            owner=owner if key.owner is None else key.owner,
            installation_id=installation_id,
            position=0,
        )
        erasure.pattern_sealed = resources.vault.seal(person.value, SealedAt(PATTERN_COLUMN, erasure.id))
        await begin(session, who, erasure)
    return await show(resources, key, erasure.id)


async def create_of_customer(resources: Resources, key: Caller, who: Who, installation_id: str) -> ErasureView:
    """Begin to erase all events of an installation up to now; a key that is bound to an owner erases that owner's.

    The data keys of what is encrypted are erased at once, so that nobody can read it any more. Raises `InvalidRequest`
    while too many are under way.
    """
    erasure = Erasure(
        id=new_id("era"),
        status=ErasureStatus.SEARCHING,
        kind=ErasureKind.INSTALLATION,
        owner=key.owner,
        installation_id=installation_id,
        position=0,
    )
    async with resources.database.session() as session:
        connection = await session.connection()
        # SQLAlchemy begins the transaction with the first statement of its own.
        await connection.execute(text(LOCK))
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        keys = await data_keys.erase(driver, installation_id, key.owner)
        # After the keys: what was encrypted under them lies before it.
        erasure.last_position = await driver.fetchval(HEAD)
        await begin(session, who, erasure)
    resources.data_keys.forget(keys)
    return await show(resources, key, erasure.id)


async def erase_departed(resources: Resources) -> None:
    """Erase customers that left `AIRCALL_OAUTH_ERASE_AFTER_UNINSTALL` ago: a chore of the worker."""
    after = resources.settings.erase_after_uninstall
    if after is None:
        return
    before = await clocks.agreed_now(resources.database) - after
    async with resources.database.driver_connection() as connection:
        departed = await connection.fetch(DEPARTED, before, AT_ONCE)
    for row in departed:
        await create_of_customer(resources, OPERATOR, SERVICE, row["id"])


async def begin(session: AsyncSession, who: Who, erasure: Erasure) -> None:
    """Add an erasure, due at once, and a line to the audit; raises `InvalidRequest` while too many are under way."""
    connection = await session.connection()
    await connection.execute(text(LOCK))
    under_way = select(func.count()).select_from(Erasure).where(col(Erasure.status) != ErasureStatus.DONE)
    if (await session.exec(under_way)).one() >= MOST_UNDER_WAY:
        raise InvalidRequest(f"{MOST_UNDER_WAY} erasures are under way. Wait until one is done.")
    session.add(erasure)
    await session.flush()
    due = text("UPDATE erasure SET due_at = clock_timestamp() WHERE id = :id")
    await connection.execute(due, {"id": erasure.id})
    await audit.record(
        session,
        who,
        Action.ERASURE_ASKED,
        installation_id=erasure.installation_id,
        owner=erasure.owner,
        details={"erasure_id": erasure.id, "by": str(erasure.kind)},
    )


async def list_erasures(resources: Resources, key: Caller, *, cursor: str | None, limit: int) -> ErasureList:
    """List erasures, newest first. An API key bound to an owner sees that owner's."""
    query = select(Erasure).where(*_seen_by(key)).order_by(col(Erasure.id).desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(col(Erasure.id) < cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query)).all()
    items = [_view(resources, row) for row in rows[:limit]]
    return ErasureList(items=items, next=items[-1].id if len(rows) > limit else None)


async def show(resources: Resources, key: Caller, erasure_id: str) -> ErasureView:
    """Return one erasure; raises `ErasureNotFound`."""
    query = select(Erasure).where(col(Erasure.id) == erasure_id, *_seen_by(key))
    async with resources.database.session() as session:
        found = (await session.exec(query)).first()
    if found is None:
        raise ErasureNotFound
    return _view(resources, found)


async def positions(resources: Resources, key: Caller, erasure_id: str, *, after: int, limit: int) -> ErasedPositions:
    """Return which events were erased, in order; raises `ErasureNotFound`."""
    await show(resources, key, erasure_id)
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(POSITIONS, erasure_id, after, limit + 1)
    places = [row["place"] for row in rows[:limit]]
    return ErasedPositions(positions=places, next=places[-1] if len(rows) > limit else None)


async def forget(resources: Resources) -> None:
    """Delete erasures as old as the oldest entries of the audit: a chore of the worker."""
    before = await clocks.agreed_now(resources.database) - resources.settings.audit_retention
    await batches.delete(resources.database, FORGET_PARTS, before)
    await batches.delete(resources.database, FORGET, before)


async def _require(session: AsyncSession, key: Caller, installation_id: str) -> None:
    query = select(Installation.id).where(col(Installation.id) == installation_id, *key.sees(Installation))
    if (await session.exec(query)).first() is None:
        raise InstallationNotFound


def _seen_by(key: Caller) -> Any:
    return () if key.owner is None else (col(Erasure.owner) == key.owner,)


def _view(resources: Resources, row: Erasure) -> ErasureView:
    kept = resources.settings.backups_kept
    until = row.ended_at + kept if row.ended_at is not None and kept is not None else None
    fields = row.model_dump(exclude={"kind", "pattern_sealed", "due_at", "lease_number"})
    return ErasureView(by=ErasureKind(row.kind), backups_until=until, **fields)
