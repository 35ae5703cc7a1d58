"""Wakes the readers that wait for the log to grow: one listening connection per process, however many of them wait.

Notifications make it quick, polling makes it certain. A reader takes `next_growth` before it reads the log, so that
nothing which comes in between goes unnoticed.
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


class Notifier:
    """Tells when the log grew, in this process or any other; and for good when the process is about to stop."""

    def __init__(self) -> None:
        self._growth = asyncio.Event()
        self.stopped = False

    def next_growth(self) -> asyncio.Event:
        """Return an event that is set when the log grows next."""
        return self._growth

    def notify(self, *_notification: Any) -> None:
        """Wake every reader that waits: the log may have grown."""
        growth = self._growth
        if not self.stopped:
            self._growth = asyncio.Event()
        growth.set()

    def stop(self) -> None:
        """Wake every reader that waits, now and later: the process is about to stop."""
        self.stopped = True
        self._growth.set()


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, for so many seconds at most. Returns whether it was."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def open_notifier(
    database: Database, committed: asyncio.Event, also: Mapping[str, Callable[..., None]] = MappingProxyType({})
) -> AsyncIterator[Notifier]:
    """Open a notifier that listens to all processes, and notifies them when `committed` is set in this one.

    `also` has further channels to listen on, each with the function that is called with what comes in there.
    """
    notifier = Notifier()
    listening = _listen(database, notifier, committed, {CHANNEL: notifier.notify, **also})
    task = asyncio.create_task(listening)
    try:
        yield notifier
    finally:
        notifier.stop()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _listen(
    database: Database, notifier: Notifier, committed: asyncio.Event, channels: Mapping[str, Callable[..., None]]
) -> None:
    while True:
        try:
            connection = await database.connect()
            try:
                for channel, receive in channels.items():
                    await connection.add_listener(channel, receive)
                await _notify_and_poll(connection, notifier, committed)
            finally:
                connection.terminate()
        except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
            logger.info("waiting readers only poll", reason=reason(error))
            notifier.notify()
            await asyncio.sleep(RECONNECT_SECONDS)


async def _notify_and_poll(connection: asyncpg.Connection, notifier: Notifier, committed: asyncio.Event) -> None:
    """Notify the other processes of what was committed in this one, every 20 ms at most; poll the log meanwhile."""
    newest = -1
    while True:
        if await wait_for(committed, POLL_SECONDS):
            committed.clear()
            await connection.execute(f"NOTIFY {CHANNEL}")
            await asyncio.sleep(COALESCE_SECONDS)
        else:
            found = await store.newest_position(connection)
            if found != newest:
                notifier.notify()
            newest = found
