"""The servers of a database URL: each has a timeout of its own, so that one that hangs does not block the others."""

import asyncio
import os
from collections.abc import Callable
from itertools import product
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from aircall_oauth.storage import arrays, database_url, epochs
from aircall_oauth.storage.database_url import Address
from aircall_oauth.storage.faults import DRIVER_ERRORS, SETTING

CONNECT_TIMEOUT_SECONDS = 3.0
# Has PostgreSQL end a session of ours that falls silent, in a transaction or not; the URL's options are for our end.
ENDED_WHEN_SILENT = """
    SELECT set_config('idle_in_transaction_session_timeout', '5s', false),
           set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '1', false),
           set_config('tcp_keepalives_count', '4', false), set_config('tcp_user_timeout', '9000', false)
"""


class Hosts:
    """Connects to one of the servers; the one that answered last is tried first.

    If there are several and no `target_session_attrs`, the primary is wanted: a standby takes no event.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._dsns = each_host(address.dsn)
        self.epoch = ""  # of the log, when the last connection was opened
        given = dict(parse_qsl(urlsplit(address.dsn).query)).get("target_session_attrs")
        wanted = given or os.environ.get("PGTARGETSESSIONATTRS")
        self._wanted: tuple[str | None, ...] = (wanted,)
        if len(self._dsns) > 1:
            # Two passes, as each server is tried on its own: the driver prefers among those it is given at once.
            self._wanted = ("standby", "any") if wanted == "prefer-standby" else (wanted or "primary",)

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """Connect to the first server that answers and is what is wanted; raises the last one's error."""
        self._address.require_files()
        last: Exception = TimeoutError()
        for wanted, dsn in product(self._wanted, self._dsns):
            try:
                connection = await self._connect(dsn, target_session_attrs=wanted, **options)
            except (OSError, *DRIVER_ERRORS) as error:
                last = error
            except asyncio.CancelledError:
                # The wait was shorter than this server's own limit. It may hang: the next attempt begins with another.
                self._ask_first(self._dsns[(self._dsns.index(dsn) + 1) % len(self._dsns)])
                raise
            else:
                self._ask_first(dsn)
                return connection
        raise last

    async def _connect(self, dsn: str, **options: Any) -> asyncpg.Connection:
        tls, timeout = self._address.tls, self._address.connect_timeout_seconds or CONNECT_TIMEOUT_SECONDS
        connection = await asyncpg.connect(dsn, ssl=tls and tls(), timeout=timeout, **options)
        try:
            arrays.register(connection)
            # asyncpg has no public way to its socket.
            self._address.tune(connection._transport.get_extra_info("socket").fileno())
            await connection.execute(ENDED_WHEN_SILENT, timeout=timeout)
            self.epoch = await epochs.notice(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _ask_first(self, dsn: str) -> None:
        first = self._dsns.index(dsn)
        self._dsns = self._dsns[first:] + self._dsns[:first]


class Route:
    """A way to PostgreSQL; its URL may change in its file while the process runs."""

    def __init__(self, url: str, again: Callable[[], str | None] = lambda: None, *, setting: str = SETTING) -> None:
        """`again` is asked before each new connection; a URL that it returns takes the place of the one before.

        `setting` is what errors are told about.
        """
        self._url, self._again, self.setting = url, again, setting
        self._hosts = Hosts(database_url.read(url))

    @property
    def epoch(self) -> str:
        """The log's epoch when the last connection was opened: another one means that the log's end may be another."""
        return self._hosts.epoch

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """Connect to the first server that answers; raises the last one's error."""
        url = self._again()
        if url is not None and url != self._url:
            self._url, self._hosts = url, Hosts(database_url.read(url))
        return await self._hosts.connect(**options)


def each_host(dsn: str) -> list[str]:
    """Return a DSN for each server that a DSN names, in its order."""
    parts = urlsplit(dsn)
    credentials, at, named = parts.netloc.rpartition("@")
    if named:
        return [urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}")) for host in named.split(",")]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts, ports = query.get("host", "").split(","), query.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    if len(hosts) == 1 or len(hosts) != len(ports):
        return [dsn]
    each = ({"host": host} | ({"port": port} if port else {}) for host, port in zip(hosts, ports, strict=True))
    others = {name: value for name, value in query.items() if name not in {"host", "port"}}
    return [urlunsplit(parts._replace(query=urlencode(others | one))) for one in each]


def only_reads(connection: asyncpg.Connection) -> bool:
    """Whether PostgreSQL reported that the session cannot write: the database is read-only, or a standby."""
    settings = connection.get_settings()
    return "on" in {getattr(settings, name, None) for name in ("default_transaction_read_only", "in_hot_standby")}
