"""Reads the log for one subscription and delivers it, as long as this worker holds its lease.

One loop reads ahead and writes down; the deliveries are tasks beside it, and none of them touches the database. The
position moves over what was delivered, parked or left out by the filter, in one statement with the log of attempts,
and only while the lease is ours.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice

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
from aircall_oauth.deliveries.reader import queries, retries
from aircall_oauth.deliveries.reader.breaker import RUN, Condition
from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.deliveries.reader.memory import Memory
from aircall_oauth.deliveries.reader.queries import Beside, Findings, Place, Tried
from aircall_oauth.deliveries.reader.queue import Item, Line, Window
from aircall_oauth.deliveries.reader.tail import Tail
from aircall_oauth.errors import DatabaseAway
from aircall_oauth.events.query import Filter
from aircall_oauth.settings import Settings
from aircall_oauth.storage.models.base import now
from aircall_oauth.storage.models.deliveries import Health, Subscription, SubscriptionOrder
from aircall_oauth.telemetry import log

logger = log.get(__name__)

KEEP_SECONDS = 0.25
KEEP_AT = 256
LOOK_FOR_DUE_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 0.05
COUNT_BLOCKED_SECONDS = 60.0
PAUSE_SECONDS = 0.5
LONGEST_SLEEP_SECONDS = 60.0
SLOW_SECONDS = 1.0
FINISH_SECONDS = 16.0  # a little more than a delivery may take
# Read ahead, in deliveries at once and in bytes.
BATCH = 4
LEAST_BATCH = 32
BATCHES = 2
MOST_BYTES = 4 * 1024 * 1024


class FencedOff(Exception):
    """Somebody else reads for this subscription now, or it is gone."""


class Reader:
    """One subscription's reader. `run` ends when it was told to finish, was fenced off, or the destination is gone."""

    def __init__(
        self,
        settings: Settings,
        connections: Connections,
        subscription: Subscription,
        destination: Destination,
        *,
        tail: Tail,
        memory: Memory,
        lease_seconds: float,
        attempted: Callable[[str], None],
    ) -> None:
        self.subscription = subscription
        self._connections = connections
        self._tail, self._memory = tail, memory
        self._attempted = attempted
        self._destination = destination
        self._at_once = settings.deliveries_at_once
        self._batch = max(BATCH * self._at_once, LEAST_BATCH)
        self._filter = Filter(subscription.types, subscription.owners, subscription.installations)
        self._ordered = subscription.ordering == SubscriptionOrder.INSTALLATION
        self._window = Window(subscription.position)
        self._line = Line(ordered=self._ordered)
        self._condition = Condition(
            health=Health(subscription.health),
            quiet_until=subscription.quiet_until,
            probes=subscription.probes,
            at_once=self._at_once,
            ordered=self._ordered,
        )
        self._health = self._condition.health
        self._last_error = subscription.last_error
        self._findings = Findings()
        self._out: set[asyncio.Task[None]] = set()
        self._retried: dict[int, Item] = {}  # parked events in the line or under way
        self._wake = asyncio.Event()
        self._more = True
        self._reading = self._keeping = self._was_quiet = False
        self._finishing = self._fenced = self._gone = False
        self._broken: BaseException | None = None
        self._unexpected: set[type[BaseException]] = set()  # kinds of errors that were logged
        self._keep_at: float | None = None
        self._look_at = self._count_at = 0.0
        self._lease_seconds = lease_seconds
        self._lease_ends = time.monotonic() + lease_seconds
        self._kept = self._place()
        self._note_memory()

    async def run(self) -> None:
        """Read and deliver until told otherwise; everything that came of it is kept in the end.

        An error of its own ends it, once what was delivered is written down: what was taken is not sent again.
        """
        try:
            while not (self._finishing or self._gone):
                await self._step()
            await self._finish()
        except FencedOff:
            logger.info("reader fenced off", subscription_id=self.subscription.id)
        except Exception:
            await self._rescue()
            raise
        finally:
            await self._let_go()

    @property
    def keeps_up(self) -> bool:
        """Whether it has read the log to its end, as far as it knows."""
        return not (self._more or self._reading)

    def log_grew(self) -> None:
        """Pass over what it does not want, where that is known; and look, where there is more."""
        try:
            if self._passes_over():
                return
        # It is this reader's, and must not keep the others from being told.
        except Exception as error:
            self._broken = error
        self._more = True
        self._wake.set()

    def _passes_over(self) -> bool:
        """Move on to the end of the log, if nothing up to there is wanted; else to what is."""
        if not (self.keeps_up and self._tail.covers(self._window.read_to)):
            return False
        self._window.add((), self._tail.unwanted_to(self._filter, self._window.read_to))
        return self._window.read_to == self._tail.head

    def idle_place(self) -> Place | None:
        """Where it stands, if it only passed over events since that was kept: for `statements.keep_positions`."""
        place = self._place()
        only_moved = place != self._kept and replace(self._kept, position=place.position) == place
        busy = self._keeping or self._finishing or self._keep_at is not None
        return place if only_moved and not busy else None

    def kept(self, place: Place) -> None:
        """That place was kept."""
        if place.position > self._kept.position:
            self._kept = place

    def lease_renewed(self, at: float) -> None:
        """`at` is when it was asked for, by the monotonic clock."""
        if time.monotonic() > self._lease_ends:
            self._wake.set()
        self._lease_ends = at + self._lease_seconds

    @property
    def finishing(self) -> bool:
        return self._finishing

    def finish(self) -> None:
        """Let nothing more out, wait for what is, and keep what came of it."""
        self._finishing = True
        self._wake.set()

    def fence_off(self) -> None:
        """The lease is somebody else's, or the subscription is gone: stop at once."""
        self._fenced = True
        self._wake.set()

    async def _step(self) -> None:
        self._wake.clear()
        self._check()
        try:
            self._note_memory()
            await self._count_blocked()
            self._set_slow_aside()
            await self._read()
            await self._look_for_due()
            self._judge()
            self._send_out()
            self._note_health()
            await self._keep_if_due()
        except DatabaseAway:
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            await self._sleep()

    def _check(self) -> None:
        if self._fenced:
            raise FencedOff
        if self._broken is not None:
            raise self._broken

    async def _count_blocked(self) -> None:
        """Before anything goes out; and now and then where nothing is, as the log drops events that are parked."""
        if self._out or self._findings.delivered or self._findings.beside or time.monotonic() < self._count_at:
            return
        async with self._connections.one() as connection:
            self._line.blocked = dict(await queries.blocked(connection, self.subscription.id))
        self._count_at = time.monotonic() + COUNT_BLOCKED_SECONDS

    async def _read(self) -> None:
        """The next batch, where there is room and may be more."""
        if not self._may_read():
            return
        self._more, self._reading = False, True
        try:
            items, read_to, more = await self._next_events()
        except BaseException:
            self._more = True
            raise
        finally:
            self._reading = False
            self._note_memory()
        self._more |= more
        self._window.add(items, read_to)
        self._note_memory()
        self._line.join(items)

    async def _next_events(self) -> tuple[list[Item], int, bool]:
        after = self._window.read_to
        room = max(self._room(), 1)
        if self._tail.covers(after):
            return self._tail.read(self._filter, after, limit=self._batch, most_bytes=room)
        self._note_memory(asked_for=room)
        async with self._connections.one() as connection:
            return await queries.read(connection, self._filter, after, limit=self._batch, most_bytes=room)

    def _set_slow_aside(self) -> None:
        """A few that are slow to end must not stop everything behind them: they get their rows while under way."""
        if not self._more or self._may_read():
            return
        for item in self._window.slow(time.monotonic() - SLOW_SECONDS):
            self._findings.beside[item.position] = Beside(item, 0, retries.SLOW, now() + retries.SLOW_TAKES, None)
            item.parked = True
            self._retried[item.position] = item
            self._line.block(item.order_key)
            self._leave_behind(self._line.pass_by(item))
            self._window.settle(item)
            self._keep_within(0)

    def _may_read(self) -> bool:
        few = len(self._window) <= (BATCHES - 1) * self._batch
        return self._more and few and (self._room() > 0 or not len(self._window))

    def _room(self) -> int:
        """How many bytes of events more it may hold."""
        return min(MOST_BYTES - self._window.bytes, self._memory.room(self))

    def _note_memory(self, *, asked_for: int = 0) -> None:
        """Tell the shared budget what is held, and what may come while others look for room too."""
        held = self._window.bytes + sum(item.bytes for item in self._retried.values())
        self._memory.note(self, held + asked_for)

    async def _look_for_due(self) -> None:
        """Parked events whose time has come, while the destination is up."""
        if self._condition.down or time.monotonic() < self._look_at:
            return
        # Known before anything is waited for: what ends meanwhile still has its row, and must not be found once more.
        under_way = list(self._retried)
        room = max(self._at_once // 2, 1) - len({self._chain_of(item) for item in self._retried.values()})
        idle = list(islice((each for each in self._line.blocked if not self._line.is_busy(each)), max(room, 0)))
        if self._findings.delivered or self._findings.beside:
            await self._keep()
        most_bytes = max(self._room(), 1)
        self._note_memory(asked_for=most_bytes if idle else 0)
        async with self._connections.one() as connection:
            if not idle:
                items = []
            elif self._ordered:
                items = await queries.due_chains(connection, self.subscription.id, idle, most_bytes=most_bytes)
            else:
                items = await queries.due(
                    connection, self.subscription.id, but=under_way, limit=room, most_bytes=most_bytes
                )
        if not self._condition.down:  # as it may be by now
            self._retried |= {item.position: item for item in items}
            self._line.join_parked(items)
        self._note_memory()
        self._look_at = time.monotonic() + LOOK_FOR_DUE_SECONDS

    def _chain_of(self, item: Item) -> object:
        """At most half of the deliveries at once are for parked events, and an order key's chain counts as one."""
        return item.order_key if self._ordered else item

    def _judge(self) -> None:
        to_blame, held = self._condition.judge_overdue(under_way=bool(self._out))
        for suspect in to_blame:
            self._park(suspect.item, suspect.outcome)
        self._hold(held)

    def _send_out(self) -> None:
        """Begin as many deliveries as may be under way."""
        self._was_quiet = self._condition.quiet()
        if self._condition.down:
            if not self._is_stopping():
                self._send_probe()
        else:
            while self._may_send(1) and (item := self._next(self._line.take)) is not None:
                self._send(item, probe=False)

    def _may_send(self, more: int) -> bool:
        """Whether so many more deliveries may be under way."""
        room = len(self._out) + more <= self._condition.lanes
        return room and not (self._is_stopping() or self._condition.down or self._condition.quiet())

    def _is_stopping(self) -> bool:
        return self._finishing or self._fenced or self._gone or time.monotonic() > self._lease_ends

    def _send_probe(self) -> None:
        if self._out:
            return
        if not self._condition.quiet():
            if not (len(self._window) or self._more):
                self._condition.come_up()
            elif (item := self._next(partial(self._line.take_for_probe, self._condition.turn(), RUN))) is not None:
                self._send(item, probe=True)
        elif self._condition.may_try_another() and (item := self._next(self._line.take_untried)) is not None:
            self._condition.doubt_less()
            self._send(item, probe=False)

    def _next(self, take: Callable[[], Item | None]) -> Item | None:
        """The event that goes out next, by whichever rule it is taken: nothing goes out any other way.

        Those behind a parked one are parked on the way.
        """
        while (item := take()) is not None and self._line.is_behind(item):
            self._put_behind(item)
        return item

    def _send(self, item: Item, *, probe: bool) -> None:
        task = asyncio.create_task(self._deliver(item, probe=probe))
        self._out.add(task)
        task.add_done_callback(self._ended)

    async def _deliver(self, item: Item | None, *, probe: bool) -> None:
        """Hand an event over, and then the next one, as long as there is one and it may go."""
        while item is not None:
            item.tried, item.out_since = True, time.monotonic()
            await self._deliver_one(item, self._condition.begin(), probe=probe)
            self._keep_within(KEEP_SECONDS if len(self._findings.tried) < KEEP_AT else 0)
            item = None if probe or not self._may_send(0) else self._next(self._line.take)

    async def _deliver_one(self, item: Item, number: int, *, probe: bool) -> None:
        at, started = now(), time.perf_counter()
        outcome = await attempt(self._destination, item.message, self._note_unexpected)
        item.out_since = None
        milliseconds = round((time.perf_counter() - started) * 1000)
        in_one_word = word(outcome)
        self._findings.tried.append(Tried(item.message.event_id, item.position, at, in_one_word, milliseconds))
        self._attempted(in_one_word)
        self._take_note(item, outcome, number, probe=probe)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._out.discard(task)
        try:
            if not task.cancelled():
                task.result()
            self._send_out()
        # Nothing awaits the task: `run` ends by it.
        except Exception as error:
            self._broken = error
        if self._broken or self._condition.down or not self._out:
            self._wake.set()

    def _take_note(self, item: Item, outcome: Outcome, number: int, *, probe: bool) -> None:
        match outcome:
            case Delivered():
                self._settle(item)
                for suspect in self._condition.succeeded(item, number):
                    if not suspect.item.settled:
                        self._line.drop(suspect.item)
                        self._park(suspect.item, suspect.outcome)
            case TryAgain():
                self._note_error(outcome.reason)
                if item.parked:
                    self._condition.obey(outcome)
                    self._park(item, outcome)
                else:
                    self._hold(self._condition.failed(item, outcome, probe=probe))
            case Gone():
                self._note_error(outcome.reason)
                if not self._gone:
                    logger.warning(
                        "destination wants no more", subscription_id=self.subscription.id, reason=outcome.reason
                    )
                self._gone = True
                self._wake.set()

    def _settle(self, item: Item) -> None:
        if item.parked:
            self._findings.delivered.append(item.position)
            self._findings.beside.pop(item.position, None)
            self._retried.pop(item.position, None)
            self._line.unblock(item.order_key)
        else:
            self._window.settle(item)
            if self._may_read():
                self._wake.set()
        self._line.done(item)
        if item.parked and not (self._line.is_busy(item.order_key) if self._ordered else self._retried):
            self._look_at = min(self._look_at, time.monotonic() + LOOK_AGAIN_SECONDS)

    def _park(self, item: Item, outcome: TryAgain) -> None:
        """Put an event beside the log, to be tried again by schedule; or give it up where the schedule is over."""
        at, attempts = now(), item.attempts + 1
        due_at = retries.due_at(attempts, at, pause_seconds=outcome.pause_seconds)
        dead_at = at if due_at is None else None
        self._findings.beside[item.position] = Beside(item, attempts, outcome.reason, due_at, dead_at)
        if item.parked:
            self._retried.pop(item.position, None)
        else:
            self._line.block(item.order_key)
            self._window.settle(item)
        if dead_at is None:
            self._leave_behind(self._line.withdraw(item))
        else:
            self._line.unblock(item.order_key)
            self._line.done(item)
        self._keep_within(KEEP_SECONDS)

    def _leave_behind(self, items: Iterable[Item]) -> None:
        for item in items:
            if item.parked:
                self._retried.pop(item.position, None)
            else:
                self._put_behind(item)

    def _put_behind(self, item: Item) -> None:
        self._findings.beside[item.position] = Beside(item, 0, retries.BEHIND, None, None)
        self._line.block(item.order_key)
        self._leave_behind(self._line.withdraw(item))
        self._window.settle(item)
        self._keep_within(KEEP_SECONDS if len(self._findings.beside) < KEEP_AT else 0)

    def _hold(self, items: list[Item]) -> None:
        """The destination is down: what failed goes back into the line, and parked events wait where they are."""
        if items:
            self._line.hold(items)
            under_way = {position for position, item in self._retried.items() if item.tried}
            self._retried = {position: self._retried[position] for position in under_way}
            self._keep_within(KEEP_SECONDS)

    def _note_unexpected(self, error: BaseException) -> None:
        """A destination raised what it should have turned into an outcome: each kind of error is logged once."""
        if type(error) not in self._unexpected:
            self._unexpected.add(type(error))
            logger.error(
                "delivery failed unexpectedly",
                subscription_id=self.subscription.id,
                error=type(error).__name__,
                at=raised_at(error),
            )

    def _note_error(self, reason: str) -> None:
        self._last_error = self._findings.last_error = reason
        self._findings.last_error_at = now()

    def _keep_within(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        if self._keep_at is None or at < self._keep_at:
            self._keep_at = at
            self._wake.set()

    def _note_health(self) -> None:
        """Say once that the destination is down, and once that it is back; the row says it too."""
        health = self._condition.health
        if health == self._health:
            return
        self._health = health
        self._keep_within(KEEP_SECONDS)
        if health == Health.DOWN:
            logger.warning("destination down", subscription_id=self.subscription.id, reason=self._last_error)
        else:
            logger.info("destination up again", subscription_id=self.subscription.id)

    async def _keep_if_due(self) -> None:
        if self._keep_at is not None and self._keep_at <= time.monotonic():
            await self._keep()

    async def _keep(self) -> None:
        """Write down how far it is and what came of the deliveries, in one statement."""
        findings, place = self._findings, self._place()
        self._findings, self._keep_at, self._keeping = Findings(), None, True
        try:
            async with self._connections.one() as connection:
                stands = await queries.keep(connection, place, findings)
        except BaseException:
            self._findings = self._findings.after(findings)
            self._keep_within(PAUSE_SECONDS)
            raise
        finally:
            self._keeping = False
        if stands is None:
            raise FencedOff
        self._kept = place
        version, active = stands
        if version != self.subscription.version or not active:
            self.finish()

    def _place(self) -> Place:
        return Place(
            subscription_id=self.subscription.id,
            lease_number=self.subscription.lease_number,
            version=self.subscription.version,
            position=self._window.position,
            health=self._condition.health,
            quiet_until=self._condition.quiet_until,
            probes=self._condition.probes,
            gone=self._gone,
        )

    async def _sleep(self) -> None:
        """Until there is something to do."""
        clock = time.monotonic()
        seconds = [LONGEST_SLEEP_SECONDS, self._condition.seconds_to_judgement(under_way=bool(self._out))]
        # Also where the pause has just ended: nothing went out because of it.
        if self._was_quiet:
            seconds.append(self._condition.quiet_seconds())
        if self._keep_at is not None:
            seconds.append(self._keep_at - clock)
        if self._line.blocked and not self._condition.down:
            seconds.append(self._look_at - clock)
        if self._more:
            seconds.append(0.0 if self._may_read() else SLOW_SECONDS / 2)
        await self._woken_within(min(seconds))

    async def _woken_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()

    async def _finish(self) -> None:
        """Wait for what is out, as long as a delivery may take, and keep what came of it."""
        ends = time.monotonic() + FINISH_SECONDS
        while self._out and (left := ends - time.monotonic()) > 0:
            self._wake.clear()
            self._check()
            await self._woken_within(left)
        self._check()
        await self._keep()

    async def _rescue(self) -> None:
        """Wait for what is out, and keep what came of it, although the reader is broken."""
        self._finishing = True
        if self._out:
            await asyncio.wait(self._out, timeout=FINISH_SECONDS)
        with contextlib.suppress(DatabaseAway, FencedOff):
            await self._keep()

    async def _let_go(self) -> None:
        for task in self._out:
            task.cancel()
        await asyncio.gather(*self._out, return_exceptions=True)
