"""PostgreSQL: connections, sessions, the schema's version, and its errors turned into ours."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import alembic.command
import alembic.config
import asyncpg
import stamina
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth import database_url
from aircall_oauth.database_faults import explain, root
from aircall_oauth.database_fitness import require_fit
from aircall_oauth.errors import AppError, DatabaseAway

CONNECT_TIMEOUT_SECONDS = 3.0
COMMAND_TIMEOUT_SECONDS = 10.0
POOL_SIZE = 5
DRIVER_POOL_SIZE = 5
POOL_TIMEOUT_SECONDS = 3.0
LOCK_WAIT = timedelta(minutes=2)

# In a statement: its commit waits for the durability that the database is configured for, and at least for its own
# disk, even where the statement changes nothing: a transaction that wrote nothing waits neither for the disk nor for a
# standby, whatever it read. Per transaction, so that a setting that is raised while the session lasts holds too.
DURABLY = """
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true),
    pg_logical_emit_message(true, 'aircall-oauth', '')
"""
# Of a session: no reload of the server's configuration takes the wait for the disk away from what is committed in it.
NEVER_OFF = """
    SELECT set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)
"""
# PostgreSQL undid the transaction for the sake of another one: the same again may well do.
UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# Connection failures, and a server that is starting, stopping or full: nothing is wrong with the statement.
AWAY = (
    OSError,
    TimeoutError,
    PoolTimeout,
    asyncpg.InterfaceError,
    # What the driver says of a connection that broke in the middle of an answer.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # SQLSTATE 57…: starting, stopping, cancelled
    asyncpg.InsufficientResourcesError,  # 53…: a full disk, no memory, too many connections
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    *UNDONE,
    # A migration ran while this process was up; the driver prepares the statement anew next time.
    asyncpg.InvalidCachedStatementError,
)


class Database:
    """The connections of one process: a pool for sessions, and one of the driver's own for what is asked often."""

    def __init__(self, url: str, *, command_timeout_seconds: float | None = COMMAND_TIMEOUT_SECONDS) -> None:
        self._address = database_url.read(url)
        self._command_timeout_seconds = command_timeout_seconds
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect_durably,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        self._driver_pool: asyncpg.Pool | None = None

    async def connect(self) -> asyncpg.Connection:
        """A connection of asyncpg's own, outside the pool; `DatabaseAway` for whatever reason there is none."""
        address = self._address
        try:
            address.require_files()
            connection = await asyncpg.connect(
                address.dsn,
                ssl=address.tls and address.tls(),
                timeout=address.connect_timeout_seconds or CONNECT_TIMEOUT_SECONDS,
                command_timeout=self._command_timeout_seconds,
            )
            # asyncpg has no public way to its socket.
            address.tune(connection._transport.get_extra_info("socket").fileno())
            return connection
        except (*AWAY, asyncpg.PostgresError, ValueError, OverflowError) as error:
            raise DatabaseAway from error

    async def _connect_durably(self) -> asyncpg.Connection:
        connection = await self.connect()
        try:
            await connection.execute(NEVER_OFF)
        except (*AWAY, asyncpg.PostgresError) as error:
            connection.terminate()
            raise DatabaseAway from error
        return connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed at the end, rolled back on any error; `DatabaseAway` where it can't be had."""
        with database_errors():
            async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                yield session

    @asynccontextmanager
    async def driver_connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A pooled connection of asyncpg's own, each statement its own transaction: for the hot path.

        Nothing is asked of the server before or after it is lent. `DatabaseAway` where there is none.
        """
        with database_errors():
            if self._driver_pool is None:
                self._driver_pool = asyncpg.create_pool(
                    connect=lambda *_, **__: self._connect_durably(),
                    min_size=0,
                    max_size=DRIVER_POOL_SIZE,
                    reset=_leave_as_it_is,
                )
            pool = await self._driver_pool
            async with pool.acquire(timeout=POOL_TIMEOUT_SECONDS) as connection:
                yield connection

    async def schema_version(self) -> str | None:
        """The revision the database stands at; None where nothing was migrated yet."""
        async with self.session() as session:
            connection = await session.connection()
            known = await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
            version: str | None = known and await connection.scalar(text("SELECT version_num FROM alembic_version"))
            return version or None

    async def close(self) -> None:
        await self.engine.dispose()
        if self._driver_pool is not None:
            await self._driver_pool.close()


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """Whoever has a driver's connection changes no setting but for its own transaction."""


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the driver's ways of saying "not now" into `DatabaseAway`; let everything else through."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(root(error), AWAY):
            raise DatabaseAway from error
        raise
    except AWAY as error:
        raise DatabaseAway from error


def was_undone(error: Exception) -> bool:
    """Whether a transaction met another one, and PostgreSQL undid it."""
    return isinstance(error, DatabaseAway) and error.__cause__ is not None and isinstance(root(error.__cause__), UNDONE)


# For a function that is one transaction, and does nothing else that can be seen.
again_if_undone = stamina.retry(on=was_undone, attempts=3, wait_initial=0.05, wait_max=0.5, wait_jitter=0.1)


def reason(error: Exception) -> str:
    """Why, for the log and the operator: what PostgreSQL or the network said.

    Not for an answer: it may name the database and its user.
    """
    cause = error.__cause__ if isinstance(error, DatabaseAway) else None
    if isinstance(error, AppError) and cause is None:
        return error.detail
    return str(explain(cause or error))


def migrations_folder() -> Path:
    """The wheel's copy of the migrations, or the checkout's."""
    packaged = Path(str(files("aircall_oauth") / "_alembic"))
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "alembic"


def alembic_config(
    url: str = "", *, lock_wait: timedelta = LOCK_WAIT, tell: Callable[[str], None] = lambda _line: None
) -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes |= {"url": url, "lock_seconds": lock_wait.total_seconds(), "tell": tell}
    return config


def newest_schema_version() -> str:
    """The revision this code was written for."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


async def migrate(
    url: str, *, lock_wait: timedelta = LOCK_WAIT, tell: Callable[[str], None] = lambda _line: None
) -> None:
    """Bring the schema up to date; safe to run from many processes at once (once at a time within one).

    A table that is in use is asked for again and again, as long as `lock_wait`; `tell` is told what is waited for.
    A schema newer than this code is left alone: the version that made it works with ours. Raises `DatabaseUnfit`.
    """
    database = Database(url)
    try:
        async with database.driver_connection() as connection:
            await require_fit(connection)
        version = await database.schema_version()
    finally:
        await database.close()
    if version is None or version < newest_schema_version():
        config = alembic_config(url, lock_wait=lock_wait, tell=tell)
        with database_errors():
            await asyncio.to_thread(alembic.command.upgrade, config, "head")
