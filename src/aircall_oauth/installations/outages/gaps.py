"""Gaps: the windows in which an installation could not receive, recorded here and filled by the back-fill.

Aircall replays nothing once its own retries are over. So each window without events is recorded, from when until when:
a webhook that is switched off or gone, and this service being away itself.
"""

from datetime import datetime, timedelta

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.storage.models.installations import Gap
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.storage.statuses import GapReason

# Events are late by minutes, and clocks differ by seconds.
MARGIN = timedelta(minutes=5)
# `call.ended` comes about 30 s after a call's end, so a call that ended less than this ago is left to its own event.
SETTLING = timedelta(minutes=2)


async def begin(
    session: AsyncSession, installation_id: str, *, reason: GapReason, since: datetime | None = None
) -> None:
    """Open a gap from `since` on, by default from now. A gap that is open already stays as it is."""
    opened = insert(Gap).values(
        id=new_id("gap"), installation_id=installation_id, reason=reason, since=func.now() if since is None else since
    )
    still_open = col(Gap.until).is_(None)
    await session.exec(opened.on_conflict_do_nothing(index_elements=["installation_id"], index_where=still_open))


async def end(session: AsyncSession, installation_id: str) -> None:
    """Close the installation's open gap, if any, and make it due once late events have had time to arrive."""
    mine = update(Gap).where(col(Gap.installation_id) == installation_id, col(Gap.until).is_(None))
    await session.exec(mine.values(until=func.now(), due_at=func.now() + MARGIN + SETTLING))
