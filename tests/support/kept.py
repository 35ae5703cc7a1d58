"""Connections that outlast a test's service: the next service over the same database takes them.

A service opens five, and for each PostgreSQL starts a process that reads the catalogues anew: a tenth of the time of
all tests. One that is taken works like a new one. Its session was told to forget everything, and the driver's object is
another. Where a test sets something for new connections of the database, none is kept or taken.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any

import asyncpg

from aircall_oauth.storage.database_url import read

MOST_OF_A_KIND = 8
# Whether new connections to the database are as those before: nothing is set for them.
IS_AS_EVER = """
    SELECT NOT EXISTS (SELECT FROM pg_db_role_setting) AND datallowconn AND datconnlimit = -1
    FROM pg_database WHERE datname = current_database()
"""
# SQLAlchemy tells the driver how to read them, and other connections do without.
JSON_TYPES = ((114, "json"), (3802, "jsonb"))

# What a connection was opened with.
Options = tuple[str, ...]

_open_anew = asyncpg.connect
# By what a service hands to the driver for the database's address.
_all: dict[str, "Kept"] = {}


class Phase(Enum):
    """Of a service's life."""

    STARTS = auto()
    WORKS = auto()
    ENDS = auto()


class Use:
    """A service's use of what is kept."""

    phase = Phase.STARTS

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep nothing that is closed while the block lasts: a test may look at that. The service ends with it."""
        self.phase = Phase.WORKS
        try:
            yield
        finally:
            self.phase = Phase.ENDS


class Kept:
    """What is kept of one database, in the event loop of all tests."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.uses: list[Use] = []
        self._idle: dict[Options, list[asyncpg.Connection]] = defaultdict(list)
        _all[read(url).dsn] = self

    def processes(self) -> list[int]:
        """Return the ids of the processes of PostgreSQL that are behind what is kept."""
        return [one.get_server_pid() for alike in self._idle.values() for one in alike if not one.is_closed()]

    async def close(self) -> None:
        """Close what is kept: the next connections are new."""
        for alike in self._idle.values():
            while alike:
                await alike.pop().close()

    def can_take(self, ending: asyncpg.Connection, options: Options, phases: set[Phase]) -> bool:
        """Whether the session of a connection that is about to be closed may be kept: services are in these phases."""
        can_be_used = not ending.is_closed() and not ending.is_in_transaction() and not _is_cancelling(ending)
        has_room = len(self._idle[options]) < MOST_OF_A_KIND
        return can_be_used and has_room and bool(self.uses) and phases.issuperset(use.phase for use in self.uses)

    def take(self, ending: asyncpg.Connection, options: Options) -> None:
        self._idle[options].append(_hand_over(ending, asyncpg.Connection))

    async def lend(self, options: Options, timeout: float | None) -> asyncpg.Connection | None:
        """Return one that is as good as new, if there is one that was opened with these options."""
        while self._idle[options]:
            idle = self._idle[options].pop()
            try:
                with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError):
                    await _forget_everything(idle, timeout)
                    if await idle.fetchval(IS_AS_EVER, timeout=timeout):
                        return _hand_over(idle, Lasting)
            finally:
                # Ends nothing where the session was handed over.
                idle.terminate()
        return None


class Lasting(asyncpg.Connection):  # type: ignore[misc]
    """Offers its session before it is closed."""

    kept: Kept | None = None
    options: Options = ()

    async def close(self, *, timeout: float | None = None) -> None:
        if self.kept and self.kept.can_take(self, self.options, {Phase.STARTS, Phase.ENDS}):
            try:
                # Locks and the like must not outlast it.
                await _forget_everything(self, timeout)
                self.kept.take(self, self.options)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                super().terminate()
            except BaseException:
                super().terminate()
                raise
        await super().close(timeout=timeout)

    def terminate(self) -> None:
        # What asks at the start what is behind a connection is done with it then. Others may be waiting for an answer.
        if self.kept and self.kept.can_take(self, self.options, {Phase.STARTS}):
            self.kept.take(self, self.options)
        super().terminate()


class _Gone:
    """Stands where a connection had its session, which another one has now."""

    def __init__(self, protocol: Any) -> None:
        self.get_settings, self.get_server_pid = protocol.get_settings, protocol.get_server_pid

    def is_connected(self) -> bool:
        return False

    def is_in_transaction(self) -> bool:
        return False

    def abort(self) -> None:
        pass


def keep_connections() -> None:
    """Keep connections in this process from now on."""
    asyncpg.connect = _connect


@contextmanager
def use_of(url: str) -> Iterator[Use]:
    """Lend what is kept of the database at an address, while a service that uses it lasts."""
    use, kept = Use(), _all.get(read(url).dsn)
    uses = kept.uses if kept else []
    uses.append(use)
    try:
        yield use
    finally:
        uses.remove(use)


async def _connect(*arguments: Any, **options: Any) -> asyncpg.Connection:
    kept = _all.get(arguments[0]) if arguments else None
    if kept is None or not kept.uses or kept.loop is not asyncio.get_running_loop() or "connection_class" in options:
        return await _open_anew(*arguments, **options)
    alike, timeout = tuple(sorted(f"{name}={value!r}" for name, value in options.items())), options.get("timeout")
    connection = await kept.lend(alike, timeout)
    if connection is None:
        connection = await _open_anew(*arguments, connection_class=Lasting, **options)
        try:
            if not await connection.fetchval(IS_AS_EVER, timeout=timeout):
                return connection
        except BaseException:
            connection.terminate()
            raise
    connection.kept, connection.options = kept, alike
    return connection


async def _forget_everything(idle: asyncpg.Connection, timeout: float | None) -> None:
    await idle.execute("DISCARD ALL", timeout=timeout)
    for number, name in JSON_TYPES:
        idle._protocol.get_settings().remove_python_codec(number, name, "pg_catalog")


def _is_cancelling(connection: asyncpg.Connection) -> bool:
    """Whether PostgreSQL is being told to cancel a statement: that could meet another one."""
    cancelling: bool = connection._protocol._is_cancelling()
    return cancelling or bool(connection._cancellations)


def _hand_over(old: asyncpg.Connection, to: type[asyncpg.Connection]) -> asyncpg.Connection:
    """Make another object of the driver's over a connection's session; the old one counts as closed then."""
    new = to(old._protocol, old._transport, old._loop, old._addr, old._config, old._params)
    old._protocol.set_connection(new)
    old._protocol = _Gone(old._protocol)
    return new
