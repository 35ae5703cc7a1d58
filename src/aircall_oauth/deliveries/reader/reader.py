"""Reads the log for one subscription and delivers its events, as long as this worker holds the lease.

One loop reads ahead; deliveries, and writing down what they came to, are tasks beside it. The position moves over
events that were delivered, parked or left out by the filter, in one statement with the log of attempts, and only under
the lease.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator

from aircall_oauth.deliveries.destinations.outcomes import Destination
from aircall_oauth.deliveries.reader import parked, sender
from aircall_oauth.deliveries.reader.breaker import Breaker
from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.deliveries.reader.memory import Memory
from aircall_oauth.deliveries.reader.parked import Wanted
from aircall_oauth.deliveries.reader.progress import PAUSE_SECONDS, FencedOff, Progress
from aircall_oauth.deliveries.reader.queries import Checkpoint
from aircall_oauth.deliveries.reader.queue import Item, Queue, Window
from aircall_oauth.deliveries.reader.read_ahead import BATCHES, BATCHES_BY_SUBJECT, ReadAhead
from aircall_oauth.deliveries.reader.sender import Sender
from aircall_oauth.deliveries.reader.tail import Tail
from aircall_oauth.errors import DatabaseAway
from aircall_oauth.events.query import Filter
from aircall_oauth.settings import Settings
from aircall_oauth.storage.models.deliveries import Subscription
from aircall_oauth.storage.statuses import Health, SubscriptionOrder
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Metrics

logger = log.get(__name__)

LOOK_FOR_DUE_SECONDS = 1.0
COUNT_BLOCKED_SECONDS = 60.0
LONGEST_SLEEP_SECONDS = 60.0
FINISH_SECONDS = 16.0  # a little more than a delivery may take


class Reader:
    """One subscription's reader. `run` ends when it is told to finish, is fenced off, or the destination is gone."""

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
        metrics: Metrics,
    ) -> None:
        at_once = settings.deliveries_at_once
        retried: dict[int, Item] = {}  # parked events in the queue or under way
        self.subscription = subscription
        self._connections = connections
        self._wake = asyncio.Event()
        self._retried = retried
        self._finishing = self._fenced = False
        self._writing: asyncio.Task[None] | None = None
        self._count_at = 0.0
        self._parked_before: set[int] | None = None  # not known yet
        self._lease_seconds = lease_seconds
        self._lease_ends = time.monotonic() + lease_seconds
        self._window = Window(subscription.position)
        self._queue = Queue(subscription.ordering)
        self._breaker = Breaker(
            health=Health(subscription.health),
            quiet_until=subscription.quiet_until,
            probes=subscription.probes,
            at_once=at_once,
            by_installation=subscription.ordering == SubscriptionOrder.INSTALLATION,
        )
        self._read_ahead = ReadAhead(
            self._window,
            Filter.of(subscription),
            connections,
            tail=tail,
            memory=memory,
            at_once=at_once,
            retried=retried,
            batches=BATCHES_BY_SUBJECT if subscription.ordering == SubscriptionOrder.SUBJECT else BATCHES,
        )
        self._progress = Progress(connections, self._checkpoint, self._wake)
        self._sender = Sender(
            subscription,
            destination,
            queue=self._queue,
            breaker=self._breaker,
            read_ahead=self._read_ahead,
            progress=self._progress,
            retried=retried,
            at_once=at_once,
            wake=self._wake,
            must_stop=self._must_stop,
            metrics=metrics,
        )

    async def run(self) -> None:
        """Read and deliver until told otherwise, and write down what was found in the end.

        After an error of its own it still writes down what was delivered, so that it is not sent again, and raises.
        """
        try:
            while not (self._finishing or self._breaker.gone):
                await self._step()
            await self._finish()
        except FencedOff:
            logger.info("reader fenced off", subscription_id=self.subscription.id)
        except Exception:
            await self._rescue()
            raise
        finally:
            await self._cancel_tasks()
            self._read_ahead.release()

    @property
    def keeps_up(self) -> bool:
        """Whether it has read the log to its end, as far as it knows."""
        return self._read_ahead.keeps_up

    def log_grew(self) -> None:
        """Pass over new events that it does not want, if they are known; else wake up and read."""
        try:
            if self._read_ahead.pass_over():
                return
        # It ends this reader, and must not keep the other readers from being told.
        except Exception as error:
            self._sender.broken = error
        self._read_ahead.more = True
        self._wake.set()

    def idle_checkpoint(self) -> Checkpoint | None:
        """Return its checkpoint for `queries.keep_positions`, if it only passed over events since it last wrote."""
        return None if self._finishing else self._progress.unwritten_move()

    def checkpoint_written(self, checkpoint: Checkpoint) -> None:
        """Take note that its checkpoint was written with those of other readers."""
        self._progress.written(checkpoint)

    def lease_renewed(self, at: float) -> None:
        """Extend the lease; `at` is when the renewal was asked for, by the monotonic clock."""
        if time.monotonic() > self._lease_ends:
            self._wake.set()
        self._lease_ends = at + self._lease_seconds

    @property
    def finishing(self) -> bool:
        return self._finishing

    def finish(self) -> None:
        """Begin no more deliveries, wait for those under way, and write down what they found."""
        self._finishing = True
        self._wake.set()

    def fence_off(self) -> None:
        """Stop at once: another worker has the lease, or the subscription is gone."""
        self._fenced = True
        self._wake.set()

    def _must_stop(self) -> bool:
        return self._finishing or self._fenced or time.monotonic() > self._lease_ends

    async def _step(self) -> None:
        self._wake.clear()
        self._check()
        try:
            self._read_ahead.note_memory()
            await self._count_blocked()
            self._sender.set_slow_aside()
            self._queue.join(self._without_parked(await self._read_ahead.read()))
            await self._look_for_due()
            self._sender.judge_overdue()
            self._sender.send_out()
            self._sender.note_health()
            self._write_if_due()
        except DatabaseAway:
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            await self._sleep()

    def _check(self) -> None:
        if self._fenced:
            raise FencedOff
        if self._sender.broken is not None:
            raise self._sender.broken

    async def _count_blocked(self) -> None:
        """Count the parked events of each key while nothing is under way.

        Once before anything goes out, and now and then later, as the log drops parked events too.
        """
        if self._sender.under_way or self._progress.concerns_parked or time.monotonic() < self._count_at:
            return
        async with self._connections.one() as connection:
            if self._parked_before is None:
                self._parked_before = await parked.past(connection, self.subscription)
            blocked = await parked.blocked(connection, self._connections.data_keys, self.subscription)
            self._queue.count_parked(blocked, self._window.position)
        self._count_at = time.monotonic() + COUNT_BLOCKED_SECONDS

    def _without_parked(self, items: Iterable[Item]) -> Iterator[Item]:
        """Leave out events that the reader before this one parked past the position: their rows stay."""
        for item in items:
            if self._parked_before and item.position in self._parked_before:
                self._window.settle(item)
            else:
                yield item

    async def _look_for_due(self) -> None:
        """Read the parked events whose time has come, while the destination is up."""
        if self._breaker.down or time.monotonic() < self._sender.due_look_at:
            return
        # Listed before anything is awaited: one that ends meanwhile still has its row, and must not be found again.
        room = self._sender.retry_room()
        wanted = Wanted(list(self._retried), self._queue.busy(), self._queue.released(room), room)
        may_find = room > 0 and self._queue.has_idle_parked
        if self._progress.concerns_parked:
            self._obey(await self._progress.write())
        self._sender.retry(await self._due(wanted) if may_find else [])
        self._read_ahead.note_memory()
        self._sender.due_look_at = time.monotonic() + LOOK_FOR_DUE_SECONDS

    async def _due(self, wanted: Wanted) -> list[Item]:
        most_bytes = max(self._read_ahead.room(), 1)
        self._read_ahead.note_memory(asked_for=most_bytes)
        read = parked.due_chains if self._queue.ordered else parked.due
        async with self._connections.one() as connection:
            return await read(connection, self._connections.data_keys, self.subscription, wanted, most_bytes=most_bytes)

    def _write_if_due(self) -> None:
        """Write down what was found, beside the loop: an event that comes meanwhile does not wait for the disk."""
        if self._writing is None and self._progress.is_due:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            self._obey(await self._progress.write())
        except FencedOff:
            self._fenced = True
        except DatabaseAway:
            pass  # what was found is kept, and due again after a pause
        # The task is not awaited: `run` raises its error.
        except Exception as error:
            self._sender.broken = error
        finally:
            self._writing = None
            self._wake.set()

    def _obey(self, row: tuple[int, bool] | None) -> None:
        """Finish if the subscription was changed or is no longer active."""
        if row is not None and row != (self.subscription.version, True):
            self.finish()

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            subscription_id=self.subscription.id,
            lease_number=self.subscription.lease_number,
            version=self.subscription.version,
            position=self._window.position,
            health=self._breaker.health,
            quiet_until=self._breaker.quiet_until,
            probes=self._breaker.probes,
            gone=self._breaker.gone,
        )

    async def _sleep(self) -> None:
        """Sleep until there is something to do."""
        clock = time.monotonic()
        under_way = bool(self._sender.under_way)
        seconds = [LONGEST_SLEEP_SECONDS, self._breaker.seconds_to_judgement(under_way=under_way)]
        # Also if the destination's pause has just ended: nothing went out because of it.
        if self._sender.was_quiet:
            seconds.append(self._breaker.quiet_seconds())
        if self._progress.due_at is not None and self._writing is None:
            seconds.append(self._progress.due_at - clock)
        if self._queue.has_parked and not self._breaker.down:
            seconds.append(self._sender.due_look_at - clock)
        if self._read_ahead.more:
            seconds.append(0.0 if self._read_ahead.may_read() else sender.SLOW_SECONDS / 2)
        await self._sleep_until_woken(min(seconds))

    async def _sleep_until_woken(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()

    async def _finish(self) -> None:
        """Wait for the deliveries under way, as long as one may take, and write down what they found."""
        ends = time.monotonic() + FINISH_SECONDS
        while self._sender.under_way and (left := ends - time.monotonic()) > 0:
            self._wake.clear()
            self._check()
            await self._sleep_until_woken(left)
        self._check()
        self._obey(await self._progress.write())

    async def _rescue(self) -> None:
        """Wait for the deliveries under way and write down what they found, although the reader is broken."""
        self._finishing = True
        if self._sender.under_way:
            await asyncio.wait(self._sender.under_way, timeout=FINISH_SECONDS)
        with contextlib.suppress(DatabaseAway, FencedOff):
            await self._progress.write()

    async def _cancel_tasks(self) -> None:
        # However it came to its end: nothing goes out in place of what is cancelled, past which it would be.
        self._finishing = True
        tasks = [*self._sender.under_way, *([] if self._writing is None else [self._writing])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
