"""The order of the log: every writer takes one lock before it draws a position, so positions commit in order.

A reader may therefore read `position > cursor` and never skip an event. The lock is taken, and given back, within one
message to PostgreSQL: by the inbox in its only statement, by every other transaction as it commits, where a trigger
appends its drafts. So no client holds it up, and nothing that can wait comes after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.storage import locks, partitions
from aircall_oauth.storage.models.base import new_id
from aircall_oauth.storage.models.events import EventDraft, EventSource
from aircall_oauth.storage.models.installations import Gap, Installation

CHANNEL = "aircall_oauth_log"
# The newest position of the log, as an expression; 0 where the log is empty.
NEWEST_POSITION = "(SELECT coalesce(max(position), 0) FROM event)"
# The sessions that have the log's lock: the lock's number in the two halves that PostgreSQL shows.
HOLDERS = f"""
    SELECT a.pid, a.wait_event_type, clock_timestamp() - a.state_change AS held_for
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.classid = {locks.LOG >> 32} AND l.objid = {locks.LOG & 0xFFFFFFFF}
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - only constants of ours are put in
# A holder that waits for its client has got all it needs but the end of a message, which is there at once or never.
SILENT = timedelta(seconds=2)
FREE = f"""
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM ({HOLDERS}) AS holder
    WHERE wait_event_type = 'Client' AND held_for > $1::interval
"""  # noqa: S608 - only constants of ours are put in


@dataclass(frozen=True)
class Missed:
    """A call whose end Aircall told when asked; `key` recognises it, `data` is its very text."""

    key: bytes
    occurred_at: datetime
    data: str


async def append(session: AsyncSession, installation: Installation, type_: str, data: dict[str, Any]) -> None:
    """Have an event of the service's own added to the log when the session's transaction commits."""
    draft = _draft(installation, type_, type_.partition(".")[0], EventSource.SERVICE)
    draft.ids, draft.keys, draft.times = [new_id("evt")], [None], [None]
    draft.texts = [msgspec.json.encode(data).decode()]
    await _add(session, draft)


async def fill(
    session: AsyncSession, gap: Gap, installation: Installation, missed: Sequence[Missed], *, type_: str, resource: str
) -> None:
    """Have what the log lacks of these added to it when the session's transaction commits, and counted in the gap."""
    draft = _draft(installation, type_, resource, EventSource.BACKFILL)
    draft.gap_id = gap.id
    draft.ids = [new_id("evt") for _ in missed]
    draft.keys = [one.key for one in missed]
    draft.times = [one.occurred_at for one in missed]
    draft.texts = [one.data for one in missed]
    await _add(session, draft)


async def newest_position(connection: asyncpg.Connection) -> int:
    """Return the newest position of the log; 0 where the log is empty."""
    position: int = await connection.fetchval(f"SELECT {NEWEST_POSITION}")
    return position


async def free(connection: asyncpg.Connection) -> int:
    """End the sessions that have the log's lock and a client that fell silent; how many. What they did is undone."""
    ended: int = await connection.fetchval(FREE, SILENT)
    return ended


def _draft(installation: Installation, type_: str, resource: str, source: EventSource) -> EventDraft:
    return EventDraft(
        installation_id=installation.id,
        company_id=installation.company_id,
        owner=installation.owner,
        type=type_,
        resource=resource,
        source=source,
        ids=[],
        keys=[],
        times=[],
        texts=[],
    )


async def _add(session: AsyncSession, draft: EventDraft) -> None:
    """Write it down, and make sure of a day for what it holds."""
    session.add(draft)
    await session.flush()
    connection = await session.connection()
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await partitions.ensure(driver)
