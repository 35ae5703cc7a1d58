"""The inbox's writers: each commits groups of events over a connection of its own, and repeats what failed."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import asyncpg

from aircall_oauth.errors import DatabaseAway, EventMalformed
from aircall_oauth.events import store
from aircall_oauth.events.receiver.inbox import Inbox, Waiting
from aircall_oauth.events.receiver.statement import ANSWER_SECONDS, PREPARE, PROVE, TakenIn, insert
from aircall_oauth.storage import partitions
from aircall_oauth.storage.database import AWAY, Database, reason
from aircall_oauth.storage.models.base import new_id
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Metrics

logger = log.get(__name__)

# PostgreSQL will never take such a row. Any other error may pass: a full disk, a deadlock, a restart.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
# The function in PostgreSQL's source that waits for a standby: its messages come in the server's language.
WAIT_FOR_STANDBY = "SyncRepWaitForLSN"
PAUSE_SECONDS = 0.05
RECONNECT_SECONDS = 1.0
WATCH_SECONDS = 0.1
WRITERS = 2


@asynccontextmanager
async def open_inbox(database: Database, metrics: Metrics) -> AsyncIterator[Inbox]:
    """Open an inbox with its writers; leaving it drains it."""
    inbox = Inbox(metrics)
    metrics.watch_inbox(lambda: inbox.depth)
    writers = [asyncio.create_task(Writer(database, inbox).run()) for _ in range(WRITERS)]
    watch = asyncio.create_task(_watch(inbox))
    try:
        yield inbox
    finally:
        inbox.close()
        await asyncio.gather(*writers)
        watch.cancel()


async def _watch(inbox: Inbox) -> None:
    """Answer overdue events. One timer for all: one for each would cost as much as reading the event."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        inbox.end_overdue()
        inbox.hurry()


class Writer:
    """Commits groups over a connection of its own, which it keeps: a pool would reset it after every group."""

    def __init__(self, database: Database, inbox: Inbox) -> None:
        self._database = database
        self._inbox = inbox
        self._connection: asyncpg.Connection | None = None
        self._put_off_by: str | None = None
        self._left_waiting = False

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
        """Connect again before the next event comes: later the server may have no connection left."""
        return RECONNECT_SECONDS if self._connection is None or self._connection.is_closed() else math.inf

    async def _prove(self) -> None:
        """Commit nothing, in the way a group is committed."""
        try:
            connection = await self._connected()
            if not await connection.fetchval(PROVE, timeout=ANSWER_SECONDS):
                raise asyncpg.ReadOnlySQLTransactionError
            self._judge_wait()
        except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
            await self._put_off(error)
        else:
            self._put_off_by = None
            self._inbox.proved()

    async def _keep(self, group: list[Waiting]) -> None:
        """Commit a group: in halves if PostgreSQL refuses a row of it, again and again while the database is away."""
        while group := [entry for entry in group if entry.wanted]:
            try:
                await self._commit(group)
            except asyncpg.UntranslatableCharacterError as error:
                # The database's encoding lacks a character of the event, which is not the event's fault.
                await self._put_off(error)
            except REFUSED:
                await self._halve(group)
                return
            except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
                await self._put_off(error)
            else:
                self._put_off_by = None
                return

    async def _commit(self, group: list[Waiting]) -> None:
        connection = await self._connected()
        arrivals, ids = [entry.arrival for entry in group], [new_id("evt") for _ in group]
        started = time.perf_counter()
        try:
            unknown, stored = await insert(connection, arrivals, ids)
        except asyncpg.CheckViolationError as error:
            if error.constraint_name is not None:
                raise
            # The day has no partition.
            await partitions.ensure(connection)
            unknown, stored = await insert(connection, arrivals, ids)
        self._judge_wait()
        self._inbox.proved()
        self._inbox.metrics.flushed(events=len(group), started=started)
        _answer(group, ids, set(unknown or ()), set(stored or ()))
        if stored:
            self._inbox.committed.set()

    async def _halve(self, group: list[Waiting]) -> None:
        """Commit a group in halves, so that one refused row does not fail its neighbours."""
        if len(group) == 1:
            logger.warning("event refused by the database", type=group[0].arrival.type)
            group[0].end(EventMalformed())
        else:
            middle = len(group) // 2
            await self._keep(group[:middle])
            await self._keep(group[middle:])

    async def _put_off(self, error: Exception) -> None:
        """Wait a moment before the next try over a fresh connection. A reason is logged once, not at every try."""
        self._inbox.disproved(error)
        if self._put_off_by != (why := reason(error)):
            self._put_off_by = why
            logger.warning("events are put off", reason=why)
        await self._disconnect()
        if isinstance(error, TimeoutError):
            await self._free_the_log()
        await asyncio.sleep(PAUSE_SECONDS)

    async def _free_the_log(self) -> None:
        """End other sessions that hold the log's lock while their client is silent."""
        with contextlib.suppress(*AWAY, DatabaseAway, asyncpg.PostgresError):
            if ended := await store.free(await self._connected()):
                logger.warning("sessions that held the log fell silent and were ended", ended=ended)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._connection = connection = await self._database.connect()
        self._left_waiting = False
        connection.add_log_listener(self._hear)
        await connection.execute(PREPARE)
        return connection

    def _hear(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """Note a commit that was cancelled while it waited for its standby: it succeeds, with a warning only."""
        if getattr(message, "server_source_function", None) == WAIT_FOR_STANDBY:
            self._left_waiting = True

    def _judge_wait(self) -> None:
        """Raise `DatabaseAway` if a commit did not wait for its standby; the repeat waits again."""
        if self._left_waiting:
            raise DatabaseAway

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*AWAY):
                await connection.close(timeout=1.0)


def _answer(group: list[Waiting], ids: list[str], unknown: Collection[int], stored: Collection[str]) -> None:
    for number, (entry, id_) in enumerate(zip(group, ids, strict=True), start=1):
        if number in unknown:
            entry.end(TakenIn.UNKNOWN_TOKEN)
        else:
            entry.end(TakenIn.STORED if id_ in stored else TakenIn.REPEATED)
