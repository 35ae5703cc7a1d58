"""Takes events in: recognised, kept once, on disk before they are answered.

Whatever arrives while a commit is under way goes into the next one; a lone event is committed at once. One statement
per group: it recognises the installations, takes the log's lock, and inserts the fingerprints and the events that are
new. Losing the answer of a commit is harmless: the group is committed again, and what was there is a repeat.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from enum import Enum, auto

import asyncpg
import msgspec

from aircall_oauth.errors import DatabaseAway, EventMalformed, InboxFull
from aircall_oauth.events import store
from aircall_oauth.storage import locks, partitions
from aircall_oauth.storage.database import AWAY, DURABLY, Database, reason
from aircall_oauth.storage.models.base import new_id
from aircall_oauth.storage.models.events import EventSource
from aircall_oauth.storage.models.installations import InstallationStatus
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Metrics

logger = log.get(__name__)

# What PostgreSQL says of a row that it will never take. Anything else may pass: a full disk, a deadlock, a restart.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
# Packed by what costs least, where it is there.
PREPARE = """
    SELECT set_config('default_toast_compression', 'lz4', false) FROM pg_settings
    WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
"""
# Where in PostgreSQL's source a commit waits for a standby; what it says there comes in the server's language.
WAIT_FOR_STANDBY = "SyncRepWaitForLSN"
# Aircall gives five seconds. Within these an event is answered, if only with "again".
ANSWER_SECONDS = 2.5
PAUSE_SECONDS = 0.05
RECONNECT_SECONDS = 1.0
# So long a commit shows that another one will do, however often it is asked.
PROVED_SECONDS = 1.0
WATCH_SECONDS = 0.1
WRITERS = 2
MAX_GROUP = 256
MAX_GROUP_BYTES = 8 * 1024 * 1024
MAX_WAITING = 2048
MAX_WAITING_BYTES = 64 * 1024 * 1024

# A fingerprint begins with the time of its event: so new ones lie together in their index, however large it grows, and
# old ones are found by it. No clock of ours has a part in it: one that jumps would make another event of a repeat.
# A repeat is answered like the event it repeats, whose commit may still wait for a standby: so its own commit waits for
# what the first one waits for.
TAKE_IN = f"""
    WITH incoming AS MATERIALIZED (
        SELECT a.*, i.id AS installation_id, i.company_id, i.owner,
               int8send(coalesce(extract(epoch FROM a.occurred_at)::bigint, 0))
                   || sha256(convert_to(i.id, 'UTF8') || a.content) AS fingerprint,
               sha256(convert_to(i.id, 'UTF8') || a.call) AS call_fingerprint
        FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
                    $8::bytea[])
             WITH ORDINALITY AS a (token, content, id, type, resource, occurred_at, data, call, number)
        LEFT JOIN LATERAL (
            SELECT installation_id FROM webhook WHERE token_fingerprint = a.token
            UNION ALL SELECT installation_id FROM retired_webhook WHERE token_fingerprint = a.token
            LIMIT 1
        ) w ON true
        LEFT JOIN installation i ON i.id = w.installation_id
              AND i.status IN ('{InstallationStatus.ACTIVE}', '{InstallationStatus.UNAUTHORIZED}')
    ), locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock({locks.LOG}), {DURABLY}
    ), known AS MATERIALIZED (
        SELECT DISTINCT ON (fingerprint) incoming.* FROM locked, incoming WHERE installation_id IS NOT NULL
        ORDER BY fingerprint, number
    ), new AS (
        INSERT INTO event_fingerprint (fingerprint, received_at) SELECT fingerprint, now() FROM known
        ON CONFLICT (fingerprint) DO NOTHING
        RETURNING fingerprint
    ), told AS (
        INSERT INTO told_call (fingerprint, received_at, back_filled)
        SELECT DISTINCT call_fingerprint, now(), false FROM known WHERE call_fingerprint IS NOT NULL
        ON CONFLICT (fingerprint) DO UPDATE SET back_filled = true WHERE told_call.back_filled
        RETURNING fingerprint, back_filled
    ), kept AS (
        INSERT INTO event (position, received_at, id, installation_id, company_id, owner, type, resource,
                           occurred_at, source, data)
        SELECT nextval('event_position'), clock_timestamp(), id, installation_id, company_id, owner, type, resource,
               occurred_at, '{EventSource.AIRCALL}', data
        FROM (SELECT known.* FROM known JOIN new USING (fingerprint) LEFT JOIN told
                  ON told.back_filled AND told.fingerprint = call_fingerprint
              WHERE told.fingerprint IS NULL ORDER BY number) AS in_order
        RETURNING id
    )
    SELECT (SELECT array_agg(number) FROM incoming WHERE installation_id IS NULL), (SELECT array_agg(id) FROM kept)
"""  # noqa: S608 - only constants of ours are put in

# What a group needs of the database: the log's lock, a commit, and that it may write.
PROVE = f"SELECT current_setting('transaction_read_only') = 'off', pg_advisory_xact_lock({locks.LOG}), {DURABLY}"


class TakenIn(Enum):
    """What became of an event."""

    STORED = auto()
    REPEATED = auto()
    UNKNOWN_TOKEN = auto()


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An event as Aircall sent it, its token as a fingerprint; `call` recognises the call whose end it tells."""

    token_fingerprint: bytes
    type: str
    resource: str | None
    occurred_at: datetime | None
    fingerprint: bytes
    data: str
    call: bytes | None = None


class _Waiting(msgspec.Struct, eq=False):
    arrival: Arrival
    outcome: asyncio.Future[TakenIn]
    answer_by: float

    @property
    def wanted(self) -> bool:
        """Not by who was told to send it again. But who hung up was not told: the event is here."""
        return not self.outcome.done() or (self.outcome.cancelled() and time.monotonic() < self.answer_by)

    def end(self, outcome: TakenIn | Exception) -> None:
        """Nobody may be waiting any more: who sent the event may have hung up, which stops no commit."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class Inbox:
    """The queue between the door and the log, and its writers."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self.metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._unanswered: deque[tuple[float, asyncio.Future[TakenIn]]] = deque()
        self._waiting_bytes = 0
        self._under_way = 0
        self._something = asyncio.Event()
        self._hurried = False
        self._closing = False
        self._proof: asyncio.Future[None] | None = None
        self._proof_wanted = False
        self._proved_at = -PROVED_SECONDS
        self.committed = asyncio.Event()

    @property
    def depth(self) -> int:
        return len(self._waiting)

    async def take_in(self, arrival: Arrival) -> TakenIn:
        """Keep an event once; it is on disk when this returns.

        Raises `InboxFull` at once where too much is waiting, `DatabaseAway` in time for Aircall to send it again, and
        `EventMalformed` where the database refuses this very event.
        """
        size = len(arrival.data)
        if self._closing or self.depth >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise InboxFull
        outcome: asyncio.Future[TakenIn] = asyncio.get_running_loop().create_future()
        answer_by = time.monotonic() + ANSWER_SECONDS
        self._waiting.append(_Waiting(arrival, outcome, answer_by))
        self._unanswered.append((answer_by, outcome))
        self._waiting_bytes += size
        if self._worthwhile:
            self._something.set()
        return await outcome

    async def prove(self) -> None:
        """Wait until a commit shows that events can be kept now; returns at once where one was just made.

        Raises `DatabaseAway` where the next try fails; how long a try takes is the caller's to bound.
        """
        if self._proved_at > time.monotonic() - PROVED_SECONDS:
            return
        if self._proof is None:
            self._proof = asyncio.get_running_loop().create_future()
            # Whoever asked may have gone.
            self._proof.add_done_callback(asyncio.Future.exception)
        self._proof_wanted = True
        self._something.set()
        await asyncio.shield(self._proof)

    def proved(self) -> None:
        """A commit was made."""
        self._proved_at = time.monotonic()
        self._proof_wanted = False
        if self._proof is not None:
            self._proof.set_result(None)
            self._proof = None

    def disproved(self, error: Exception) -> None:
        """A commit failed."""
        if self._proof is not None:
            away = DatabaseAway()
            away.__cause__ = error.__cause__ if isinstance(error, DatabaseAway) else error
            self._proof.set_exception(away)
            self._proof = None

    async def next_group(self, *, patience: float = math.inf) -> list[_Waiting] | None:
        """What is waiting, as one group; waits until it is worth while. None when the inbox is closed and drained.

        Empty where a proof is wanted instead, or nothing came for `patience` seconds.
        """
        until = time.monotonic() + patience
        while not self._worthwhile:
            if self._closing:
                return None
            if self._proof_wanted or time.monotonic() > until:
                self._proof_wanted = False
                return []
            self._something.clear()
            await self._something.wait()
        self._hurried = False
        group: list[_Waiting] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP and size < MAX_GROUP_BYTES:
            entry = self._waiting.popleft()
            size += len(entry.arrival.data)
            group.append(entry)
        self._waiting_bytes -= size
        self._under_way += len(group)
        return group

    def ended(self, group: list[_Waiting]) -> None:
        """A group is through, so the next one is worth while."""
        self._under_way -= len(group)
        self._something.set()

    def hurry(self) -> None:
        """Let what waits go now: what is under way may be stuck."""
        self._hurried = True
        self._something.set()

    @property
    def _worthwhile(self) -> bool:
        """A lone event goes at once; beside a group that is under way, no smaller one: few large ones cost less."""
        return bool(self._waiting) and (len(self._waiting) >= self._under_way or self._hurried or self._closing)

    def end_overdue(self) -> None:
        """Answer whose time is up, wherever their group is stuck; they are sent again by Aircall."""
        now = time.monotonic()
        while self._unanswered:
            answer_by, outcome = self._unanswered[0]
            if not outcome.done():
                if answer_by > now:
                    return
                outcome.set_exception(DatabaseAway())
            self._unanswered.popleft()

    def close(self) -> None:
        """Take nothing in any more; the writers end when the queue is empty."""
        self._closing = True
        self._something.set()


@asynccontextmanager
async def open_inbox(database: Database, metrics: Metrics) -> AsyncIterator[Inbox]:
    """An inbox with its writers; leaving it drains it."""
    inbox = Inbox(database, metrics)
    metrics.watch_inbox(lambda: inbox.depth)
    writers = [asyncio.create_task(_Writer(database, inbox).run()) for _ in range(WRITERS)]
    watch = asyncio.create_task(_watch(inbox))
    try:
        yield inbox
    finally:
        inbox.close()
        await asyncio.gather(*writers)
        watch.cancel()


async def _watch(inbox: Inbox) -> None:
    """One clock for all who wait: a timer for each would cost as much as reading its event."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        inbox.end_overdue()
        inbox.hurry()


class _Writer:
    """One connection of its own, kept: a pool would reset it after every group."""

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
        """Connected for the next event, before it comes: later the server may have no connection left."""
        return RECONNECT_SECONDS if self._connection is None or self._connection.is_closed() else math.inf

    async def _prove(self) -> None:
        """Commit nothing, as a group would be committed."""
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

    async def _keep(self, group: list[_Waiting]) -> None:
        """Commit a group: in halves where PostgreSQL refuses a row of it, again and again where it can't do it now."""
        while group := [entry for entry in group if entry.wanted]:
            try:
                await self._commit(group)
            except asyncpg.UntranslatableCharacterError as error:
                # The database's encoding lacks what the event has: no fault of the event's.
                await self._put_off(error)
            except REFUSED:
                await self._halve(group)
                return
            except (*AWAY, DatabaseAway, asyncpg.PostgresError) as error:
                await self._put_off(error)
            else:
                self._put_off_by = None
                return

    async def _commit(self, group: list[_Waiting]) -> None:
        connection = await self._connected()
        ids = [new_id("evt") for _ in group]
        started = time.perf_counter()
        try:
            unknown, stored = await _insert(connection, group, ids)
        except asyncpg.CheckViolationError as error:
            if error.constraint_name is not None:
                raise
            # The day has no partition.
            await partitions.ensure(connection)
            unknown, stored = await _insert(connection, group, ids)
        self._judge_wait()
        self._inbox.proved()
        self._inbox.metrics.flushed(events=len(group), started=started)
        _tell(group, ids, set(unknown or ()), set(stored or ()))
        if stored:
            self._inbox.committed.set()

    async def _halve(self, group: list[_Waiting]) -> None:
        """One row the database refuses must not fail its neighbours."""
        if len(group) == 1:
            logger.warning("event refused by the database", type=group[0].arrival.type)
            group[0].end(EventMalformed())
        else:
            middle = len(group) // 2
            await self._keep(group[:middle])
            await self._keep(group[middle:])

    async def _put_off(self, error: Exception) -> None:
        """Wait a moment, and come back over a fresh connection. A reason is told once, not at every try."""
        self._inbox.disproved(error)
        if self._put_off_by != (why := reason(error)):
            self._put_off_by = why
            logger.warning("events are put off", reason=why)
        await self._disconnect()
        if isinstance(error, TimeoutError):
            await self._free_the_log()
        await asyncio.sleep(PAUSE_SECONDS)

    async def _free_the_log(self) -> None:
        """Another session may have the log's lock, and a client that is gone without a word."""
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
        """A commit that is made to stop waiting for its standby succeeds, with a warning; the repeat waits again."""
        if getattr(message, "server_source_function", None) == WAIT_FOR_STANDBY:
            self._left_waiting = True

    def _judge_wait(self) -> None:
        if self._left_waiting:
            raise DatabaseAway

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*AWAY):
                await connection.close(timeout=1.0)


async def _insert(
    connection: asyncpg.Connection, group: list[_Waiting], ids: list[str]
) -> tuple[Collection[int] | None, Collection[str] | None]:
    """One statement: the numbers of those whose token is unknown, and the ids of those that were new."""
    arrivals = [entry.arrival for entry in group]
    unknown, stored = await connection.fetchrow(
        TAKE_IN,
        [a.token_fingerprint for a in arrivals],
        [a.fingerprint for a in arrivals],
        ids,
        [a.type for a in arrivals],
        [a.resource for a in arrivals],
        [a.occurred_at for a in arrivals],
        [a.data for a in arrivals],
        [a.call for a in arrivals],
        timeout=ANSWER_SECONDS,
    )
    return unknown, stored


def _tell(group: list[_Waiting], ids: list[str], unknown: Collection[int], stored: Collection[str]) -> None:
    for number, (entry, id_) in enumerate(zip(group, ids, strict=True), start=1):
        if number in unknown:
            entry.end(TakenIn.UNKNOWN_TOKEN)
        else:
            entry.end(TakenIn.STORED if id_ in stored else TakenIn.REPEATED)
