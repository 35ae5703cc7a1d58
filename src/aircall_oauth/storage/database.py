"""Connections and sessions of PostgreSQL, and its errors turned into ours."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from weakref import WeakSet

import asyncpg
import stamina
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.errors import DIRECT_URL, AppError, DatabaseAway, DirectElsewhere, PoolerRefused
from aircall_oauth.storage import arrays
from aircall_oauth.storage.faults import explain, mark_as_of_direct_url, root
from aircall_oauth.storage.hosts import Route
from aircall_oauth.storage.idle import IDLE_SECONDS, Sweeper
from aircall_oauth.storage.lent import LENT, LENT_BELOW
from aircall_oauth.storage.poolers import Sessions, sessions_behind

COMMAND_TIMEOUT_SECONDS = 10.0
POOL_SIZE = 5
DRIVER_POOL_SIZE = 5
POOL_TIMEOUT_SECONDS = 3.0

# For a statement: makes its commit wait for the durability that the database is configured for, and at least for the
# disk, even if the statement changes nothing. Without the message, a transaction that wrote nothing would wait neither
# for the disk nor for a standby, whatever it read. Set per transaction, so that a setting that is raised during the
# session counts too.
DURABLY = """
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true),
    pg_logical_emit_message(true, 'aircall-oauth', '')
"""
# For a session: its commits wait for the disk, even if a reload of the server's configuration switches that off.
NEVER_OFF = """
    SELECT set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)
"""
# A connection that was idle for longer may have been forgotten by a firewall in between, without a word.
SURE_SECONDS = 30.0
USED_AT = "used_at"
CLOSE_SECONDS = 3.0
END_SECONDS = 1.0
# The same for two connections to one database.
IDENTITY = """
    SELECT pg_postmaster_start_time(), (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# PostgreSQL rolled the transaction back because of another one: the same again may succeed.
UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# Connection failures, and a server that is starting, stopping or full: nothing is wrong with the statement.
AWAY = (
    OSError,
    TimeoutError,
    PoolTimeout,
    asyncpg.InterfaceError,
    # A connection that broke in the middle of an answer.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # SQLSTATE 57…: starting, stopping, cancelled
    asyncpg.InsufficientResourcesError,  # 53…: a full disk, no memory, too many connections
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    *UNDONE,
    # A migration ran while this process was up; the driver prepares the statement again next time.
    asyncpg.InvalidCachedStatementError,
)
# Those of them that say nothing about the connection.
OF_THE_STATEMENT = (*UNDONE, asyncpg.LockNotAvailableError)


class Database:
    """The connections of one process: a pool for sessions, and one of asyncpg's own for frequent statements.

    With a `direct` route the pools may go through a pooler in transaction mode; connections outside them go directly.
    """

    def __init__(
        self,
        url: str | Route,
        *,
        direct: Route | None = None,
        command_timeout_seconds: float | None = COMMAND_TIMEOUT_SECONDS,
    ) -> None:
        self._pooled = Route(url) if isinstance(url, str) else url
        self._direct = direct
        self._command_timeout_seconds = command_timeout_seconds
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": self._connect_durably, **(LENT_BELOW if direct else {})},
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            # Those of a burst stay unused then, and are closed.
            pool_use_lifo=True,
            hide_parameters=True,
        )
        event.listen(self.engine.sync_engine, "checkout", _require_open)
        event.listen(self.engine.sync_engine, "handle_error", _give_up_the_pool)
        event.listen(self.engine.sync_engine, "checkin", _keep_what_can_write)
        event.listen(self.engine.sync_engine, "checkin", _note_use)
        event.listen(self.engine.sync_engine, "connect", self._note_connection)
        self._pool_entries: WeakSet[ConnectionPoolEntry] = WeakSet()
        self._sweeper = Sweeper(self._close_idle)
        self._session_turns, self._driver_turns = asyncio.Semaphore(POOL_SIZE), asyncio.Semaphore(DRIVER_POOL_SIZE)
        self._driver_pool: asyncpg.Pool | None = None
        self._driver_generation = 0
        # How many times a connection was found broken that was opened after the one before was.
        self.generation = 0

    def broke(self, error: BaseException | None, generation: int) -> None:
        """Take note that a connection broke, which was opened in a generation: all others of its time are in doubt.

        So their keepers open new ones, and do not wait until each has failed as well, as with a server that hangs.
        """
        if generation == self.generation and not isinstance(root(error), OF_THE_STATEMENT):
            self.generation += 1
            for entry in self._pool_entries:
                entry.invalidate(soft=True)

    @property
    def epoch(self) -> str:
        """The log's epoch when the last connection outside the pools was opened; empty before the first."""
        return (self._direct or self._pooled).epoch

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """Open a connection of asyncpg's own, outside the pools; raises `DatabaseAway` for any failure."""
        return await self._open(self._direct or self._pooled, **options)

    async def _open(self, route: Route, **options: Any) -> asyncpg.Connection:
        try:
            return await route.connect(command_timeout=self._command_timeout_seconds, **options)
        except (*AWAY, asyncpg.PostgresError, ValueError, OverflowError) as error:
            if route.setting == DIRECT_URL:
                mark_as_of_direct_url(error)
            raise _away() from error

    async def require_own_sessions(self) -> None:
        """Check that a session lasts as long as its connection; raises `PoolerRefused` or `DatabaseAway`.

        With a direct route, that one must have such sessions, and lead to the same database: raises `DirectElsewhere`.
        """
        if self._direct is None:
            if await self._sessions_of(self._pooled) is Sessions.LENT:
                raise PoolerRefused(self._pooled.setting)
        else:
            if await self._sessions_of(self._direct) is Sessions.LENT:
                raise PoolerRefused(DIRECT_URL)
            if await self._identity_of(self._direct) != await self._identity_of(self._pooled):
                raise DirectElsewhere

    async def pooled_sessions(self) -> Sessions:
        """Tell what the pools have behind them; raises `DatabaseAway`."""
        return await self._sessions_of(self._pooled)

    async def _sessions_of(self, route: Route) -> Sessions:
        with database_errors():
            return await sessions_behind(lambda: self._unprepared(route))

    async def _identity_of(self, route: Route) -> tuple[Any, ...]:
        with database_errors():
            async with self._unprepared(route) as connection:
                return tuple(await connection.fetchrow(IDENTITY))

    @asynccontextmanager
    async def _unprepared(self, route: Route) -> AsyncIterator[asyncpg.Connection]:
        """Open a connection that leaves no prepared statement in a session."""
        connection = await self._open(route, statement_cache_size=0)
        try:
            yield connection
        finally:
            connection.terminate()

    async def _connect_durably(self) -> asyncpg.Connection:
        connection = await self._open(self._pooled, **(LENT if self._direct else {}))
        try:
            await connection.execute(NEVER_OFF)
        except (*AWAY, asyncpg.PostgresError) as error:
            connection.terminate()
            raise _away() from error
        except BaseException:
            # Cancelled: nothing else has it yet, so nothing else would close it.
            connection.terminate()
            raise
        return connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Begin a transaction: committed at the end, rolled back on any error; raises `DatabaseAway`."""
        with database_errors():
            async with (
                _turn(self._session_turns),
                AsyncSession(self.engine, expire_on_commit=False) as session,
                session.begin(),
            ):
                yield session

    def _note_connection(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        # Once more: asyncpg forgets them when SQLAlchemy sets how JSON is read.
        arrays.register(connection.driver_connection)
        self._pool_entries.add(entry)
        self._sweeper.begin()

    def _close_idle(self, used_before: float) -> bool:
        """Close the connections of the sessions' pool that were not used since then; the driver's pool does so itself.

        Returns whether any are left.
        """
        is_one_left = False
        for entry in self._pool_entries:
            if not entry.in_use and entry.info.get(USED_AT, used_before) < used_before:
                entry.invalidate()
            is_one_left = is_one_left or entry.dbapi_connection is not None
        return is_one_left

    @asynccontextmanager
    async def driver_connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a pooled connection of asyncpg's own, where each statement is its own transaction: for the hot path.

        The pool sends the server nothing before and after. Raises `DatabaseAway`.
        """
        with database_errors():
            if self._driver_pool is None:
                self._driver_pool = asyncpg.create_pool(
                    connect=lambda *_, **__: self._connect_durably(),
                    min_size=0,
                    max_size=DRIVER_POOL_SIZE,
                    max_inactive_connection_lifetime=IDLE_SECONDS,
                    reset=_leave_as_it_is,
                )
            pool = await self._driver_pool
            if self._driver_generation != self.generation:
                self._driver_generation = self.generation
                await pool.expire_connections()
            async with _turn(self._driver_turns) as seconds_left, _lent_by(pool, seconds_left) as connection:
                try:
                    yield connection
                except OF_THE_STATEMENT:
                    raise
                except AWAY:
                    # What is wrong with this connection is wrong with all that were opened before it.
                    await pool.expire_connections()
                    # Not left to the pool, whose task would fail with nothing to catch it where the server hangs.
                    with suppress(*AWAY):
                        await connection.close(timeout=END_SECONDS)
                    raise
                finally:
                    if not connection.is_closed() and _only_reads(connection):
                        connection.terminate()

    async def schema_version(self) -> str | None:
        """Return the revision of the database's schema; None if nothing was migrated yet."""
        # Not in a session: a probe would wait behind all requests that wait for one.
        async with self.driver_connection() as connection:
            known = await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
            version: str | None = known and await connection.fetchval("SELECT version_num FROM alembic_version")
            return version or None

    async def close(self) -> None:
        """Close the connections; those with a silent server are dropped."""
        self._sweeper.end()
        with suppress(*AWAY):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.engine.dispose()
        if self._driver_pool is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._driver_pool.close()
            except AWAY:
                self._driver_pool.terminate()


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[float]:
    """Wait for one of a pool's connections behind all that asked before; raises `TimeoutError`.

    Yields the seconds that are left to open it, where it is not open.

    The pools' own queues let a newcomer go first that asks in the moment when a connection is given back. So under load
    some would wait for as long as there are others.
    """
    answer_by = time.monotonic() + POOL_TIMEOUT_SECONDS
    async with asyncio.timeout(POOL_TIMEOUT_SECONDS):
        await turns.acquire()
    try:
        yield answer_by - time.monotonic()
    finally:
        turns.release()


@asynccontextmanager
async def _lent_by(pool: asyncpg.Pool, seconds: float) -> AsyncIterator[asyncpg.Connection]:
    connection = await pool.acquire(timeout=seconds)
    try:
        yield connection
    finally:
        # A limit of its own: else the pool's is what acquiring had left, and what was committed would end as away.
        await pool.release(connection, timeout=POOL_TIMEOUT_SECONDS)


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """Reset nothing: settings are changed for a transaction only, never for a pooled connection's session."""


def _only_reads(connection: asyncpg.Connection) -> bool:
    """Whether PostgreSQL reported that the session cannot write: the database is read-only, or a standby."""
    settings = connection.get_settings()
    return "on" in {getattr(settings, name, None) for name in ("default_transaction_read_only", "in_hot_standby")}


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[USED_AT] = time.monotonic()


def _keep_what_can_write(connection: Any, record: ConnectionPoolEntry) -> None:
    if connection is not None and _only_reads(connection.driver_connection):
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


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the driver's errors that may pass into `DatabaseAway`; let all others through.

    In a task that was cancelled they are what its rollback met on the way out, and the cancellation goes on.
    """
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(root(error), AWAY):
            raise _away() from error
        raise
    except AWAY as error:
        raise _away() from error


def _away() -> DatabaseAway | asyncio.CancelledError:
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() else DatabaseAway()


def was_undone(error: Exception) -> bool:
    """Whether PostgreSQL rolled a transaction back because of another one."""
    return isinstance(error, DatabaseAway) and error.__cause__ is not None and isinstance(root(error.__cause__), UNDONE)


# For a function that is one transaction and has no other effect.
again_if_undone = stamina.retry(on=was_undone, attempts=3, wait_initial=0.05, wait_max=0.5, wait_jitter=0.1)


def reason(error: Exception) -> str:
    """Return what PostgreSQL or the network said, for the log and the operator.

    Not for an HTTP answer: it may name the database and its user.
    """
    cause = error.__cause__ if isinstance(error, DatabaseAway) else None
    if isinstance(error, AppError) and cause is None:
        return error.detail
    return str(explain(cause or error))
