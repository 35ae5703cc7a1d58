"""How long an owner's events are kept: shown and changed. A chore applies it: `expiring`."""

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import func, text
from sqlmodel import col, delete, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import InvalidRequest, NotFound
from aircall_oauth.privacy import stubs
from aircall_oauth.resources import Resources
from aircall_oauth.settings import DURATION_UNITS, parse_duration
from aircall_oauth.storage.keeping import TYPE
from aircall_oauth.storage.models.events import OwnerRetention

MOST_OWNERS, MOST_TYPES = 1000, 50


def _type(value: str) -> str:
    if not TYPE.fullmatch(value):
        raise ValueError("must be an event type, or its beginning with * behind it, such as transcription.*")
    return value


def _duration(value: str) -> str:
    parse_duration(value)
    return value


Type = Annotated[str, AfterValidator(_type)]
Duration = Annotated[str, Field(max_length=20), AfterValidator(_duration)]
RULES = {"transcription.*": "7d", "call.*": "30d"}


class NewRetention(BaseModel):
    """How long an owner's events are kept, by type; the closest type counts."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"example": {"rules": dict(RULES)}}
    )

    rules: dict[Type, Duration] = Field(
        min_length=1,
        max_length=MOST_TYPES,
        description="By event type, or its beginning with `*` behind it: `30d`, `12h`, `45m` or `90s`",
        examples=[RULES],
    )


class OwnerRetentionView(BaseModel):
    owner: str = Field(examples=["acme"])
    rules: dict[str, str] = Field(
        description="How long the owner's events of these types are kept; empty: as long as all others",
        examples=[RULES],
    )
    changed_at: datetime | None = Field(description="When they were set; null where there are none")


class RetentionList(BaseModel):
    longest: str = Field(
        description="`AIRCALL_OAUTH_EVENT_RETENTION`: what no rule says is kept so long", examples=["30d"]
    )
    rules: dict[str, str] = Field(
        description="`AIRCALL_OAUTH_EVENT_TYPE_RETENTION`: for owners without a rule for the type", examples=[RULES]
    )
    items: list[OwnerRetentionView] = Field(description="The owners with rules of their own, by name")
    next: str | None = Field(description="The `cursor` of the next page; null at the end.")


async def list_retention(resources: Resources, key: Caller, *, cursor: str | None, limit: int) -> RetentionList:
    """List how long events are kept, and owners' own rules. An API key bound to an owner sees that owner's."""
    query = select(OwnerRetention).order_by(col(OwnerRetention.owner)).limit(limit + 1)
    if key.owner is not None:
        query = query.where(col(OwnerRetention.owner) == key.owner)
    if cursor is not None:
        query = query.where(col(OwnerRetention.owner) > cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query)).all()
    settings = resources.settings
    items = [_view(row) for row in rows[:limit]]
    return RetentionList(
        longest=_text(settings.event_retention),
        rules={rule.type: _text(rule.length) for rule in settings.event_type_retention},
        items=items,
        next=items[-1].owner if len(rows) > limit else None,
    )


async def show(resources: Resources, key: Caller, owner: str) -> OwnerRetentionView:
    """Return an owner's own rules; raises `NotFound` to a key that is bound to another owner."""
    _require(key, owner)
    async with resources.database.session() as session:
        row = await session.get(OwnerRetention, owner)
    return OwnerRetentionView(owner=owner, rules={}, changed_at=None) if row is None else _view(row)


async def change(resources: Resources, key: Caller, who: Who, owner: str, rules: dict[str, str]) -> OwnerRetentionView:
    """Replace an owner's own rules, or delete them if there are none; raises `NotFound` as `show` does.

    Raises `InvalidRequest` for a time longer than all events are kept, and for more owners than there may be.
    """
    _require(key, owner)
    lengths = {type_: parse_duration(length) for type_, length in rules.items()}
    longest = resources.settings.event_retention
    if any(length > longest for length in lengths.values()):
        raise InvalidRequest(f"No time may be longer than {_text(longest)}, which AIRCALL_OAUTH_EVENT_RETENTION says.")
    async with resources.database.session() as session:
        # What expires meanwhile does so by the old rules, or by the new ones.
        await (await session.connection()).execute(text(stubs.LOCK))
        await session.exec(delete(OwnerRetention).where(col(OwnerRetention.owner) == owner))
        if lengths:
            await _require_room(session)
            seconds = [int(length.total_seconds()) for length in lengths.values()]
            session.add(
                OwnerRetention(owner=owner, types=list(lengths), seconds=seconds, changed_at=await _now(session))
            )
        await audit.record(session, who, Action.RETENTION_CHANGED, owner=owner, details={"rules": rules})
    return await show(resources, key, owner)


def _require(key: Caller, owner: str) -> None:
    if not key.may_act_for(owner):
        raise NotFound


async def _require_room(session: AsyncSession) -> None:
    if (await session.exec(select(func.count()).select_from(OwnerRetention))).one() >= MOST_OWNERS:
        raise InvalidRequest(f"{MOST_OWNERS} owners have rules of their own. Set AIRCALL_OAUTH_EVENT_TYPE_RETENTION.")


async def _now(session: AsyncSession) -> datetime:
    return (await session.exec(select(func.now()))).one()


def _view(row: OwnerRetention) -> OwnerRetentionView:
    rules = zip(row.types, row.seconds, strict=True)
    return OwnerRetentionView(
        owner=row.owner,
        rules={type_: _text(timedelta(seconds=seconds)) for type_, seconds in rules},
        changed_at=row.changed_at,
    )


def _text(length: timedelta) -> str:
    """Return a duration as it is written, in the largest unit that has no rest."""
    units = [(letter, timedelta(**{name: 1})) for letter, name in DURATION_UNITS.items()]
    return next(f"{length // unit}{letter}" for letter, unit in reversed(units) if not length % unit)
