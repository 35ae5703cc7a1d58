"""Wakes whoever waits for the log to grow: one listening connection per process, however many wait.

Notifications make it quick, polling makes it certain. A reader takes `next_ring` before it looks, so that nothing which
comes in between goes unnoticed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import asyncpg

from aircall_oauth.errors import DatabaseAway
from aircall_oauth.events import store
from aircall_oauth.events.store import CHANNEL
from aircall_oauth.storage.database import AWAY, Database, reason
from aircall_oauth.telemetry import log

logger = log.get(__name__)

COALESCE_SECONDS = 0.02
POLL_SECONDS = 1.0
RECONNECT_SECONDS = 0.5


class Bell:
    """Rings when the log grew, in this process or any other; and for good when the process is about to stop."""

    def __init__(self) -> None:
        self._ring = asyncio.Event()
        self.stopped = False

    def next_ring(self) -> asyncio.Event:
        """Set at the next ring."""
        return self._ring

    def ring(self, *_notification: Any) -> None:
        rung = self._ring
        if not self.stopped:
            self._ring = asyncio.Event()
        rung.set()

    def stop(self) -> None:
        """Send everybody who waits home: the process is about to stop."""
        self.stopped = True
        self._ring.set()


async def wait_for(ring: asyncio.Event, seconds: float) -> bool:
    """Whether it rang in time."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await ring.wait()
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def hang_bell(
    database: Database, committed: asyncio.Event, also: Mapping[str, Callable[..., None]] = MappingProxyType({})
) -> AsyncIterator[Bell]:
    """A bell that hears all processes, and tells them what this one committed.

    `also`: further channels, and whom to tell of what comes in there.
    """
    bell = Bell()
    task = asyncio.create_task(_listen(database, bell, committed, {CHANNEL: bell.ring, **also}))
    try:
        yield bell
    finally:
        bell.stop()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _listen(
    database: Database, bell: Bell, committed: asyncio.Event, channels: Mapping[str, Callable[..., None]]
) -> None:
    while True:
        try:
            connection = await database.connect()
            try:
                for channel, tell in channels.items():
                    await connection.add_listener(channel, tell)
                await _announce_and_poll(connection, bell, committed)
            finally:
                connection.terminate()
        except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
            logger.info("waiting readers only poll", reason=reason(error))
            bell.ring()
            await asyncio.sleep(RECONNECT_SECONDS)


async def _announce_and_poll(connection: asyncpg.Connection, bell: Bell, committed: asyncio.Event) -> None:
    """Tell what was committed here, at most every 20 ms; look by ourselves where nothing was told."""
    newest = -1
    while True:
        if await wait_for(committed, POLL_SECONDS):
            committed.clear()
            await connection.execute(f"NOTIFY {CHANNEL}")
            await asyncio.sleep(COALESCE_SECONDS)
        else:
            found = await store.newest_position(connection)
            if found != newest:
                bell.ring()
            newest = found
