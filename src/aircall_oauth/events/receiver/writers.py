"""The inbox's writers: each commits groups of events over its own connection, and retries a commit that failed."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from aircall_oauth.errors import DatabaseAway, EventMalformed
from aircall_oauth.events import positions
from aircall_oauth.events.receiver.inbox import Inbox, Waiting
from aircall_oauth.events.receiver.sealing import Sealer
from aircall_oauth.events.receiver.statement import (
    ANSWER_SECONDS,
    PREPARE,
    PROVE,
    Cover,
    Inserted,
    TakenIn,
    insert,
    insert_covered,
)
from aircall_oauth.storage import data_keys, partitions
from aircall_oauth.storage.away import AWAY, reason
from aircall_oauth.storage.commits import Commits, Committed
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Metrics

logger = log.get(__name__)

# The row itself is wrong, so every try would fail. Other errors may be temporary: a full disk, a deadlock, a restart.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
# The function in PostgreSQL's source that waits for a standby. It identifies a warning: the text may be translated.
WAIT_FOR_STANDBY = "SyncRepWaitForLSN"
PAUSE_SECONDS = 0.05
RECONNECT_SECONDS = 1.0
WATCH_SECONDS = 0.1
WRITERS = 2


@asynccontextmanager
async def open_inbox(
    database: Database, metrics: Metrics, commits: Commits | None = None, *, keys: DataKeys | None = None
) -> AsyncIterator[Inbox]:
    """Open an inbox and start its writers, which tell `commits` of theirs; without `keys` nothing is encrypted.

    At the end of the block the writers commit what still waits, then stop.
    """
    inbox = Inbox(metrics, commits or Commits())
    metrics.watch_inbox(lambda: inbox.depth)
    writers = [
        asyncio.create_task(Writer(database, inbox, None if keys is None else Sealer(keys)).run())
        for _ in range(WRITERS)
    ]
    watch = asyncio.create_task(_watch(inbox))
    try:
        yield inbox
    finally:
        inbox.close()
        await asyncio.gather(*writers)
        watch.cancel()


async def _watch(inbox: Inbox) -> None:
    """Answer overdue events, and let waiting events go although a group is stuck; runs until it is cancelled.

    One timer serves all events: a timer for each would cost as much as reading the event.
    """
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        inbox.end_overdue()
        inbox.hurry()


class Writer:
    """Commits groups of events over one connection that it keeps open: a pool would reset it after every group."""

    def __init__(self, database: Database, inbox: Inbox, sealer: Sealer | None) -> None:
        self._database = database
        self._sealer = sealer
        self._covers: bool | None = None  # whether events are encrypted, or were; not known yet
        self._inbox = inbox
        self._connection: asyncpg.Connection | None = None
        self._epoch = ""  # of the log, when the connection was opened
        self._logged_reason: str | None = None
        self._standby_missed = False

    async def run(self) -> None:
        await self._prove()
        while (group := await self._inbox.next_group(patience=self._patience)) is not None:
            try:
                await (self._keep(group) if group else self._prove())
            except Exception as error:
                logger.exception("group not kept")
                for entry in group:
                    entry.end(error)
            finally:
                self._inbox.ended(group)
        await self._disconnect()

    @property
    def _patience(self) -> float:
        """The seconds to wait for a group: few while there is no connection, so that one is opened before it is needed.

        Once an event comes, the server may have no connection left.
        """
        return RECONNECT_SECONDS if self._connection is None or self._connection.is_closed() else math.inf

    async def _prove(self) -> None:
        """Check that a group could be committed now: commit an empty transaction, and tell the inbox how it went."""
        try:
            connection = await self._connected()
            if not await connection.fetchval(PROVE, timeout=ANSWER_SECONDS):
                raise asyncpg.ReadOnlySQLTransactionError
            self._require_standby()
        except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
            await self._put_off(error)
        else:
            self._logged_reason = None
            self._inbox.proved()

    async def _keep(self, group: list[Waiting]) -> None:
        """Commit a group: retry while the database is away, and split the group if PostgreSQL refuses one of its rows.

        Before each try, drop the events that Aircall was told to send again.
        """
        while group := [entry for entry in group if entry.wanted]:
            try:
                group = await self._commit(group)
            except asyncpg.UntranslatableCharacterError as error:
                # The database's encoding lacks a character that the event has. The event is valid, so it is retried.
                await self._put_off(error)
            except REFUSED:
                await self._halve(group)
                return
            except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
                await self._put_off(error)
            else:
                self._logged_reason = None
                if not group:
                    return
                await asyncio.sleep(PAUSE_SECONDS)

    async def _commit(self, group: list[Waiting]) -> list[Waiting]:
        """Commit a group once, and answer its senders; returns those whose data key was erased meanwhile."""
        connection = await self._connected()
        ids, covers = [new_id("evt") for _ in group], None
        if self._sealer is not None and await self._must_cover(connection):
            group, ids, covers = await self._cover(self._sealer, connection, group, ids)
            if not group:
                return []
        started = time.perf_counter()
        try:
            inserted = await self._insert(connection, group, ids, covers)
        except asyncpg.CheckViolationError as error:
            if error.constraint_name is not None:
                raise
            # Only a missing partition of the day raises this error without the name of a constraint.
            await partitions.ensure(connection)
            inserted = await self._insert(connection, group, ids, covers)
        self._require_standby()
        self._inbox.proved()
        self._inbox.metrics.flushed(events=len(group), started=started)
        unknown, stored, refused = (set[Any](each or ()) for each in inserted[:3])
        _answer(group, ids, unknown, stored, refused)
        if stored:
            self._inbox.commits.note(len(stored), Committed(self._epoch, inserted.events) if inserted.events else None)
        return self._again([group[number - 1] for number in sorted(refused)])

    async def _insert(
        self, connection: asyncpg.Connection, group: list[Waiting], ids: list[str], covers: list[Cover] | None
    ) -> Inserted:
        arrivals = [entry.arrival for entry in group]
        if covers is None or self._sealer is None:
            return await insert(connection, arrivals, ids, whole=self._inbox.commits.has_listeners)
        return await insert_covered(connection, arrivals, ids, covers, all_=self._sealer.encrypts)

    async def _must_cover(self, connection: asyncpg.Connection) -> bool:
        """Whether events are encrypted, or were, so that repeats are recognised by either hash."""
        if self._covers is None:
            self._covers = (self._sealer is not None and self._sealer.encrypts) or bool(
                await connection.fetchval(data_keys.EVER_USED, timeout=ANSWER_SECONDS)
            )
        return self._covers

    async def _cover(
        self, sealer: Sealer, connection: asyncpg.Connection, group: list[Waiting], ids: list[str]
    ) -> tuple[list[Waiting], list[str], list[Cover]]:
        """Encrypt a group, and refuse the events of a customer whose key does not open: Aircall sends them again."""
        async with asyncio.timeout(ANSWER_SECONDS):
            covers = await sealer.cover(connection, [entry.arrival for entry in group], ids)
        kept: list[tuple[Waiting, str, Cover]] = []
        for entry, id_, cover in zip(group, ids, covers, strict=True):
            if isinstance(cover, Cover):
                kept.append((entry, id_, cover))
            else:
                entry.end(cover)
        return [entry for entry, _, _ in kept], [id_ for _, id_, _ in kept], [cover for _, _, cover in kept]

    def _again(self, refused: list[Waiting]) -> list[Waiting]:
        if refused and self._sealer is not None:
            self._sealer.forget({entry.arrival.token_fingerprint for entry in refused})
        return refused

    async def _halve(self, group: list[Waiting]) -> None:
        """Commit each half of a group on its own, and so on until a refused event is alone; it is `EventMalformed`."""
        if len(group) == 1:
            logger.warning("event refused by the database", type=group[0].arrival.type)
            group[0].end(EventMalformed())
        else:
            middle = len(group) // 2
            await self._keep(group[:middle])
            await self._keep(group[middle:])

    async def _put_off(self, error: Exception) -> None:
        """Close the connection and wait before the next try. The reason is logged when it changes, not at every try."""
        self._inbox.disproved(error)
        if self._logged_reason != (why := reason(error)):
            self._logged_reason = why
            logger.warning("events are put off", reason=why)
        await self._disconnect()
        if isinstance(error, TimeoutError):
            await self._free_the_log()
        await asyncio.sleep(PAUSE_SECONDS)

    async def _free_the_log(self) -> None:
        """End other sessions that hold the log's lock although their client sends nothing."""
        with contextlib.suppress(*AWAY, DatabaseAway, asyncpg.PostgresError):
            if ended := await positions.end_silent_holders(await self._connected()):
                logger.warning("sessions that held the log fell silent and were ended", ended=ended)

    async def _connected(self) -> asyncpg.Connection:
        """Return the open connection, or open a new one; raises `DatabaseAway`, or an error of asyncpg."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._connection = connection = await self._database.connect()
        self._epoch = self._database.epoch
        self._standby_missed, self._covers = False, None
        connection.add_log_listener(self._on_message)
        await connection.execute(PREPARE)
        return connection

    def _on_message(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """Note that a commit stopped waiting for its standby. PostgreSQL only warns of that: the commit succeeds."""
        if getattr(message, "server_source_function", None) == WAIT_FOR_STANDBY:
            self._standby_missed = True

    def _require_standby(self) -> None:
        """Raise `DatabaseAway` if a commit did not wait until its standby had it; the retry waits again."""
        if self._standby_missed:
            raise DatabaseAway

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*AWAY):
                await connection.close(timeout=1.0)


def _answer(
    group: list[Waiting], ids: list[str], unknown: Collection[int], stored: Collection[str], refused: Collection[int]
) -> None:
    """Answer each sender of a committed group but those `refused`.

    `unknown` and `refused` are numbers in the group, from 1; `stored` are event ids.
    """
    for number, (entry, id_) in enumerate(zip(group, ids, strict=True), start=1):
        if number in refused:
            continue
        if number in unknown:
            entry.end(TakenIn.UNKNOWN_TOKEN)
        else:
            entry.end(TakenIn.STORED if id_ in stored else TakenIn.REPEATED)
