"""Back-fill: Aircall is asked for the calls that ended while an installation could not receive.

What the log lacks of them is put into it as `call.ended`. A gap is listed page by page; each page is one transaction
with the place it was read to, so whoever is killed in the middle leaves nothing half done and tells nothing twice.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, floor
from typing import Any

from sqlalchemy import ColumnElement, func
from sqlmodel import col, delete, select, update

from aircall_oauth.aircall import calls
from aircall_oauth.aircall.calls import CallPage, ListedCall
from aircall_oauth.errors import (
    AircallRefused,
    BackfillPutOff,
    InstallationNotActive,
    InstallationNotFound,
    InvalidRequest,
    SealError,
)
from aircall_oauth.events import store
from aircall_oauth.events.store import Missed
from aircall_oauth.installations import tokens
from aircall_oauth.installations.outages.gaps import MARGIN, SETTLING
from aircall_oauth.installations.pool import Piece, work_off
from aircall_oauth.resources import Resources
from aircall_oauth.storage import clocks, leases
from aircall_oauth.storage.models.base import new_id
from aircall_oauth.storage.models.installations import Gap, GapReason, Installation, InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# Aircall lists calls by their start, and a gap misses their ends: so long before it a call may have begun.
LONGEST_CALL = timedelta(hours=4)
SHORTEST_PART = timedelta(seconds=1)
# Who fills a gap has it for this long, anew with each page.
LEASE = timedelta(seconds=60)
PAUSE = timedelta(minutes=1)
REFUSED_PAUSE = timedelta(hours=1)
KEPT = timedelta(days=90)
AT_ONCE = 20
# By hand somebody is looking on: the budget is waited for, but no Aircall that is away.
PATIENCE_SECONDS = 150.0
LOOK_AGAIN_SECONDS = 1.0


Taken = tuple[Gap, Installation]


@dataclass(frozen=True)
class Step:
    """How far a gap is filled: its row, and how many calls the part has that is being listed."""

    gap: Gap
    in_this_part: int = 0

    @property
    def share(self) -> float:
        """Between 0 and 1, by the time that was listed."""
        gap = self.gap
        if gap.done_at is not None:
            return 1.0
        if gap.listed_to is None or gap.part_to is None:
            return 0.0
        begin, end = gap.since - LONGEST_CALL, _end(gap)
        of_this_part = min(1.0, (gap.page - 1) * calls.PER_PAGE / (self.in_this_part or calls.MOST_LISTED))
        return (gap.listed_to - begin + (gap.part_to - gap.listed_to) * of_this_part) / (end - begin)


async def fill_gaps(resources: Resources) -> None:
    """The worker's chore: go on with every gap that is due, until it is filled or must wait."""
    wanted = resources.settings.webhook_events
    if not resources.settings.backfill or (wanted and calls.ENDED not in wanted):
        return

    async def due(free: int) -> list[Piece]:
        return [_fill_unseen(resources, *taken) for taken in await _take(resources, limit=free)]

    await work_off(due, at_once=AT_ONCE)


async def forget_gaps(resources: Resources) -> None:
    """The worker's chore: gaps that were filled long ago are of no interest any more."""
    before = await clocks.agreed_now(resources.database) - KEPT
    async with resources.database.session() as session:
        await session.exec(delete(Gap).where(col(Gap.done_at) < before))


async def list_gaps(resources: Resources, *, installation_id: str | None = None, limit: int = 100) -> Sequence[Gap]:
    """The newest gaps and how far each is filled, newest first."""
    await resources.require_ready()
    newest = select(Gap).order_by(col(Gap.since).desc()).limit(limit)
    if installation_id is not None:
        newest = newest.where(col(Gap.installation_id) == installation_id)
    async with resources.database.session() as session:
        return (await session.exec(newest)).all()


async def by_hand(
    resources: Resources, installation_id: str, *, since: datetime, until: datetime | None = None
) -> AsyncGenerator[Step, None]:
    """Fill a window that somebody names (until now, where the end is left out), telling each step; the last is done.

    Cut short, the worker goes on with it. Raises `InstallationNotFound`, `InstallationNotActive`, `InvalidRequest`
    for a window that is empty or too old, and `BackfillPutOff` where Aircall has to be waited for.
    """
    gap = await _name(resources, installation_id, since, until)
    while gap.done_at is None:
        for taken in await _take(resources, col(Gap.id) == gap.id):
            async for step in _fill(resources, *taken):
                yield step
        gap, wait_seconds = await _look(resources, gap.id)
        if wait_seconds > PATIENCE_SECONDS:
            raise BackfillPutOff(f"{BackfillPutOff.title()} ({gap.last_error})")
        if gap.done_at is None:
            yield Step(gap)
            await asyncio.sleep(min(max(wait_seconds, 0.0), LOOK_AGAIN_SECONDS))
    yield Step(gap)


async def _fill(resources: Resources, gap: Gap, installation: Installation) -> AsyncIterator[Step]:
    """Fill a gap that was taken, telling each step; ends early where it must wait or is not ours any more."""
    try:
        numbers = await _linked_numbers(resources, installation)
        while gap.done_at is None:
            step = await _next_page(resources, gap, installation, numbers)
            if step is None:
                return
            gap = step.gap
            yield step
    except tokens.NotNow as error:
        await _put_off(resources, gap, error)
        if isinstance(error, AircallRefused) and error.aircall_status in tokens.DEAD_TOKEN:
            await tokens.suspect_token(resources, installation.id)


async def _fill_unseen(resources: Resources, gap: Gap, installation: Installation) -> None:
    async for step in _fill(resources, gap, installation):
        if step.gap.done_at is not None:
            gap = step.gap
            logger.info("gap filled", installation_id=gap.installation_id, found=gap.found, added=gap.added)


async def _take(resources: Resources, *conditions: ColumnElement[bool], limit: int = 1) -> list[Taken]:
    """Gaps of active installations that are due, the longest due first, for the length of a lease."""
    due = (leases.is_due(Gap), col(Installation.status) == InstallationStatus.ACTIVE, *conditions)
    async with resources.database.session() as session:
        taken = await leases.claim(session, Gap, *due, limit=limit, due_at=leases.after(LEASE))
    for gap, _ in taken:
        _place(gap, oldest=_asked_at(gap) - resources.settings.event_retention)
    return taken


def _place(gap: Gap, *, oldest: datetime) -> None:
    """Where to list from. What the log has dropped is not told anew: nobody could recognise it any more."""
    begin = max(gap.listed_to or gap.since - LONGEST_CALL, oldest)
    if begin != gap.listed_to:
        gap.listed_to, gap.page = begin, 1
    gap.part_to = max(gap.part_to or _end(gap), begin)


async def _linked_numbers(resources: Resources, installation: Installation) -> set[int]:
    """Aircall lists the calls of all numbers, and tells those of the linked ones: so now which these are."""
    async with tokens.within_budget(resources, installation.company_id):
        integration = await resources.aircall.integration(tokens.token_of(resources, installation))
    return set(integration.number_ids)


async def _next_page(resources: Resources, gap: Gap, installation: Installation, numbers: set[int]) -> Step | None:
    """List one page and keep what it brings; None where the gap is not ours any more."""
    assert gap.listed_to is not None
    assert gap.part_to is not None
    if gap.listed_to >= _end(gap):
        return await _move(resources, gap, [], _done())
    async with tokens.within_budget(resources, installation.company_id):
        page = await resources.aircall.list_calls(
            tokens.token_of(resources, installation),
            since=floor(gap.listed_to.timestamp()),
            until=ceil(gap.part_to.timestamp()),
            page=gap.page,
        )
    length = gap.part_to - gap.listed_to
    if _is_cut_off(gap, page) and length > SHORTEST_PART:
        return await _move(resources, gap, [], {"part_to": gap.listed_to + length / 2, "page": 1}, page.total)
    if _is_cut_off(gap, page) and not _has_next(gap, page):
        logger.error("more calls in a second than Aircall lists", installation_id=installation.id)
    told = (call for call in page.calls if call.number_id is None or call.number_id in numbers)
    missed = [missed for call in told if (missed := _missed(gap, call)) is not None]
    place = _behind(gap, page) | {"found": gap.found + len(missed)}
    return await _move(resources, gap, missed, place, page.total)


def _is_cut_off(gap: Gap, page: CallPage) -> bool:
    """Whether the part has more calls than Aircall lists; some lists tell how many there are, up to that bound."""
    return page.total >= calls.MOST_LISTED or (page.more and not _has_next(gap, page))


def _has_next(gap: Gap, page: CallPage) -> bool:
    """Whether there is a page behind this one that Aircall lists: one past its bound is refused."""
    return page.more and gap.page * calls.PER_PAGE < calls.MOST_LISTED


def _missed(gap: Gap, call: ListedCall) -> Missed | None:
    """A call that ended in the gap. One that goes on, or ended just now, will tell so itself."""
    latest = min(_end(gap), _asked_at(gap) - SETTLING)
    if call.ended_at is None or not gap.since - MARGIN <= call.ended_at <= latest:
        return None
    return Missed(calls.key(call.id), call.ended_at, call.text)


def _behind(gap: Gap, page: CallPage) -> dict[str, Any]:
    """The place behind a page: the next one, the next part, or the end."""
    assert gap.listed_to is not None
    assert gap.part_to is not None
    if _has_next(gap, page):
        return {"page": gap.page + 1}
    if gap.part_to >= _end(gap):
        return _done()
    # What fitted once will fit again, and twice as much where it was less than half of what Aircall lists: so a crowded
    # second does not cut all that follows it as fine. The second where two parts meet is listed twice.
    length = gap.part_to - gap.listed_to
    if 2 * gap.page * calls.PER_PAGE <= calls.MOST_LISTED:
        length *= 2
    next_part_to = min(gap.part_to + length, _end(gap))
    return {"listed_to": gap.part_to, "part_to": next_part_to, "page": 1}


def _done() -> dict[str, Any]:
    return {"done_at": func.now(), "due_at": None}


async def _move(
    resources: Resources, gap: Gap, missed: Sequence[Missed], place: dict[str, Any], total: int = 0
) -> Step | None:
    """Keep what a page brought and the place behind it, both or neither; None where the gap is not ours any more."""
    active = select(Installation).where(
        col(Installation.id) == gap.installation_id, col(Installation.status) == InstallationStatus.ACTIVE
    )
    still = {"listed_to": gap.listed_to, "part_to": gap.part_to, "page": gap.page, "last_error": None}
    ours = update(Gap).where(col(Gap.id) == gap.id, col(Gap.due_at) == gap.due_at)
    async with resources.database.session() as session:
        # The installation first, as whoever removes it does.
        installation = (await session.exec(active.with_for_update(read=True))).first()
        if installation is None:
            return None
        values = still | {"due_at": leases.after(LEASE)} | place
        moved = (await session.exec(ours.values(**values).returning(Gap))).scalars().first()
        if moved is None:
            return None
        if missed:
            await store.fill(session, moved, installation, missed, type_=calls.ENDED, resource=calls.RESOURCE)
    if missed:
        moved.added = await _added(resources, moved)
    return Step(moved, total)


async def _added(resources: Resources, gap: Gap) -> int:
    """Counted by the database, as the page is kept."""
    async with resources.database.session() as session:
        return (await session.exec(select(Gap.added).where(col(Gap.id) == gap.id))).first() or gap.added


async def _put_off(resources: Resources, gap: Gap, error: Exception) -> None:
    pause = REFUSED_PAUSE if isinstance(error, AircallRefused | SealError) else PAUSE
    told = None if isinstance(error, AircallRefused) else getattr(error, "retry_after_seconds", None)
    if told is not None:
        pause = min(timedelta(seconds=told), REFUSED_PAUSE)
    reason = str(error) or "timeout"
    logger.info("back-fill put off", installation_id=gap.installation_id, reason=reason)
    async with resources.database.session() as session:
        await leases.put_off(session, gap, pause, col(Gap.due_at) == gap.due_at, last_error=reason)


async def _name(resources: Resources, installation_id: str, since: datetime, until: datetime | None) -> Gap:
    """A gap that is due now, of the window that somebody named."""
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
            id=new_id("gap"),
            installation_id=installation_id,
            reason=GapReason.BY_HAND,
            since=since,
            until=until,
            due_at=now,
            page=1,
            found=0,
            added=0,
        )
        session.add(gap)
    return gap


async def _look(resources: Resources, gap_id: str) -> tuple[Gap, float]:
    """A gap as it stands, and in how many seconds it is due."""
    wait_seconds = func.coalesce(func.extract("epoch", col(Gap.due_at) - func.clock_timestamp()), 0.0)
    async with resources.database.session() as session:
        row = (await session.exec(select(Gap, wait_seconds).where(col(Gap.id) == gap_id))).first()
    if row is None:
        # It went with its installation.
        raise InstallationNotActive
    return row[0], float(row[1])


def _end(gap: Gap) -> datetime:
    assert gap.until is not None
    return gap.until + MARGIN


def _asked_at(gap: Gap) -> datetime:
    """The database's clock when the gap was taken, or its last page kept."""
    assert gap.due_at is not None
    return gap.due_at - LEASE
