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
from aircall_oauth.events import positions
from aircall_oauth.events.positions import CHANNEL
from aircall_oauth.storage.away import AWAY, reason
from aircall_oauth.storage.commits import Commits, Committed
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.turns import POOL_TIMEOUT_SECONDS
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# Each announcement makes every process read, so there are pauses between them: longer ones after so many events.
PAUSE_SECONDS = 0.004
BUSY_EVENTS = 16
BUSY_PAUSE_SECONDS = 0.02
POLL_SECONDS = 1.0
RECONNECT_SECONDS = 0.5
# What takes longer is a server that hangs: readers are better told by another one.
ANSWER_SECONDS = 5.0
# Of the readers that wait; fewer than a pool has connections, so that hundreds which wake leave some to other requests.
READ_AT_ONCE = 3
TURN_SECONDS = POOL_TIMEOUT_SECONDS


class Notifier:
    """Tells when the log grew, in this process or any other; and for good when the process is about to stop."""

    def __init__(self) -> None:
        self._growth = asyncio.Event()
        self._turns = asyncio.Semaphore(READ_AT_ONCE)
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

    @asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[None]:
        """Wait for a turn to read, for so many seconds at most; raises `DatabaseAway` if it does not come by then.

        To be taken by a reader that waits: it has time, and does not hold up requests that have not.
        """
        try:
            async with asyncio.timeout(max(seconds, TURN_SECONDS)):
                await self._turns.acquire()
        except TimeoutError:
            raise DatabaseAway from None
        try:
            yield
        finally:
            self._turns.release()

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
    database: Database,
    *,
    announces: Commits | None = None,
    told_by: Commits | None = None,
    take: Callable[[Committed], bool] | None = None,
    also: Mapping[str, Callable[..., None]] = MappingProxyType({}),
) -> AsyncIterator[Notifier]:
    """Open a notifier that listens to all processes.

    It announces the commits of `announces` to them. `told_by` are commits of this very process that it is told of at
    once; where `take` accepts the events themselves, nobody is woken to read them. `also` has further channels to
    listen on, each with the function that is called with what comes in there.
    """
    notifier, announced, told = Notifier(), announces or Commits(), told_by or Commits()

    def receive(_connection: Any, announcer: int, *_told: Any) -> None:
        if announcer != told.announced_by:
            notifier.notify()

    def hear(committed: Committed | None) -> None:
        if committed is None or take is None or not take(committed):
            notifier.notify()

    task = asyncio.create_task(_listen(database, notifier, announced, {CHANNEL: receive, **also}))
    try:
        with told.told_to(hear):
            yield notifier
    finally:
        notifier.stop()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _listen(
    database: Database, notifier: Notifier, commits: Commits, channels: Mapping[str, Callable[..., None]]
) -> None:
    while True:
        try:
            generation, connection = database.generation, await database.connect()
            commits.announced_by = connection.get_server_pid()
            try:
                for channel, receive in channels.items():
                    await connection.add_listener(channel, receive)
                await _notify_and_poll(connection, notifier, commits)
            except AWAY as error:
                database.broke(error, generation)
                raise
            finally:
                connection.terminate()
        except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
            logger.info("waiting readers only poll", reason=reason(error))
            notifier.notify()
            await asyncio.sleep(RECONNECT_SECONDS)


async def _notify_and_poll(connection: asyncpg.Connection, notifier: Notifier, commits: Commits) -> None:
    """Notify the other processes of what was committed in this one, with a pause after each; poll the log meanwhile."""
    newest = -1
    while True:
        if events := await commits.next(POLL_SECONDS):
            await connection.execute(f"NOTIFY {CHANNEL}", timeout=ANSWER_SECONDS)
            await asyncio.sleep(BUSY_PAUSE_SECONDS if events >= BUSY_EVENTS else PAUSE_SECONDS)
        else:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await positions.newest_position(connection)
            if found != newest:
                notifier.notify()
            newest = found
