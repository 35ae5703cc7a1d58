"""Views: what the partner's systems may read about installations."""

from collections.abc import Collection, Sequence
from datetime import datetime
from math import ceil
from typing import Any

from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import ColumnElement, Select, and_, case, func, or_
from sqlalchemy import select as sqlalchemy_select
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Outcome, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import InstallationNotActive, InstallationNotFound, TooManyTokenReads
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.events import Event
from aircall_oauth.storage.models.installations import Installation, Rhythm, Webhook
from aircall_oauth.storage.sealed import TOKEN_COLUMN
from aircall_oauth.storage.statuses import EventSource, InstallationStatus, WebhookStatus
from aircall_oauth.storage.vault import SealedAt
from aircall_oauth.telemetry import log

logger = log.get(__name__)

_IS_SILENT = and_(
    col(Installation.status) == InstallationStatus.ACTIVE, col(Rhythm.silent_at) <= func.clock_timestamp()
)


def _shown() -> Select[Any]:
    """Select installations with their webhook and the time of the last event Aircall sent."""
    last_event_at = (
        select(Event.received_at)
        .where(col(Event.installation_id) == col(Installation.id), col(Event.source) == EventSource.AIRCALL)
        .order_by(col(Event.position).desc())
        .limit(1)
        .scalar_subquery()
        .correlate(Installation)
    )
    end_of_last_hour = func.to_timestamp(3600 * (col(Rhythm.hour) + 1))
    shown: Sequence[Any] = (
        Installation.id,
        Installation.status,
        Installation.owner,
        Installation.company_id,
        Installation.integration_id,
        Installation.company_name,
        Installation.number_ids,
        Installation.connected_at,
        last_event_at.label("last_event_at"),
        case((_IS_SILENT, end_of_last_hour)).label("silent_since"),
        col(Webhook.status).label("webhook_status"),
        Webhook.webhook_id,
        Webhook.checked_at,
    )
    return (
        sqlalchemy_select(*shown)
        .select_from(Installation)
        .outerjoin(Webhook, col(Webhook.installation_id) == col(Installation.id))
        .outerjoin(Rhythm, col(Rhythm.installation_id) == col(Installation.id))
    )


# Built once: that takes as long as all else that SQLAlchemy does for a list.
_SHOWN = _shown()


class WebhookView(BaseModel):
    status: WebhookStatus
    webhook_id: str | None = Field(examples=["6f1d2c3b-0000-4000-8000-0000000000d1"])
    checked_at: datetime | None


class InstallationView(BaseModel):
    id: str = Field(examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    status: InstallationStatus
    owner: str | None = Field(examples=["acme"])
    company_id: int = Field(examples=[70077])
    integration_id: int | None = Field(examples=[400123])
    company_name: str | None = Field(examples=["Northwind Demo Ltd"])
    number_ids: list[int] = Field(examples=[[55010]])
    connected_at: datetime
    last_event_at: datetime | None
    silent_since: datetime | None = Field(
        None,
        exclude_if=lambda silent_since: silent_since is None,
        description="Present only if the installation is active and silent at hours at which it usually sends events.",
    )
    webhook: WebhookView


class InstallationList(BaseModel):
    items: list[InstallationView]
    next: str | None = Field(description="The `cursor` of the next page; null at the end.")


async def list_installations(
    resources: Resources,
    key: Caller,
    *,
    owner: str | None = None,
    status: InstallationStatus | None = None,
    search: str | None = None,
    silent: bool = False,
    cursor: str | None = None,
    limit: int = 100,
) -> InstallationList:
    """List installations, oldest first.

    `search` is an id, the beginning of an owner, a company's id or a part of its name. `silent` are those that send
    nothing at hours at which they usually do.
    """
    query = _SHOWN.where(*key.sees(Installation)).order_by(col(Installation.id)).limit(limit + 1)
    if search is not None:
        query = query.where(_named(search))
    if silent:
        query = query.where(_IS_SILENT)
    if owner is not None:
        query = query.where(col(Installation.owner) == owner)
    if status is not None:
        query = query.where(col(Installation.status) == status)
    if cursor is not None:
        query = query.where(col(Installation.id) > cursor)
    async with resources.database.session() as session:
        rows = (await (await session.connection()).execute(query)).all()
    items = [_view(row) for row in rows[:limit]]
    return InstallationList(items=items, next=items[-1].id if len(rows) > limit else None)


async def list_all(
    resources: Resources, key: Caller, *, owner: str | None = None, status: InstallationStatus | None = None
) -> list[InstallationView]:
    """List all installations, page after page, for the command line."""
    await resources.require_ready()
    found: list[InstallationView] = []
    cursor = None
    while True:
        page = await list_installations(resources, key, owner=owner, status=status, cursor=cursor, limit=1000)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


async def show_installation(resources: Resources, key: Caller, installation_id: str) -> InstallationView:
    query = _SHOWN.where(col(Installation.id) == installation_id, *key.sees(Installation))
    async with resources.database.session() as session:
        row = (await (await session.connection()).execute(query)).first()
    if row is None:
        raise InstallationNotFound
    return _view(row)


async def find_ids(
    resources: Resources, key: Caller, ids: Collection[str], companies: Collection[int]
) -> list[tuple[str, int]]:
    """Return the ids of the installations that have one of these ids or belong to one of these companies of Aircall.

    Each with its company's id, oldest first; those that the key may not see are left out.
    """
    named = or_(col(Installation.id).in_(ids), col(Installation.company_id).in_(companies))
    query = select(Installation.id, Installation.company_id).where(named, *key.sees(Installation))
    async with resources.database.session() as session:
        return [(row[0], row[1]) for row in (await session.exec(query.order_by(col(Installation.id)))).all()]


async def names_of(resources: Resources, key: Caller, ids: Collection[str]) -> dict[str, str]:
    """Return what the installations that the key may see are called: the company, else the owner, else the id."""
    name = func.coalesce(col(Installation.company_name), col(Installation.owner), col(Installation.id))
    query = select(Installation.id, name).where(col(Installation.id).in_(ids), *key.sees(Installation))
    async with resources.database.session() as session:
        return dict((await session.exec(query.order_by(col(Installation.id)))).all())


async def read_token(resources: Resources, key: Caller, installation_id: str, *, who: Who) -> SecretStr:
    """Return the token in clear and record the reading in the audit, in one transaction.

    Raises `TooManyTokenReads` for a key that read `AIRCALL_OAUTH_TOKEN_READS_PER_MINUTE` within the last minute.
    """
    query = select(Installation).where(col(Installation.id) == installation_id, *key.sees(Installation))
    async with resources.database.session() as session:
        installation = (await session.exec(query)).first()
        if installation is None:
            raise InstallationNotFound
        if installation.status != InstallationStatus.ACTIVE or installation.token_sealed is None:
            raise InstallationNotActive
        wait = await audit.wait_after(session, who, Action.TOKEN_READ, most=resources.settings.token_reads_per_minute)
        if wait is None:
            token = resources.vault.open(installation.token_sealed, SealedAt(TOKEN_COLUMN, installation.id))
            await audit.record(
                session, who, Action.TOKEN_READ, installation_id=installation.id, owner=installation.owner
            )
            return token
        await _record_refusal(session, who, installation)
    logger.error("too many token reads", alarm=True, actor=who.actor, address=who.address)
    raise TooManyTokenReads(max(1, ceil(min(wait, audit.MINUTE).total_seconds())))


async def _record_refusal(session: AsyncSession, who: Who, installation: Installation) -> None:
    """Record a refused reading in the audit, once a minute: a flood of refused reads must not flood it."""
    if await audit.wait_after(session, who, Action.TOKEN_READ, most=1, outcome=Outcome.REFUSED) is None:
        await audit.record(
            session,
            who,
            Action.TOKEN_READ,
            installation_id=installation.id,
            owner=installation.owner,
            outcome=Outcome.REFUSED,
        )


def _named(search: str) -> ColumnElement[bool]:
    """Match an id, the beginning of an owner, a company's id or a part of its name."""
    known = [
        col(Installation.id) == search,
        col(Installation.owner).istartswith(search, autoescape=True),
        col(Installation.company_name).icontains(search, autoescape=True),
    ]
    if search.isascii() and search.isdecimal() and int(search) < 2**63:
        known.append(col(Installation.company_id) == int(search))
    return or_(*known)


def _view(row: Any) -> InstallationView:
    fields = row._asdict()
    webhook = WebhookView(
        status=fields.pop("webhook_status") or WebhookStatus.PENDING,
        webhook_id=fields.pop("webhook_id"),
        checked_at=fields.pop("checked_at"),
    )
    return InstallationView(**fields, webhook=webhook)
