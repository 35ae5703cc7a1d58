"""PostgreSQL: connections, sessions, the schema's version, and its errors turned into ours."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import alembic.command
import alembic.config
import asyncpg
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.errors import DatabaseAway

CONNECT_TIMEOUT_SECONDS = 3.0
COMMAND_TIMEOUT_SECONDS = 10.0
POOL_SIZE = 5
DRIVER_POOL_SIZE = 5
POOL_TIMEOUT_SECONDS = 3.0

# What libpq does on the client's side and asyncpg does not know: it would send these to the server as settings.
LIBPQ_ONLY = {
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
}
# Connection failures, and a server that is starting, stopping or full: nothing is wrong with the statement.
AWAY = (
    OSError,
    TimeoutError,
    PoolTimeout,
    asyncpg.InterfaceError,
    # What the driver says of a connection that broke in the middle of an answer.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    # A migration ran while this process was up; the driver prepares the statement anew next time.
    asyncpg.InvalidCachedStatementError,
)


class Database:
    """The connections of one process: a pool for sessions, and one of the driver's own for what is asked often."""

    def __init__(self, url: str, *, command_timeout_seconds: float | None = COMMAND_TIMEOUT_SECONDS) -> None:
        self._dsn = asyncpg_dsn(url)
        self._command_timeout_seconds = command_timeout_seconds
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self.connect,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        self._driver_pool: asyncpg.Pool | None = None

    async def connect(self) -> asyncpg.Connection:
        """A connection of asyncpg's own, outside the pool; `DatabaseAway` for whatever reason there is none."""
        try:
            return await asyncpg.connect(
                self._dsn, timeout=CONNECT_TIMEOUT_SECONDS, command_timeout=self._command_timeout_seconds
            )
        except (*AWAY, asyncpg.PostgresError, ValueError, OverflowError) as error:
            raise DatabaseAway from error

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
                    connect=lambda *_, **__: self.connect(),
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
        if error.connection_invalidated or isinstance(_driver_error(error), AWAY):
            raise DatabaseAway from error
        raise
    except AWAY as error:
        raise DatabaseAway from error


def reason(away: DatabaseAway) -> str:
    """Why, in one line for the operator: what the server or the network said, and nothing of the address."""
    cause = away.__cause__
    if isinstance(cause, DBAPIError):
        cause = _driver_error(cause)
    said = str(cause) if isinstance(cause, OSError | asyncpg.PostgresError) else ""
    return (said or type(cause).__name__).splitlines()[0]


def _driver_error(error: DBAPIError) -> BaseException | None:
    """asyncpg's own exception: the dialect wraps it once more."""
    return error.orig and (error.orig.__cause__ or error.orig)


def asyncpg_dsn(url: str) -> str:
    """The URL as asyncpg reads it: what only libpq knows is left out, SQLAlchemy's `ssl=` becomes `sslmode=`."""
    parts = urlsplit(url)
    query = [
        ("sslmode" if name == "ssl" else name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in LIBPQ_ONLY
    ]
    if not any(name == "application_name" for name, _ in query):
        query.append(("application_name", "aircall-oauth"))
    return urlunsplit(parts._replace(query=urlencode(query)))


def migrations_folder() -> Path:
    """The wheel's copy of the migrations, or the checkout's."""
    packaged = Path(str(files("aircall_oauth") / "_alembic"))
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "alembic"


def alembic_config(url: str = "") -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def newest_schema_version() -> str:
    """The revision this code was written for."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


async def migrate(url: str) -> None:
    """Bring the schema up to date; safe to run from many processes at once (once at a time within one).

    A schema newer than this code is left alone: the version that made it works with ours.
    """
    database = Database(url)
    try:
        version = await database.schema_version()
    finally:
        await database.close()
    if version is None or version < newest_schema_version():
        with database_errors():
            await asyncio.to_thread(alembic.command.upgrade, alembic_config(url), "head")
