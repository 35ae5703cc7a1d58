"""Leaves stubs of events past the retention of their type or owner while their day is kept: a chore of the worker.

It goes through days that have ended, a few hundred events in each short transaction, and rests as long as each took.
It never takes the log's lock. A day in which nothing is kept is left to be dropped as a whole.
"""

import asyncio
import contextlib
import time
from datetime import datetime

import asyncpg

from aircall_oauth.events import expiry
from aircall_oauth.events.expiry import Past
from aircall_oauth.privacy import stubs
from aircall_oauth.resources import Resources
from aircall_oauth.storage import clocks, partitions
from aircall_oauth.storage.keeping import Keeping
from aircall_oauth.telemetry import log

logger = log.get(__name__)

BATCH = 500
# A day in which something is kept, and none: as `_past` has them where there is nothing to do.
SOME, NOTHING = Past(frozenset(), is_all=False, owners=()), Past(frozenset(), is_all=True, owners=())
RUN_SECONDS = 20.0
NEXT = """
    SELECT position, received_at FROM {day}
    WHERE position > $1 AND erased_at IS NULL AND {condition} ORDER BY position LIMIT $2
"""


class KeepingChanged(Exception):
    """Other lengths count since the run began."""


async def expire(resources: Resources) -> None:
    """Go through the ended days, oldest first, for a while; the next run goes on."""
    with contextlib.suppress(KeepingChanged):
        await _expire(resources)


async def _expire(resources: Resources) -> None:
    async with resources.database.driver_connection() as connection:
        now = await clocks.of_the_log(connection)
        keeping = await expiry.keeping_of(resources, connection)
        days = await partitions.ended_before(connection, now - keeping.shortest)
    if keeping.shortest == keeping.longest:
        return
    done = resources.days_gone_through
    for day in done.keys() - set(days):
        del done[day]
    enough_at = time.monotonic() + RUN_SECONDS
    are_to_go = True
    for day in days:
        # What has ended changes no more, so a day is looked at again when another length has passed, or others count.
        state = keeping, frozenset(each for each in keeping.lengths if partitions.ends_before(day, now - each))
        if day not in done or done[day][0] != state:
            past = await _past(resources, day, keeping, now)
            # Those in front of the first in which something is kept are dropped in one stroke.
            if past.kinds and not (are_to_go and past.is_all):
                if not await _expire_day(resources, day, past, keeping, enough_at):
                    return
                past = NOTHING if past.is_all else SOME
            done[day] = state, past.is_all
        are_to_go = are_to_go and done[day][1]
        if time.monotonic() > enough_at:
            return


async def _past(resources: Resources, day: str, keeping: Keeping, now: datetime) -> Past:
    """Return what of a day is past its time; nothing of one that has gone, or was written under a wrong clock."""
    async with resources.database.driver_connection() as connection:
        try:
            if await partitions.holds_what_came_late(connection, day, until=now):
                return SOME
            return await expiry.past(connection, day, keeping, now)
        except asyncpg.UndefinedTableError:
            return NOTHING


async def _expire_day(resources: Resources, day: str, past: Past, keeping: Keeping, enough_at: float) -> bool:
    """Leave stubs of what is past its time; returns whether that was all of it."""
    position: int | None = 0
    expired = 0
    while position is not None and time.monotonic() < enough_at:
        started = time.monotonic()
        position, some = await _expire_some(resources, day, past, keeping, position)
        expired += some
        await asyncio.sleep(time.monotonic() - started)
    if expired:
        async with resources.database.driver_connection() as connection:
            await connection.execute(f'VACUUM "{day}"')
        logger.info("events expired", day=day, events=expired)
    return position is None


async def _expire_some(
    resources: Resources, day: str, past: Past, keeping: Keeping, position: int
) -> tuple[int | None, int]:
    """Leave stubs of the next events; returns where to go on, and how many they were; None at the end of the day."""
    condition, values = past.condition(first=3)
    async with resources.database.driver_connection() as connection, connection.transaction():
        rows = await connection.fetch(NEXT.format(day=day, condition=condition), position, BATCH, *values)
        if not rows:
            return None, 0
        await connection.execute(stubs.LOCK)
        if await expiry.keeping_of(resources, connection) != keeping:
            raise KeepingChanged
        positions = [row["position"] for row in rows]
        await stubs.free(connection, positions)
        expired = await stubs.erase(connection, positions, [row["received_at"] for row in rows])
    return positions[-1], len(expired)
