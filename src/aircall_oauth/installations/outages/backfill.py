"""Back-fill: ask Aircall for the calls that ended while an installation could not receive events.

Calls that the log lacks are added to it as `call.ended` events. Aircall lists a gap's calls page by page. One
transaction writes a page's events together with the place where listing goes on, so a process killed at any moment
leaves no page half written, and no event is added twice.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil, floor
from typing import Any

from sqlalchemy import ColumnElement, func, text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import OPERATOR, Action, Who
from aircall_oauth.aircall import calls
from aircall_oauth.errors import (
    AircallRefused,
    BackfillPutOff,
    DataKeyUnusable,
    InstallationNotActive,
    InstallationNotFound,
    InvalidRequest,
    SealError,
)
from aircall_oauth.events import store
from aircall_oauth.events.store import Missed
from aircall_oauth.installations import tokens
from aircall_oauth.installations.outages import listing
from aircall_oauth.installations.pool import Piece, work_off
from aircall_oauth.resources import Resources
from aircall_oauth.storage import clocks, data_keys, leases
from aircall_oauth.storage.data_keys import DataKey
from aircall_oauth.storage.models.installations import Gap, Installation
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.storage.statuses import GapReason, InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

PAUSE = timedelta(minutes=1)
REFUSED_PAUSE = timedelta(hours=1)
KEPT = timedelta(days=90)
AT_ONCE = 20
# A back-fill that an operator started by hand gives up if its gap is due only later than this. So it waits for the
# budget and retries an Aircall that is away, but does not wait out a refusal or a long pause that Aircall asked for.
PATIENCE_SECONDS = 150.0
POLL_SECONDS = 1.0
DUE = (leases.is_due(Gap), col(Installation.status) == InstallationStatus.ACTIVE)
HAS_DUE = leases.any_of(Gap, *DUE)


@dataclass(frozen=True)
class Step:
    """How far a gap is filled: its row, and the number of calls in the part that is being listed (0: not known)."""

    gap: Gap
    in_this_part: int = 0

    @property
    def share(self) -> float:
        """The share of the gap that is listed, from 0 to 1."""
        return listing.share(self.gap, self.in_this_part)


async def fill_gaps(resources: Resources) -> None:
    """Chore: work on each gap that is due until it is filled or has to wait.

    Does nothing where back-fills are switched off, or `call.ended` is not among the events that the service wants.
    """
    if not _fills(resources):
        return

    async def due(free: int) -> list[Piece]:
        return [_fill_and_log(resources, *claimed) for claimed in await _claim(resources, limit=free)]

    await work_off(due, at_once=AT_ONCE)


def _fills(resources: Resources) -> bool:
    """Whether the worker fills gaps."""
    wanted = resources.settings.webhook_events
    return resources.settings.backfill and (not wanted or calls.ENDED in wanted)


async def forget_gaps(resources: Resources) -> None:
    """Chore: delete gaps that were filled more than 90 days ago."""
    before = await clocks.agreed_now(resources.database) - KEPT
    async with resources.database.session() as session:
        await session.exec(delete(Gap).where(col(Gap.done_at) < before))


async def list_gaps(resources: Resources, *, installation_id: str | None = None, limit: int = 100) -> Sequence[Gap]:
    """Return the `limit` newest gaps, newest first: of one installation, or of all."""
    await resources.require_ready()
    newest = select(Gap).order_by(col(Gap.since).desc()).limit(limit)
    if installation_id is not None:
        newest = newest.where(col(Gap.installation_id) == installation_id)
    async with resources.database.session() as session:
        return (await session.exec(newest)).all()


async def ask(
    resources: Resources,
    who: Who,
    installation_id: str,
    *,
    since: datetime,
    until: datetime | None = None,
    gap_id: str | None = None,
) -> Gap:
    """Leave a window to the worker to fill, and record that in the audit; a repeat with the same `gap_id` leaves none.

    The window ends now if `until` is None or in the future. Raises `InstallationNotFound`, `InstallationNotActive`, and
    `InvalidRequest` for a window that is empty or begins before the log, and where the worker fills none.
    """
    if not _fills(resources):
        raise InvalidRequest(
            "The worker fills no gaps here: AIRCALL_OAUTH_BACKFILL is off, or call.ended is not wanted."
        )
    return await _add_gap(resources, who, installation_id, since, until, gap_id)


async def by_hand(
    resources: Resources,
    installation_id: str,
    *,
    since: datetime,
    until: datetime | None = None,
    who: Who = OPERATOR,
) -> AsyncGenerator[Step, None]:
    """Fill a window that an operator chose, and yield each step; in the last one the gap is filled.

    The window ends now if `until` is None or in the future. If the caller stops early, the worker fills the rest.
    Raises `InstallationNotFound`, `InstallationNotActive`, `InvalidRequest` for a window that is empty or begins before
    the log, and `BackfillPutOff` if the next try is more than `PATIENCE_SECONDS` away.
    """
    gap = await _add_gap(resources, who, installation_id, since, until)
    while gap.done_at is None:
        for claimed in await _claim(resources, col(Gap.id) == gap.id):
            async for step in _fill(resources, *claimed):
                yield step
        gap, wait_seconds = await _load(resources, gap.id)
        if wait_seconds > PATIENCE_SECONDS:
            raise BackfillPutOff(f"{BackfillPutOff.title()} ({gap.last_error})")
        if gap.done_at is None:
            yield Step(gap)
            await asyncio.sleep(min(max(wait_seconds, 0.0), POLL_SECONDS))
    yield Step(gap)


async def _fill(resources: Resources, gap: Gap, installation: Installation) -> AsyncIterator[Step]:
    """Fill a gap that this process has claimed, and yield each step.

    Ends early if the gap has to wait, another process has claimed it, or its installation is no longer active.
    """
    try:
        numbers = await _linked_numbers(resources, installation)
        while gap.done_at is None:
            step = await _next_page(resources, gap, installation, numbers)
            if step is None:
                return
            gap = step.gap
            yield step
    except (*tokens.ASKING_ERRORS, DataKeyUnusable) as error:
        await _put_off(resources, gap, error)
        if isinstance(error, AircallRefused) and error.aircall_status in tokens.DEAD_TOKEN:
            await tokens.suspect_token(resources, installation.id)


async def _fill_and_log(resources: Resources, gap: Gap, installation: Installation) -> None:
    async for step in _fill(resources, gap, installation):
        if step.gap.done_at is not None:
            gap = step.gap
            logger.info("gap filled", installation_id=gap.installation_id, found=gap.found, added=gap.added)


async def _claim(
    resources: Resources, *conditions: ColumnElement[bool], limit: int = 1
) -> list[tuple[Gap, Installation]]:
    """Claim due gaps of active installations, the longest due first, so that no other process works on them."""
    async with resources.database.session() as session:
        claimed = await leases.claim(session, Gap, *DUE, *conditions, limit=limit, due_at=leases.after(listing.LEASE))
    for gap, _ in claimed:
        listing.begin(gap, oldest=listing.asked_at(gap) - resources.settings.event_retention)
    return claimed


async def _linked_numbers(resources: Resources, installation: Installation) -> set[int]:
    """Return the ids of the phone numbers that are linked to the integration now.

    Aircall lists the calls of all numbers, but sends events for linked numbers only.
    """
    async with tokens.within_budget(resources, installation.company_id):
        integration = await resources.aircall.integration(tokens.token_of(resources, installation))
    return set(integration.number_ids)


async def _next_page(resources: Resources, gap: Gap, installation: Installation, numbers: set[int]) -> Step | None:
    """List one page of calls and save those that the gap missed. Returns None where `_keep` does."""
    assert gap.listed_to is not None
    assert gap.part_to is not None
    if gap.listed_to >= listing.end(gap):
        return await _keep(resources, gap, [], listing.done())
    async with tokens.within_budget(resources, installation.company_id):
        page = await resources.aircall.list_calls(
            tokens.token_of(resources, installation),
            since=floor(gap.listed_to.timestamp()),
            until=ceil(gap.part_to.timestamp()),
            page=gap.page,
        )
    is_cut_off = listing.is_cut_off(gap, page)
    if is_cut_off and gap.part_to - gap.listed_to > listing.SHORTEST_PART:
        return await _keep(resources, gap, [], listing.half(gap), page.total)
    if is_cut_off and not listing.has_next(gap, page):
        logger.error("more calls in a second than Aircall lists", installation_id=installation.id)
    linked = (call for call in page.calls if call.number_id is None or call.number_id in numbers)
    missed = [missed for call in linked if (missed := listing.missed(gap, call)) is not None]
    if resources.redaction is not None:
        missed = [replace(one, data=resources.redaction.of(calls.ENDED, one.data)) for one in missed]
    place = listing.after_page(gap, page) | {"found": gap.found + len(missed)}
    return await _keep(resources, gap, missed, place, page.total)


async def _keep(
    resources: Resources, gap: Gap, missed: Sequence[Missed], place: dict[str, Any], total: int = 0
) -> Step | None:
    """Save a page's missed calls and the place where listing goes on, in one transaction.

    `place` holds the columns that change, `total` the number of calls in the listed part. Returns None, and saves
    nothing, if another process has claimed the gap or the installation is no longer active.
    """
    active = select(Installation).where(
        col(Installation.id) == gap.installation_id, col(Installation.status) == InstallationStatus.ACTIVE
    )
    unchanged = {"listed_to": gap.listed_to, "part_to": gap.part_to, "page": gap.page, "last_error": None}
    ours = update(Gap).where(col(Gap.id) == gap.id, col(Gap.due_at) == gap.due_at)
    async with resources.database.session() as session:
        # Lock the installation before the gap: its removal locks in the same order, so the two cannot deadlock.
        installation = (await session.exec(active.with_for_update(read=True))).first()
        if installation is None:
            return None
        values = unchanged | {"due_at": leases.after(listing.LEASE)} | place
        moved = (await session.exec(ours.values(**values).returning(Gap))).scalars().first()
        if moved is None:
            return None
        if missed:
            key = await _data_key(resources, session, installation)
            await store.fill(session, moved, installation, missed, key=key)
    if missed:
        moved.added = await _added(resources, moved)
    return Step(moved, total)


async def _data_key(resources: Resources, session: AsyncSession, installation: Installation) -> DataKey | None:
    """Return the key that its events are encrypted under, held until the transaction ends; None if they are not.

    Raises `DataKeyUnusable` if it does not open, or is being erased.
    """
    if not resources.data_keys.encrypts:
        return None
    async with resources.database.driver_connection() as connection:
        key = await resources.data_keys.current(connection, installation.id, installation.owner)
    held = text(data_keys.HOLD).bindparams(id=key.id)
    if await (await session.connection()).scalar(held) is None:
        raise DataKeyUnusable
    return key


async def _added(resources: Resources, gap: Gap) -> int:
    """Return how many events this gap has added to the log so far. The database counts them as it inserts a page."""
    async with resources.database.session() as session:
        return (await session.exec(select(Gap.added).where(col(Gap.id) == gap.id))).first() or gap.added


async def _put_off(resources: Resources, gap: Gap, error: Exception) -> None:
    """Make a gap due again later: in an hour after a refusal, in a minute after any other error.

    If the other error says how long to wait, that counts instead, an hour at most. Does nothing if another process has
    claimed the gap.
    """
    pause = REFUSED_PAUSE if isinstance(error, AircallRefused | SealError) else PAUSE
    told = None if isinstance(error, AircallRefused) else getattr(error, "retry_after_seconds", None)
    if told is not None:
        pause = min(timedelta(seconds=told), REFUSED_PAUSE)
    reason = str(error) or "timeout"
    logger.info("back-fill put off", installation_id=gap.installation_id, reason=reason)
    async with resources.database.session() as session:
        await leases.put_off(session, gap, pause, col(Gap.due_at) == gap.due_at, last_error=reason)


async def _add_gap(
    resources: Resources,
    who: Who,
    installation_id: str,
    since: datetime,
    until: datetime | None,
    gap_id: str | None = None,
) -> Gap:
    """Add a gap for the window that the operator chose, due now. Raises what `by_hand` raises for a wrong window."""
    await resources.require_ready()
    async with resources.database.session() as session:
        installation = await session.get(Installation, installation_id)
        if installation is None:
            raise InstallationNotFound
        if installation.status != InstallationStatus.ACTIVE:
            raise InstallationNotActive
        now = (await session.exec(select(func.now()))).one()
        until = now if until is None else min(until, now)
        oldest = now - resources.settings.event_retention
        if not oldest <= since < until:
            raise InvalidRequest(f"The window must begin after {oldest:%Y-%m-%dT%H:%MZ} and before its end.")
        gap = Gap(
            id=gap_id or new_id("gap"),
            installation_id=installation_id,
            reason=GapReason.BY_HAND,
            since=since,
            until=until,
            due_at=now,
            page=1,
            found=0,
            added=0,
        )
        added = insert(Gap).values(**gap.model_dump()).on_conflict_do_nothing(index_elements=["id"])
        if (await session.exec(added.returning(col(Gap.id)))).first() is None:
            return gap
        details = {"since": since.isoformat(), "until": until.isoformat()}
        await audit.record(
            session,
            who,
            Action.BACKFILL_ASKED,
            installation_id=installation_id,
            owner=installation.owner,
            details=details,
        )
    return gap


async def _load(resources: Resources, gap_id: str) -> tuple[Gap, float]:
    """Return a gap, and in how many seconds it is due: 0 if it is filled.

    Raises `InstallationNotActive` if the gap was deleted.
    """
    wait_seconds = func.coalesce(func.extract("epoch", col(Gap.due_at) - func.clock_timestamp()), 0.0)
    async with resources.database.session() as session:
        row = (await session.exec(select(Gap, wait_seconds).where(col(Gap.id) == gap_id))).first()
    if row is None:
        # A gap is deleted when its installation ends.
        raise InstallationNotActive
    return row[0], float(row[1])
