"""Takes events in: recognised, kept once, on disk before they are answered.

Whatever arrives while a commit is under way goes into the next one; a lone event is committed at once. One statement
per group: it recognises the installations, takes the log's lock, and inserts the fingerprints and the events that are
new. Losing the answer of a commit is harmless: the group is committed again, and what was there is a repeat.
"""

import asyncio
import math
import time
from collections import deque

import msgspec

from aircall_oauth.errors import DatabaseAway, InboxFull
from aircall_oauth.events.receiver.statement import ANSWER_SECONDS, Arrival, TakenIn
from aircall_oauth.telemetry.metrics import Metrics

# So long a commit shows that another one will do, however often it is asked.
PROVED_SECONDS = 1.0
MAX_GROUP = 256
MAX_GROUP_BYTES = 8 * 1024 * 1024
MAX_WAITING = 2048
MAX_WAITING_BYTES = 64 * 1024 * 1024


class Waiting(msgspec.Struct, eq=False):
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

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._waiting: deque[Waiting] = deque()
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
        self._waiting.append(Waiting(arrival, outcome, answer_by))
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

    async def next_group(self, *, patience: float = math.inf) -> list[Waiting] | None:
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
        group: list[Waiting] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP and size < MAX_GROUP_BYTES:
            entry = self._waiting.popleft()
            size += len(entry.arrival.data)
            group.append(entry)
        self._waiting_bytes -= size
        self._under_way += len(group)
        return group

    def ended(self, group: list[Waiting]) -> None:
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
