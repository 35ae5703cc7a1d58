"""Sessions of SQLAlchemy, each a transaction, and the pool of their connections.

`Database` imports it when a first session is opened: much is done without, and SQLAlchemy takes long to import.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from weakref import WeakSet

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.storage import arrays
from aircall_oauth.storage.away import AWAY, OF_THE_STATEMENT, database_errors, error_to_raise
from aircall_oauth.storage.durability import DURABLY
from aircall_oauth.storage.faults import root
from aircall_oauth.storage.hosts import only_reads
from aircall_oauth.storage.idle import Sweeper
from aircall_oauth.storage.lent import LENT_BELOW
from aircall_oauth.storage.turns import POOL_TIMEOUT_SECONDS, turn

POOL_SIZE = 5
# A connection that was idle for longer may have been forgotten by a firewall in between, without a word.
SURE_SECONDS = 30.0
USED_AT = "used_at"


class SessionPool:
    """Lends sessions over at most `POOL_SIZE` connections, which `connect` opens.

    Where the sessions of PostgreSQL are lent for a transaction each (`is_lent`), nothing is left in one.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], *, is_lent: bool) -> None:
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": connect, **(LENT_BELOW if is_lent else {})},
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            # Those of a burst stay unused then, and are closed.
            pool_use_lifo=True,
            hide_parameters=True,
        )
        event.listen(self.engine.sync_engine, "checkout", _require_open)
        event.listen(self.engine.sync_engine, "handle_error", _give_up_the_pool)
        event.listen(self.engine.sync_engine, "checkin", _drop_if_read_only)
        event.listen(self.engine.sync_engine, "checkin", _note_use)
        event.listen(self.engine.sync_engine, "connect", self._note_connection)
        self._entries: WeakSet[ConnectionPoolEntry] = WeakSet()
        self._sweeper = Sweeper(self._close_idle)
        self._turns = asyncio.Semaphore(POOL_SIZE)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """Begin a transaction: committed at the end, rolled back on any error; raises `DatabaseAway`."""
        with session_errors():
            async with (
                turn(self._turns),
                AsyncSession(self.engine, expire_on_commit=False) as session,
                session.begin(),
            ):
                yield session

    def doubt(self) -> None:
        """Have each connection that is open by now replaced before it is used again."""
        for entry in self._entries:
            entry.invalidate(soft=True)

    async def close(self) -> None:
        """Close the connections."""
        self._sweeper.end()
        await self.engine.dispose()

    def _note_connection(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        # Once more: asyncpg forgets them when SQLAlchemy sets how JSON is read.
        arrays.register(connection.driver_connection)
        self._entries.add(entry)
        self._sweeper.begin()

    def _close_idle(self, used_before: float) -> bool:
        """Close the connections that were not used since then.

        Returns whether any are left.
        """
        is_one_left = False
        for entry in self._entries:
            if not entry.in_use and entry.info.get(USED_AT, used_before) < used_before:
                entry.invalidate()
            is_one_left = is_one_left or entry.dbapi_connection is not None
        return is_one_left


@contextmanager
def session_errors() -> Iterator[None]:
    """Turn what SQLAlchemy raises for an error that may pass into `DatabaseAway`, as `database_errors` does."""
    try:
        with database_errors():
            yield
    except PoolTimeout as error:
        raise error_to_raise() from error
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(root(error), AWAY):
            raise error_to_raise() from error
        raise


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[USED_AT] = time.monotonic()


def _drop_if_read_only(connection: Any, record: ConnectionPoolEntry) -> None:
    if connection is not None and only_reads(connection.driver_connection):
        record.invalidate(soft=True)


def _require_open(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Have SQLAlchemy open a new connection for one that ended, and for all that were opened before it.

    One that was used lately is not asked whether it works, as SQLAlchemy's own check does in three statements: where
    the server ended it, that is known without asking.
    """
    idle = time.monotonic() - record.info.get(USED_AT, time.monotonic())
    if connection.driver_connection.is_closed() or (idle > SURE_SECONDS and not _answers(connection)):
        raise InvalidatePoolError


def _answers(connection: Any) -> bool:
    try:
        connection.ping()
    except (connection.dbapi.Error, *AWAY):
        return False
    return True


def _give_up_the_pool(context: ExceptionContext) -> None:
    """Have SQLAlchemy drop a connection that failed, and all that were opened before it."""
    errors = (context.original_exception, context.original_exception.__cause__)
    if any(isinstance(error, AWAY) and not isinstance(error, OF_THE_STATEMENT) for error in errors):
        context.is_disconnect = True


async def commit_durably(session: AsyncSession) -> None:
    """Make this commit wait for the disk and the standby, even if its transaction only read.

    For an answer that says "done" because it was done before: the commit that did it may have been cancelled while it
    waited.
    """
    await session.exec(text(f"SELECT {DURABLY}"))  # type: ignore[call-overload]
