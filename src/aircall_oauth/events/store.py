"""Appends events to the log, in an order that readers can rely on.

Every writer takes one lock before it draws a position, and holds it until its commit, so positions commit in order and
a reader of `position > cursor` never skips an event. The lock is taken and given back within one message to PostgreSQL:
by the inbox in its only statement, by every other transaction as it commits, where a trigger appends its drafts. So no
client can hold it, and nothing that may have to wait comes after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.aircall import calls, payloads
from aircall_oauth.storage import partitions
from aircall_oauth.storage.data_keys import NULL, DataKey
from aircall_oauth.storage.models.events import EventDraft
from aircall_oauth.storage.models.installations import Gap, Installation
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.storage.statuses import EventSource

# An event about a subscription is of no installation; its company is 0.
SUBSCRIPTION = "subscription"
NO_INSTALLATION = "ins_" + "0" * 32
# The events of the service's own, each documented in docs/deliveries.md.
SERVICE_TYPES = (
    "installation.connected",
    "installation.claimed",
    "installation.changed",
    "installation.unauthorized",
    "installation.removed",
    "webhook.disabled",
    "webhook.restored",
    "subscription.down",
    "subscription.up",
)


@dataclass(frozen=True)
class Missed:
    """A call that ended, from Aircall's list of calls: `key` recognises the call, `data` is Aircall's text of it."""

    key: bytes
    occurred_at: datetime
    data: str
    subject: str | None


async def append(session: AsyncSession, installation: Installation, type_: str, data: dict[str, Any]) -> None:
    """Add an event of the service's own to the log; it is appended when the session's transaction commits."""
    draft = _draft(installation, type_, type_.partition(".")[0], EventSource.SERVICE)
    await _append_one(session, draft, data, payloads.subject("installation", installation.id))


async def append_about_subscription(
    session: AsyncSession, subscription_id: str, owner: str | None, type_: str, data: dict[str, Any]
) -> None:
    """Add an event about a subscription, which is of no installation; appended when the transaction commits."""
    draft = _new_draft(NO_INSTALLATION, 0, owner, type_, SUBSCRIPTION, EventSource.SERVICE)
    await _append_one(session, draft, data, payloads.subject(SUBSCRIPTION, subscription_id))


async def fill(
    session: AsyncSession, gap: Gap, installation: Installation, missed: Sequence[Missed], *, key: DataKey | None = None
) -> None:
    """Add the ends of calls that the log lacks, encrypted if there is a key, and count them in the gap.

    They are appended when the session's transaction commits.
    """
    draft = _draft(installation, calls.ENDED, calls.RESOURCE, EventSource.BACKFILL)
    draft.gap_id = gap.id
    draft.ids = [new_id("evt") for _ in missed]
    draft.keys = [one.key for one in missed]
    draft.times = [one.occurred_at for one in missed]
    draft.texts = [one.data for one in missed]
    draft.subjects = [one.subject for one in missed]
    if key is not None:
        draft.data_key = key.id
        draft.sealed = [key.seal(id_, text) for id_, text in zip(draft.ids, draft.texts, strict=True)]
        draft.texts = [NULL for _ in missed]
    await _add(session, draft)


async def _append_one(session: AsyncSession, draft: EventDraft, data: dict[str, Any], subject: str | None) -> None:
    if draft.type not in SERVICE_TYPES:
        raise ValueError(f"{draft.type} is not one of SERVICE_TYPES.")
    draft.ids, draft.keys, draft.times = [new_id("evt")], [None], [None]
    draft.texts = [msgspec.json.encode(data).decode()]
    draft.subjects = [subject]
    await _add(session, draft)


def _draft(installation: Installation, type_: str, resource: str, source: EventSource) -> EventDraft:
    return _new_draft(installation.id, installation.company_id, installation.owner, type_, resource, source)


def _new_draft(
    installation_id: str, company_id: int, owner: str | None, type_: str, resource: str, source: EventSource
) -> EventDraft:
    return EventDraft(
        installation_id=installation_id,
        company_id=company_id,
        owner=owner,
        type=type_,
        resource=resource,
        source=source,
        ids=[],
        keys=[],
        times=[],
        texts=[],
    )


async def _add(session: AsyncSession, draft: EventDraft) -> None:
    """Insert a draft, and make the day that its events will belong to if it is missing."""
    session.add(draft)
    await session.flush()
    connection = await session.connection()
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await partitions.ensure(driver)
