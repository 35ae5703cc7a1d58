"""Connections to PostgreSQL: asyncpg's own, from a pool or opened for one user, and SQLAlchemy's sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from aircall_oauth.errors import DIRECT_URL, DirectElsewhere, PoolerRefused
from aircall_oauth.storage.away import AWAY, OF_THE_STATEMENT, database_errors, error_to_raise
from aircall_oauth.storage.durability import NEVER_OFF
from aircall_oauth.storage.faults import mark_as_of_direct_url, root
from aircall_oauth.storage.hosts import Route, only_reads
from aircall_oauth.storage.idle import IDLE_SECONDS
from aircall_oauth.storage.lent import LENT
from aircall_oauth.storage.poolers import Sessions, sessions_behind
from aircall_oauth.storage.turns import POOL_TIMEOUT_SECONDS, turn

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from aircall_oauth.storage.sessions import SessionPool

COMMAND_TIMEOUT_SECONDS = 10.0
DRIVER_POOL_SIZE = 5
CLOSE_SECONDS = 3.0
END_SECONDS = 1.0
# Equal for two connections to the same database.
IDENTITY = """
    SELECT pg_postmaster_start_time(), (SELECT oid FROM pg_database WHERE datname = current_database())
"""


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
        self._session_pool: SessionPool | None = None
        self._driver_turns = asyncio.Semaphore(DRIVER_POOL_SIZE)
        self._driver_pool: asyncpg.Pool | None = None
        self._driver_generation = 0
        # Grows by one when a connection of the present generation breaks.
        self.generation = 0

    def broke(self, error: BaseException | None, generation: int) -> None:
        """Take note that a connection broke, which was opened in a generation: all others of its time are in doubt.

        So their keepers open new ones, and do not wait until each has failed as well, as with a server that hangs.
        """
        if generation == self.generation and not isinstance(root(error), OF_THE_STATEMENT):
            self.generation += 1
            if self._session_pool is not None:
                self._session_pool.doubt()

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
            raise error_to_raise() from error

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
            raise error_to_raise() from error
        except BaseException:
            # Cancelled: nothing else has it yet, so nothing else would close it.
            connection.terminate()
            raise
        return connection

    @property
    def sessions(self) -> "SessionPool":
        """The pool for sessions, made when it is first asked for."""
        if self._session_pool is None:
            from aircall_oauth.storage.sessions import SessionPool

            self._session_pool = SessionPool(self._connect_durably, is_lent=self._direct is not None)
        return self._session_pool

    def session(self) -> AbstractAsyncContextManager["AsyncSession"]:
        """Begin a transaction: committed at the end, rolled back on any error; raises `DatabaseAway`."""
        return self.sessions.begin()

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
            async with turn(self._driver_turns) as seconds_left, _lent_by(pool, seconds_left) as connection:
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
                    if not connection.is_closed() and only_reads(connection):
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
        if self._session_pool is not None:
            with suppress(*AWAY):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._session_pool.close()
        if self._driver_pool is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._driver_pool.close()
            except AWAY:
                self._driver_pool.terminate()


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
