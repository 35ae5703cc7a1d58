"""Runs the readers of this worker: takes, renews and gives back their leases, and tells them that the log grew."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg

from aircall_oauth.deliveries.destinations import registry
from aircall_oauth.deliveries.destinations.outcomes import UNEXPECTED
from aircall_oauth.deliveries.reader import leases, queries
from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.deliveries.reader.memory import Memory
from aircall_oauth.deliveries.reader.reader import Reader
from aircall_oauth.deliveries.reader.tail import Tail
from aircall_oauth.errors import AppError, DatabaseAway
from aircall_oauth.events import notify
from aircall_oauth.events.notify import Notifier, open_notifier
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import reason
from aircall_oauth.storage.commits import Committed
from aircall_oauth.storage.models.deliveries import Subscription
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.telemetry import log

logger = log.get(__name__)

CLAIM_SECONDS = 1.0
# Positions that only moved over unwanted events are written this seldom.
KEEP_SKIPPED_SECONDS = 2.0
TAIL_PAUSE_SECONDS = 0.5
# After many events at once the log's end is read less often, so that each reading brings many again.
BUSY_PAUSE_SECONDS = 0.02
# Longer than the deliveries that a reader has under way may take.
LEFT_TO_OTHERS_SECONDS = 20.0
# The holder stops a little before another worker may take its lease.
LEASE_SECONDS = leases.LENGTH.total_seconds() - 1.0
# Sooner than a lease ends that was renewed before: one more try fits in.
ANSWER_SECONDS = 5.0
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=1)
WELL_SECONDS = 300.0  # after a reader that lasted so long, the pauses begin anew


@asynccontextmanager
async def reading(resources: Resources) -> AsyncIterator[None]:
    """Deliver for every subscription that no other worker reads for, while the block lasts.

    On leaving, deliveries under way are waited for, as long as one may take, and the leases are given back.
    """
    readers = Readers(resources)
    listeners = {leases.CHANGED: readers.changed, leases.SHARE_WANTED: readers.share_wanted}
    async with open_notifier(
        resources.database, told_by=resources.commits, take=readers.take, also=listeners
    ) as notifier:
        tasks = [asyncio.create_task(readers.keep_leases()), asyncio.create_task(readers.pass_on_growth(notifier))]
        try:
            yield
        finally:
            await readers.finish()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await readers.close()


class Readers:
    """The subscriptions this worker reads for."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._connections = Connections(resources.database, resources.data_keys)
        # For leases only: they are renewed and given back on time, however long the readers' statements take.
        self._own_connection = Connections(resources.database, resources.data_keys, most=1)
        self._holder = new_id("wrk")
        # There may be two for a subscription: one that was fenced off may still be ending when the next begins.
        self._readers: set[Reader] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._renew_at = self._keep_at = 0.0
        self._tail, self._memory = Tail(), Memory()
        self._askers: set[str] = set()
        # Subscriptions that were given to other workers, and until when they are left to them.
        self._given: dict[str, float] = {}
        self._failures = Counter[str]()  # of each subscription's readers, one after the other
        self._finishing = False
        self._epoch = ""  # of the log that the readers and the tail have read

    def changed(self, *_notification: Any) -> None:
        """Renew and claim at once: a subscription was made, changed or deleted."""
        self._renew_at = 0.0
        self._woken.set()

    def share_wanted(self, _connection: Any, _pid: int, _channel: str, asker: str) -> None:
        """Take note that another worker has less than its share."""
        if asker != self._holder:
            self._askers.add(asker)
            self._woken.set()

    async def pass_on_growth(self, notifier: Notifier) -> None:
        """Each time the log grew, read its end once for all readers that keep up, and tell every reader."""
        growth, more = notifier.next_growth(), False
        while not notifier.stopped:
            if not more:
                await growth.wait()
                growth = notifier.next_growth()
            try:
                more = await self._follow()
            except Exception as error:
                logger.warning("the log's end not read", error=type(error).__name__)
                self._tail.forget()
                more = False
                await asyncio.sleep(TAIL_PAUSE_SECONDS)
            for reader in list(self._readers):
                reader.log_grew()
            if not more and self._tail.was_busy:
                await asyncio.sleep(BUSY_PAUSE_SECONDS)

    def take(self, committed: Committed) -> bool:
        """Add events that this very process committed to the tail, and tell every reader.

        Returns False if they do not continue it, so that the log's end is to be read.
        """
        if committed.epoch != self._epoch or self._epoch != self._resources.database.epoch:
            return False
        if not self._tail.take(committed.events):
            return False
        for reader in list(self._readers):
            reader.log_grew()
        return True

    async def _follow(self) -> bool:
        """Read new events into the tail, if any reader keeps up with the log; returns whether there are more."""
        if not any(reader.keeps_up for reader in self._readers):
            self._tail.forget()
            return False
        async with self._connections.one() as connection:
            self._notice_epoch()
            return await self._tail.follow(connection, self._resources.data_keys)

    def _notice_epoch(self) -> None:
        """Forget what was read of a log that has another end now; its leases were ended with its epoch."""
        epoch = self._resources.database.epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._tail.forget()
            for reader in self._readers:
                reader.fence_off()

    async def _keep_positions(self, connection: asyncpg.Connection) -> None:
        """Write the positions of readers that only passed over events, in one statement."""
        idle = [(reader, each) for reader in self._readers if (each := reader.idle_checkpoint()) is not None]
        if idle:
            written = await queries.keep_positions(connection, [checkpoint for _, checkpoint in idle])
            for reader, checkpoint in idle:
                if checkpoint.subscription_id in written:
                    reader.checkpoint_written(checkpoint)

    async def keep_leases(self) -> None:
        """Renew the leases held and take free ones, until cancelled."""
        while True:
            self._woken.clear()
            try:
                await self._resources.require_ready()
                await self._renew_and_claim()
            except AppError as error:
                logger.warning("leases not renewed", reason=reason(error))
            await notify.wait_for(self._woken, CLAIM_SECONDS)

    async def finish(self) -> None:
        """Take no more leases, and wait for every reader to end."""
        self._finishing = True
        for reader in self._readers:
            reader.finish()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        await self._connections.close()
        await self._own_connection.close()

    async def _renew_and_claim(self) -> None:
        asked_at = time.monotonic()
        async with self._own_connection.one() as connection, asyncio.timeout(ANSWER_SECONDS):
            self._notice_epoch()
            if asked_at >= self._renew_at:
                self._renew_at = asked_at + leases.RENEW_SECONDS
                await self._renew(connection, asked_at)
                await self._ask_for_share(connection)
            await self._give_shares(connection)
            if asked_at >= self._keep_at:
                self._keep_at = asked_at + KEEP_SKIPPED_SECONDS
                await self._keep_positions(connection)
            if not self._finishing:
                self._given = {given: until for given, until in self._given.items() if until > asked_at}
                claimed_at = time.monotonic()
                for subscription in await leases.claim(connection, self._holder, but=list(self._given)):
                    self._begin(subscription, claimed_at)

    async def _ask_for_share(self, connection: asyncpg.Connection) -> None:
        if not self._finishing and (await leases.shares(connection)).wants_more(self._holder):
            await leases.ask_for_share(connection, self._holder)

    async def _give_shares(self, connection: asyncpg.Connection) -> None:
        """Finish readers for the workers that asked, and leave their subscriptions to others for a while."""
        while self._askers:
            shares, asker = await leases.shares(connection), self._askers.pop()
            staying = [reader for reader in self._readers if not reader.finishing]
            giving = len(self._readers) - len(staying)
            given = staying[: shares.to_give(self._holder, asker, giving=giving)]
            for reader in given:
                reader.finish()
                self._given[reader.subscription.id] = time.monotonic() + LEFT_TO_OTHERS_SECONDS
            if given:
                logger.info("subscriptions given to another worker", count=len(given), worker=asker)

    async def _renew(self, connection: asyncpg.Connection, asked_at: float) -> None:
        readers = list(self._readers)
        if not readers:
            return
        rows = await leases.renew(connection, self._holder, [reader.subscription.id for reader in readers])
        for reader in readers:
            row = rows.get(reader.subscription.id)
            if row is None or row.lease_number != reader.subscription.lease_number:
                reader.fence_off()
            elif not row.active or row.version != reader.subscription.version:
                # Perhaps it begins anew because of an erasure, and the tail may still have what that erased.
                self._tail.forget()
                reader.finish()
            if row is not None:
                reader.lease_renewed(asked_at)

    def _begin(self, subscription: Subscription, claimed_at: float) -> None:
        task = asyncio.create_task(self._read_for(subscription, claimed_at), name=f"reader of {subscription.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_for(self, subscription: Subscription, claimed_at: float) -> None:
        """Run a reader to its end. After a failure its lease is kept for a while, so that the next try comes later."""
        try:
            await self._read(subscription, claimed_at)
        except AppError as error:
            logger.warning("reader put off", subscription_id=subscription.id, reason=reason(error))
            await self._put_off(subscription, error.code(), FIRST_PAUSE)
        except Exception:
            pause = self._pause_after_failure(subscription, claimed_at)
            logger.exception("reader failed", subscription_id=subscription.id, pause_seconds=pause.total_seconds())
            self._resources.metrics.reader_failed()
            await self._put_off(subscription, UNEXPECTED, pause)
        else:
            self._failures.pop(subscription.id, None)
            await self._give_back(subscription)

    async def _read(self, subscription: Subscription, claimed_at: float) -> None:
        destination = await registry.open(self._resources, subscription)
        reader = Reader(
            self._resources.settings,
            self._connections,
            subscription,
            destination,
            tail=self._tail,
            memory=self._memory,
            lease_seconds=LEASE_SECONDS,
            metrics=self._resources.metrics,
        )
        reader.lease_renewed(claimed_at)
        self._readers.add(reader)
        try:
            if self._finishing:
                reader.finish()
            await reader.run()
        finally:
            self._readers.discard(reader)
            await destination.close()

    async def _give_back(self, subscription: Subscription) -> None:
        with contextlib.suppress(DatabaseAway):
            async with self._connections.one() as connection:
                await leases.give_back(connection, subscription.id, subscription.lease_number)
        self._woken.set()

    def _pause_after_failure(self, subscription: Subscription, claimed_at: float) -> timedelta:
        if time.monotonic() - claimed_at > WELL_SECONDS:
            self._failures.pop(subscription.id, None)
        self._failures[subscription.id] += 1
        pause: timedelta = FIRST_PAUSE * 2 ** min(self._failures[subscription.id] - 1, 16)
        return min(pause, LONGEST_PAUSE)

    async def _put_off(self, subscription: Subscription, why: str, pause: timedelta) -> None:
        with contextlib.suppress(DatabaseAway):
            async with self._connections.one() as connection:
                await leases.put_off(connection, subscription.id, subscription.lease_number, why, pause)
