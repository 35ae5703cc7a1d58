"""Count what strangers do at the install flow, in memory, and write the counts down from time to time: a row per hour.

Anyone can open the install endpoint and come back with an error. So openings without a link write nothing, and only a
bounded number of failed flows without a link gets a row of its own; the others are counted by their ending.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from aircall_oauth.errors import AppError
from aircall_oauth.installations.attempts import recording
from aircall_oauth.installations.attempts.recording import Attempt
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import reason
from aircall_oauth.storage.stamps import now
from aircall_oauth.telemetry import log

logger = log.get(__name__)

FLUSH_SECONDS = 15.0
OPENED = "opened"
WRITE = """
    INSERT INTO install_tally (hour, what, count) SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::bigint[])
    ON CONFLICT (hour, what) DO UPDATE SET count = install_tally.count + excluded.count
"""


class Tally:
    """What this process has counted and not written yet, and how many rows it may still ask for in this hour."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._counts: Counter[tuple[datetime, str]] = Counter()
        self._hour = _hour()
        self._asked = 0

    def count(self, what: str) -> None:
        """Count an opening, or an ending that has no row of its own."""
        self._counts[_hour(), what] += 1

    async def fail(self, attempt: Attempt | None, ending: str, shown: str) -> bool:
        """Record a bad ending in the attempt's row, or count it. Returns whether there is a row."""
        if attempt is None or not self._may_ask(attempt):
            self.count(ending)
            return False
        is_kept = await recording.fail(self._resources, attempt, ending, shown)
        is_kept = is_kept or await recording.fail_first(self._resources, attempt, ending, shown)
        if not is_kept:
            self.count(ending)
        return is_kept

    async def write(self) -> None:
        """Add the counts to their hours' rows, in one statement. Where that fails, they are kept for the next time."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        hours, whats = zip(*counts, strict=True)
        try:
            async with self._resources.database.driver_connection() as connection:
                await connection.execute(WRITE, hours, whats, list(counts.values()))
        except BaseException:
            self._counts += counts
            raise

    def _may_ask(self, attempt: Attempt) -> bool:
        """Return whether the database is asked at all: a flood of failures without a link is not its business."""
        if attempt.link_id is not None:
            return True
        if self._hour != _hour():
            self._hour, self._asked = _hour(), 0
        self._asked += 1
        return self._asked <= recording.FAILURES_PER_HOUR


@asynccontextmanager
async def open_tally(resources: Resources) -> AsyncIterator[Tally]:
    """Open the tally of a process; what it has counted is written every few seconds, and at the end."""
    tally = Tally(resources)
    writing = asyncio.create_task(_write_on(tally))
    try:
        yield tally
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await _write(tally)


async def _write_on(tally: Tally) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await _write(tally)


async def _write(tally: Tally) -> None:
    try:
        await tally.write()
    except AppError as error:
        logger.warning("install tally put off", reason=reason(error))
    except Exception:
        logger.exception("install tally not written")


def _hour() -> datetime:
    return now().replace(minute=0, second=0, microsecond=0)
