"""The inbox: events that wait for their commit, in groups. Each is kept once, and on disk before it is answered.

What arrives while a commit is under way goes into the next one; an event that is alone is committed at once. One
statement per group finds the installations, takes the log's lock, and inserts the fingerprints and the events that are
new. A commit whose answer is lost is made again: what was kept the first time is then a repeat.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from aircall_oauth.errors import DatabaseAway, InboxFull
from aircall_oauth.events.receiver.statement import ANSWER_SECONDS, Arrival, TakenIn
from aircall_oauth.storage.commits import Commits
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Metrics

logger = log.get(__name__)

# A commit proves for this long that events can be kept, however often `prove` is called.
PROVED_SECONDS = 1.0
MAX_GROUP = 256
MAX_GROUP_BYTES = 8 * 1024 * 1024
MAX_WAITING = 2048
MAX_WAITING_BYTES = 64 * 1024 * 1024

Outcome = TakenIn | Exception


class Waiting(msgspec.Struct, eq=False):
    """An event that waits for its commit; `told` is called with the outcome, once."""

    arrival: Arrival
    told: Callable[[Outcome], None]
    answer_by: float
    # Until then it is worth committing: its sender was not told to resend. A sender that hung up was told nothing.
    wanted: bool = True

    def end(self, outcome: Outcome) -> None:
        """Answer the sender, unless it was told already. What goes wrong with that stops no other event."""
        if self.wanted:
            self.wanted = False
            try:
                self.told(outcome)
            except Exception:
                logger.exception("event not answered")


class Inbox:
    """The queue between the endpoint and the writers."""

    def __init__(self, metrics: Metrics, commits: Commits) -> None:
        self.metrics, self.commits = metrics, commits
        self._waiting: deque[Waiting] = deque()
        self._unanswered: list[Waiting] = []  # and what was answered since `end_overdue` looked last
        self._waiting_bytes = 0
        self._under_way = 0
        self._something = asyncio.Event()
        self._hurried = False
        self._closing = False
        self._proof: asyncio.Future[None] | None = None
        self._proof_wanted = False
        self._proved_at = -PROVED_SECONDS

    @property
    def depth(self) -> int:
        return len(self._waiting)

    def offer(self, arrival: Arrival, told: Callable[[Outcome], None]) -> None:
        """Keep an event once; it is on disk when `told` is called. Raises `InboxFull` if too much is waiting.

        `told` is called later, never by this call. The outcome is `DatabaseAway` in time for Aircall to send the event
        again, or `EventMalformed` if the database refuses this event.
        """
        size = len(arrival.data)
        waiting = self._waiting
        if self._closing or len(waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise InboxFull
        entry = Waiting(arrival, told, time.monotonic() + ANSWER_SECONDS)
        waiting.append(entry)
        self._unanswered.append(entry)
        self._waiting_bytes += size
        if self._worthwhile:
            self._something.set()

    async def take_in(self, arrival: Arrival) -> TakenIn:
        """Keep an event once, as `offer` does; it is on disk when this returns."""
        outcome: asyncio.Future[TakenIn] = asyncio.get_running_loop().create_future()
        self.offer(arrival, partial(_settle, outcome))
        return await outcome

    async def prove(self) -> None:
        """Wait until a commit proves that events can be kept; returns at once if one was made a moment ago.

        Raises `DatabaseAway` if the next try fails. How long a try may take is for the caller to bound.
        """
        if self._proved_at > time.monotonic() - PROVED_SECONDS:
            return
        if self._proof is None:
            self._proof = asyncio.get_running_loop().create_future()
            # Retrieve its error: every caller that waits for it may have gone.
            self._proof.add_done_callback(asyncio.Future.exception)
        self._proof_wanted = True
        self._something.set()
        await asyncio.shield(self._proof)

    def proved(self) -> None:
        """Note that a commit was made."""
        self._proved_at = time.monotonic()
        self._proof_wanted = False
        if self._proof is not None:
            self._proof.set_result(None)
            self._proof = None

    def disproved(self, error: Exception) -> None:
        """Note that a commit failed."""
        if self._proof is not None:
            away = DatabaseAway()
            away.__cause__ = error.__cause__ if isinstance(error, DatabaseAway) else error
            self._proof.set_exception(away)
            self._proof = None

    async def next_group(self, *, patience: float = math.inf) -> list[Waiting] | None:
        """Wait until a group is worth committing, and return it; None when the inbox is closed and drained.

        The group is empty if a proof is wanted instead, or if nothing came for `patience` seconds.
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
        """Note that a group is done, so that the next one may go."""
        self._under_way -= len(group)
        self._something.set()

    def hurry(self) -> None:
        """Let the waiting events go now: the group under way may be stuck."""
        self._hurried = True
        self._something.set()

    @property
    def _worthwhile(self) -> bool:
        """Whether a group should go now: not a smaller one than the group under way, since few large ones cost less."""
        return bool(self._waiting) and (len(self._waiting) >= self._under_way or self._hurried or self._closing)

    def end_overdue(self) -> None:
        """Answer the events that waited too long, even if their group is stuck; Aircall sends them again."""
        now = time.monotonic()
        for entry in [each for each in self._unanswered if each.answer_by <= now]:
            entry.end(DatabaseAway())
        self._unanswered = [each for each in self._unanswered if each.wanted]

    def close(self) -> None:
        """Take in no more events; the writers end when the queue is empty."""
        self._closing = True
        self._something.set()


def _settle(future: asyncio.Future[TakenIn], outcome: Outcome) -> None:
    """Hand an outcome to who waits for it, unless its sender hung up."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
