"""Counts the events that our receiver answered with an error of its own, and leaves a note when such a burst is over.

After a series of failures Aircall switches a webhook off without saying so. Which webhooks failed is not known, since
the failed requests may not even have been read. So the worker then checks all of them
(`installations.upkeep.after_troubles`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from aircall_oauth.errors import AppError
from aircall_oauth.storage.away import reason
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# Aircall switches a webhook off after ten failures in a row or more; there may be several of these processes.
A_BURST = 5
OVER_AFTER = timedelta(seconds=5)
# A burst that does not end is noted after this long.
LONGEST = timedelta(minutes=5)
WATCH_SECONDS = 1.0
NOTE = "INSERT INTO trouble (id, began_at, ended_at, failures) VALUES ($1, $2, $3, $4)"


class Troubles:
    """The failures that one process counted since it last noted some."""

    def __init__(self) -> None:
        self.failures = 0
        self._began_at: datetime | None = None
        self._last_at: datetime | None = None

    def note(self, status: int) -> None:
        """Count an event that was answered with this status."""
        if status >= 500:
            self.failures += 1
            self._last_at = now()
            self._began_at = self._began_at or self._last_at

    async def leave_note(self, database: Database) -> None:
        """Leave a note for the worker if a burst of failures is over."""
        if self._began_at is None or self._last_at is None or not self._is_over():
            return
        failures = self.failures
        if failures >= A_BURST:
            # A transaction of its own: through a pooler that is what its durability is set for.
            async with database.driver_connection() as connection, connection.transaction():
                await connection.execute(NOTE, new_id("trb"), self._began_at, self._last_at, failures)
            logger.warning("events were answered with errors", failures=failures)
        self.failures -= failures
        self._began_at = self._last_at if self.failures else None

    def _is_over(self) -> bool:
        assert self._began_at is not None
        assert self._last_at is not None
        return self._last_at < now() - OVER_AFTER or self._began_at < now() - LONGEST


@asynccontextmanager
async def watch_troubles(database: Database) -> AsyncIterator[Troubles]:
    """Count failures while the block lasts, and leave notes of the bursts."""
    troubles = Troubles()
    watch = asyncio.create_task(_watch(troubles, database))
    try:
        yield troubles
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _watch(troubles: Troubles, database: Database) -> None:
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            await troubles.leave_note(database)
        except AppError as error:
            # The database is still away, so the burst is not over.
            logger.debug("troubles not told yet", reason=reason(error))
