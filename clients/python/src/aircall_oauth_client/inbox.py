"""Takes deliveries: verified, once each, handed to your function, and answered so that the service does the rest.

The service is the queue: it repeats what was not answered 2xx for three days. So a function runs before the answer, and
one that raises makes the service try again. Keep it under ten seconds; what takes longer goes into a queue of yours.
"""

from __future__ import annotations

import asyncio
import fnmatch
import inspect
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from aircall_oauth_client.errors import HandlerFailed, SignatureInvalid
from aircall_oauth_client.models import Event
from aircall_oauth_client.signatures import verify

logger = logging.getLogger(__name__)

Handler = Callable[[Event], Any]
IsNew = Callable[[str], bool]

# A process that took an event and died leaves it to the next delivery after this long.
LEASE_SECONDS = 60
# The service repeats nothing that is older.
KEPT_SECONDS = 35 * 24 * 3600
BUSY_SECONDS = 5
MAX_BODY_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What to answer a delivery with."""

    status: int
    headers: Mapping[str, str]


TAKEN = Answer(204, {})
UNKNOWN = Answer(401, {})
BUSY = Answer(503, {"retry-after": str(BUSY_SECONDS)})


class Seen(Protocol):
    """Remembers which deliveries were dealt with, for every process of yours."""

    def begin(self, delivery: str) -> bool | None:
        """Whether this delivery is to be dealt with now; None where another process is at it."""

    def finish(self, delivery: str) -> None:
        """It was dealt with."""

    def forget(self, delivery: str) -> None:
        """It failed: the next try begins anew."""


class SqlSeen:
    """In a table of a database of yours; `connect` opens a connection of Python's DB-API, such as `psycopg.connect`."""

    TABLE = (
        "CREATE TABLE IF NOT EXISTS aircall_seen "
        "(delivery varchar(255) PRIMARY KEY, at double precision NOT NULL, done integer NOT NULL)"
    )

    def __init__(self, connect: Callable[[], Any], *, mark: str = "%s") -> None:
        self._connect, self._mark = connect, mark
        self._ready = False

    def begin(self, delivery: str) -> bool | None:
        now = time.time()
        with closing(self._connect()) as connection:
            self._prepare(connection, now)
            taken = self._run(
                connection,
                "INSERT INTO aircall_seen (delivery, at, done) VALUES (?, ?, 0) ON CONFLICT (delivery) DO UPDATE "
                "SET at = excluded.at WHERE aircall_seen.done = 0 AND aircall_seen.at < ?",
                (delivery, now, now - LEASE_SECONDS),
            )
            done = self._row(connection, "SELECT done FROM aircall_seen WHERE delivery = ?", (delivery,))
            connection.commit()
        return True if taken else None if done is not None and done[0] == 0 else False

    def finish(self, delivery: str) -> None:
        self._change("UPDATE aircall_seen SET done = 1 WHERE delivery = ?", (delivery,))

    def forget(self, delivery: str) -> None:
        self._change("DELETE FROM aircall_seen WHERE delivery = ? AND done = 0", (delivery,))

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        with closing(self._connect()) as connection:
            self._run(connection, statement, values)
            connection.commit()

    def _prepare(self, connection: Any, now: float) -> None:
        """Make the table, and delete what is old; once per process."""
        if not self._ready:
            try:
                self._run(connection, self.TABLE, ())
            except Exception:  # another process makes it at the same moment, for which PostgreSQL has several errors
                connection.rollback()
                self._run(connection, self.TABLE, ())
            self._run(connection, "DELETE FROM aircall_seen WHERE at < ?", (now - KEPT_SECONDS,))
            connection.commit()
            self._ready = True

    def _run(self, connection: Any, statement: str, values: tuple[Any, ...]) -> int:
        cursor = connection.cursor()
        cursor.execute(statement.replace("?", self._mark), values)
        changed: int = cursor.rowcount
        return changed

    def _row(self, connection: Any, statement: str, values: tuple[Any, ...]) -> Any:
        cursor = connection.cursor()
        cursor.execute(statement.replace("?", self._mark), values)
        return cursor.fetchone()


def sqlite_seen(path: str) -> SqlSeen:
    """Remember in a file: for the processes of one machine."""
    return SqlSeen(lambda: sqlite3.connect(path, timeout=10), mark="?")


class _Asked:
    """A function of yours that says whether a delivery is new; your handler keeps it, in its own transaction."""

    def __init__(self, is_new: IsNew) -> None:
        self._is_new = is_new

    def begin(self, delivery: str) -> bool | None:
        return self._is_new(delivery)

    def finish(self, delivery: str) -> None:
        pass

    def forget(self, delivery: str) -> None:
        pass


class Inbox:
    """Takes deliveries for functions by event type: `call.ended`, `call.*`, `*`; every one that fits is called.

    `secrets` are those of your subscriptions: the old and the new one while you rotate. `seen` is the path of a SQLite
    file, a `SqlSeen`, or a function that says whether a delivery is new. A replay that you asked for is handed over
    again; a repeated delivery is not.
    """

    def __init__(self, *secrets: str, on: Mapping[str, Handler], seen: Seen | IsNew | str) -> None:
        if not secrets or not all(secrets):
            raise ValueError("An inbox needs the secret of its subscription (whsec_…)")
        self._secrets, self._on = secrets, on
        if isinstance(seen, str):
            self._seen: Seen = sqlite_seen(seen)
        else:
            self._seen = _Asked(seen) if callable(seen) else seen

    def take(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Deal with a delivery and return what to answer. Raises `HandlerFailed` if your function does: answer 500."""
        event, delivery = self._opened(headers, body)
        if event is None:
            return UNKNOWN
        match self._seen.begin(delivery):
            case None:
                return BUSY
            case False:
                return TAKEN
        try:
            for handler in self._handlers(event):
                if inspect.isawaitable(handler(event)):
                    raise TypeError("This handler is asynchronous: use `take_async`")
        except BaseException as error:
            self._seen.forget(delivery)
            _fail(event, error)
        self._seen.finish(delivery)
        return TAKEN

    async def take_async(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Do as `take` does, for functions of either kind; the database and plain functions run in threads."""
        event, delivery = self._opened(headers, body)
        if event is None:
            return UNKNOWN
        match await asyncio.to_thread(self._seen.begin, delivery):
            case None:
                return BUSY
            case False:
                return TAKEN
        try:
            for handler in self._handlers(event):
                await _called(handler, event)
        except BaseException as error:
            await asyncio.shield(asyncio.to_thread(self._seen.forget, delivery))
            _fail(event, error)
        await asyncio.to_thread(self._seen.finish, delivery)
        return TAKEN

    def _opened(self, headers: Mapping[str, str], body: bytes) -> tuple[Event | None, str]:
        given = {name.lower(): value for name, value in headers.items()}
        try:
            event = verify(given, body, *self._secrets)
        except SignatureInvalid as error:
            logger.warning("a delivery was refused: %s", error)
            return None, ""
        replay = given.get("webhook-replay", "")
        # An event that is sent once more by hand may be sent so any number of times.
        again = f"{replay}-{given['webhook-timestamp']}" if replay == "resend" else replay
        return event, f"{event['id']}@{again}"[:255] if again else event["id"]

    def _handlers(self, event: Event) -> Sequence[Handler]:
        return [handler for pattern, handler in self._on.items() if fnmatch.fnmatchcase(event["type"], pattern)]


def _fail(event: Event, error: BaseException) -> NoReturn:
    """Raise `HandlerFailed` for an error of a function; what only ends this process or task, as it is."""
    if isinstance(error, Exception):
        raise HandlerFailed(f"The function for {event['type']} failed: {type(error).__name__}") from error
    raise error


async def _called(handler: Handler, event: Event) -> None:
    if inspect.iscoroutinefunction(handler):
        await handler(event)
    else:
        told = await asyncio.to_thread(handler, event)
        if inspect.isawaitable(told):
            await told
