"""Sends one subscription's events to its destination: which one goes out next, and what follows from each outcome.

Deliveries are tasks. None of them touches the database: what they find is collected in `Progress`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial

from aircall_oauth.deliveries.destinations.outcomes import (
    Delivered,
    Destination,
    Gone,
    Outcome,
    TryAgain,
    attempt,
    raised_at,
    word,
)
from aircall_oauth.deliveries.reader import retries
from aircall_oauth.deliveries.reader.breaker import RUN, Breaker
from aircall_oauth.deliveries.reader.progress import Progress
from aircall_oauth.deliveries.reader.queries import Attempt, ParkedEvent
from aircall_oauth.deliveries.reader.queue import Item, Queue
from aircall_oauth.deliveries.reader.read_ahead import ReadAhead
from aircall_oauth.storage.models.deliveries import Subscription
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import Health, SubscriptionOrder
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Metrics

logger = log.get(__name__)

DUE_AGAIN_SECONDS = 0.05
SLOW_SECONDS = 1.0


class Sender:
    """The deliveries of one reader, at most `at_once` at a time."""

    def __init__(
        self,
        subscription: Subscription,
        destination: Destination,
        *,
        queue: Queue,
        breaker: Breaker,
        read_ahead: ReadAhead,
        progress: Progress,
        retried: dict[int, Item],
        at_once: int,
        wake: asyncio.Event,
        must_stop: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        self.under_way: set[asyncio.Task[None]] = set()
        self.broken: BaseException | None = None  # an error of ours, by which the reader ends
        self.was_quiet = False  # nothing went out the last time because of the destination's pause
        self.due_look_at = 0.0  # when to look for parked events that are due, by the monotonic clock
        self._subscription = subscription
        self._destination = destination
        self._queue, self._breaker = queue, breaker
        self._read_ahead, self._window = read_ahead, read_ahead.window
        self._progress = progress
        self._retried = retried
        self._at_once = at_once
        self._wake = wake
        self._must_stop = must_stop
        self._metrics = metrics
        self._by_subject = subscription.ordering == SubscriptionOrder.SUBJECT
        self._stuck_since: float | None = None
        self._health = breaker.health
        self._last_error = subscription.last_error
        self._unexpected: set[type[BaseException]] = set()  # kinds of errors that were logged

    def send_out(self) -> None:
        """Begin as many deliveries as may be under way."""
        self.was_quiet = self._breaker.is_quiet()
        if self._breaker.down:
            if not self._is_stopping():
                self._send_probe()
        else:
            while self._may_send(1) and (item := self._next(self._queue.take)) is not None:
                self._send(item, probe=False)

    def judge_overdue(self) -> None:
        """Judge the suspects that no other delivery was compared with in time."""
        to_blame, held = self._breaker.judge_overdue(under_way=bool(self.under_way))
        for suspect in to_blame:
            self._park(suspect.item, suspect.outcome)
        self._hold(held)

    def set_slow_aside(self) -> None:
        """Park the few deliveries that are slow to end, so that reading goes on; they stay under way."""
        if not self._read_ahead.more or self._read_ahead.may_read():
            self._stuck_since = None
            return
        clock = time.monotonic()
        stuck = self._is_stuck(clock)
        for item in self._window.slow(clock if stuck else clock - SLOW_SECONDS, stuck=stuck):
            self._progress.add_parked(ParkedEvent(item, 0, retries.SLOW, now() + retries.SLOW_TAKES, None))
            item.parked = True
            self._retried[item.position] = item
            self._queue.block(item)
            self._leave_behind(self._queue.pass_by(item))
            self._pass(item)
            self._progress.write_within(0)

    def _is_stuck(self, clock: float) -> bool:
        """Whether all that was read has been waiting for the few under way for a while: many events of a few subjects.

        With the order of installations they keep waiting: there may be one installation only, and nothing to go on to.
        """
        waits = self._by_subject and not len(self._queue) and len(self.under_way) < self._breaker.limit
        self._stuck_since = (self._stuck_since or clock) if waits else None
        return self._stuck_since is not None and clock - self._stuck_since >= SLOW_SECONDS

    def retry_room(self) -> int:
        """How many more parked events may be tried: half of `at_once` in all; with order, those of a key are one."""
        keys = {self._queue.key(item) if self._queue.ordered else item for item in self._retried.values()}
        return max(self._at_once // 2, 1) - len(keys)

    def retry(self, items: Iterable[Item]) -> None:
        """Try parked events that are due, unless the destination is down by now."""
        if not self._breaker.down:
            items = list(items)
            self._retried.update((item.position, item) for item in items)
            self._queue.join_parked(items)

    def note_health(self) -> None:
        """Log once that the destination is down, and once that it is up again; have it written to the row too."""
        health = self._breaker.health
        if health == self._health:
            return
        self._health = health
        self._progress.write_soon()
        if health == Health.DOWN:
            logger.warning("destination down", subscription_id=self._subscription.id, reason=self._last_error)
        else:
            logger.info("destination up again", subscription_id=self._subscription.id)

    def _may_send(self, more: int) -> bool:
        """Whether so many more deliveries may be under way."""
        room = len(self.under_way) + more <= self._breaker.limit
        return room and not (self._is_stopping() or self._breaker.down or self._breaker.is_quiet())

    def _is_stopping(self) -> bool:
        return self._breaker.gone or self._must_stop()

    def _send_probe(self) -> None:
        if self.under_way:
            return
        if not self._breaker.is_quiet():
            if not (len(self._window) or self._read_ahead.more):
                self._breaker.come_up()
            elif (item := self._next(partial(self._queue.take_for_probe, self._breaker.turn(), RUN))) is not None:
                self._send(item, probe=True)
        elif self._breaker.may_try_another() and (item := self._next(self._queue.take_untried)) is not None:
            self._breaker.doubt_less()
            self._send(item, probe=False)

    def _next(self, take: Callable[[], Item | None]) -> Item | None:
        """Return the event that goes out next. Every delivery gets its event here, whatever rule it is taken by.

        Events that come behind a parked one are parked on the way.
        """
        while (item := take()) is not None and self._queue.is_behind(item):
            self._put_behind(item)
        return item

    def _send(self, item: Item, *, probe: bool) -> None:
        task = asyncio.create_task(self._deliver(item, probe=probe))
        self.under_way.add(task)
        task.add_done_callback(self._ended)

    async def _deliver(self, item: Item | None, *, probe: bool) -> None:
        """Deliver an event, and then the next one, as long as there is one and it may go."""
        while item is not None:
            item.tried, item.out_since = True, time.monotonic()
            await self._deliver_one(item, self._breaker.begin(), probe=probe)
            self._progress.write_soon(len(self._progress.findings.attempts))
            item = None if probe or not self._may_send(0) else self._next(self._queue.take)

    async def _deliver_one(self, item: Item, number: int, *, probe: bool) -> None:
        at, started = now(), time.perf_counter()
        outcome = await attempt(self._destination, item.message, self._note_unexpected)
        item.out_since = None
        milliseconds = round((time.perf_counter() - started) * 1000)
        in_one_word = word(outcome)
        self._progress.add_attempt(Attempt(item.message.event_id, item.position, at, in_one_word, milliseconds))
        self._count(outcome, in_one_word, item)
        self._take_note(item, outcome, number, probe=probe)

    def _count(self, outcome: Outcome, in_one_word: str, item: Item) -> None:
        self._metrics.attempted(in_one_word)
        if isinstance(outcome, Delivered):
            self._metrics.delivered(self._subscription.id, (now() - item.received_at).total_seconds())
        else:
            self._metrics.figures.failed(self._subscription.id)

    def _pass(self, item: Item) -> None:
        """Let the position move over an event that is delivered or parked."""
        self._metrics.figures.matched(self._subscription.id)
        self._window.settle(item)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)
        try:
            if not task.cancelled():
                task.result()
            self.send_out()
        # The task is not awaited: the reader's `run` raises its error.
        except Exception as error:
            self.broken = error
        if self.broken or self._breaker.down or not self.under_way:
            self._wake.set()

    def _take_note(self, item: Item, outcome: Outcome, number: int, *, probe: bool) -> None:
        match outcome:
            case Delivered():
                self._settle(item)
                for suspect in self._breaker.succeeded(item, number):
                    if not suspect.item.settled:
                        self._queue.drop(suspect.item)
                        self._park(suspect.item, suspect.outcome)
            case TryAgain():
                self._note_error(outcome.reason)
                if item.parked:
                    self._breaker.obey(outcome)
                    self._park(item, outcome)
                else:
                    self._hold(self._breaker.failed(item, outcome, probe=probe))
            case Gone():
                self._note_error(outcome.reason)
                if not self._breaker.gone:
                    logger.warning(
                        "destination wants no more", subscription_id=self._subscription.id, reason=outcome.reason
                    )
                self._breaker.gone = True
                self._wake.set()

    def _settle(self, item: Item) -> None:
        if item.parked:
            self._progress.add_delivered(item.position)
            self._retried.pop(item.position, None)
            self._queue.unblock(item)
        else:
            self._pass(item)
            if self._read_ahead.may_read():
                self._wake.set()
        self._queue.done(item)
        if item.parked and not (self._queue.is_busy(item) if self._queue.ordered else self._retried):
            self.due_look_at = min(self.due_look_at, time.monotonic() + DUE_AGAIN_SECONDS)

    def _park(self, item: Item, outcome: TryAgain) -> None:
        """Park an event, to be tried again by schedule; or give it up if its schedule is over."""
        at, attempts = now(), item.attempts + 1
        due_at = retries.due_at(attempts, at, pause_seconds=outcome.pause_seconds)
        dead_at = at if due_at is None else None
        self._progress.add_parked(ParkedEvent(item, attempts, outcome.reason, due_at, dead_at))
        if item.parked:
            self._retried.pop(item.position, None)
            self._queue.has_due_time(item)
        else:
            self._queue.block(item)
            self._pass(item)
        if dead_at is None:
            self._leave_behind(self._queue.withdraw(item))
        else:
            self._queue.unblock(item)
            self._queue.done(item)
        self._progress.write_soon()

    def _leave_behind(self, items: Iterable[Item]) -> None:
        """Park events that waited for one that is parked now; those that are parked already wait in their rows."""
        for item in items:
            if item.parked:
                self._retried.pop(item.position, None)
            else:
                self._put_behind(item)

    def _put_behind(self, item: Item) -> None:
        """Park an event untried, behind an earlier one with its key."""
        self._progress.add_parked(ParkedEvent(item, 0, retries.BEHIND, None, None))
        self._queue.block(item)
        self._leave_behind(self._queue.withdraw(item))
        self._pass(item)
        self._progress.write_soon(len(self._progress.findings.parked))

    def _hold(self, items: list[Item]) -> None:
        """Put failed events back into the queue while the destination is down; parked events wait in their rows."""
        if items:
            self._queue.hold(items)
            for position in [position for position, item in self._retried.items() if not item.tried]:
                del self._retried[position]
            self._progress.write_soon()

    def _note_unexpected(self, error: BaseException) -> None:
        """Log an error that the destination should have turned into an outcome, once for each kind of error."""
        if type(error) not in self._unexpected:
            self._unexpected.add(type(error))
            logger.error(
                "delivery failed unexpectedly",
                subscription_id=self._subscription.id,
                error=type(error).__name__,
                at=raised_at(error),
            )

    def _note_error(self, reason: str) -> None:
        self._last_error = self._progress.findings.last_error = reason
        self._progress.findings.last_error_at = now()
