"""Carry replays out: in a worker, beside the live readers, a few deliveries at a time and so many a second.

A replay's position moves over a batch once each of its events was delivered or has failed, so one that is taken over
after a crash delivers the events of one batch once more at most.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import msgspec

from aircall_oauth.deliveries.destinations import registry
from aircall_oauth.deliveries.destinations.outcomes import (
    Delivered,
    Destination,
    Gone,
    Message,
    Outcome,
    TryAgain,
    attempt,
    raised_at,
    word,
)
from aircall_oauth.deliveries.reader.queries import Attempt
from aircall_oauth.deliveries.reader.queue import OrderKey, order_key
from aircall_oauth.deliveries.replays import queries
from aircall_oauth.deliveries.replays.queries import Progress
from aircall_oauth.errors import AppError, DatabaseAway
from aircall_oauth.events.query import EventJson
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import database_errors, reason
from aircall_oauth.storage.models.deliveries import Replay, Subscription
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import Health, ReplayStatus, SubscriptionOrder, SubscriptionStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

CLAIM_SECONDS = 1.0
KEEP_SECONDS = 2.0
WAIT_SECONDS = 1.0
MOST_REPLAYS = 4  # of one worker at a time
AT_ONCE = 8
# Between the tries of one event; then the last one again and again.
PAUSES_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
# An event is given up on after so many tries if another one was delivered meanwhile: so it is not the destination.
TRIES = 8
# And after so long in any case.
GIVE_UP_SECONDS = 24 * 3600.0


class Ended(Exception):
    """The replay was stopped, deleted or taken over."""


class Refused(Exception):
    """The destination wants no more; the reason is in one word."""


@asynccontextmanager
async def replaying(resources: Resources) -> AsyncIterator[None]:
    """Carry out replays while the block lasts. On leaving it, what is under way is given back to other workers."""
    task = asyncio.create_task(_claim_and_run(resources), name="replays")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _claim_and_run(resources: Resources) -> None:
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            if len(running) < MOST_REPLAYS and (replay := await _claim(resources)) is not None:
                task = asyncio.create_task(_run(resources, replay), name=f"replay {replay.id}")
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                await asyncio.sleep(CLAIM_SECONDS)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _claim(resources: Resources) -> Replay | None:
    try:
        await resources.require_ready()
        async with resources.database.driver_connection() as connection:
            with database_errors():
                return await queries.claim(connection)
    except AppError as error:
        logger.warning("replays not claimed", reason=reason(error))
        return None


async def _run(resources: Resources, replay: Replay) -> None:
    """Carry one replay out. What fails unexpectedly is tried again once the lease is over."""
    job = Job(resources, replay)
    try:
        await job.run()
    except Ended:
        logger.info("replay ended elsewhere", replay_id=replay.id)
    except AppError as error:
        logger.warning("replay put off", replay_id=replay.id, reason=reason(error))
    except asyncio.CancelledError:
        with suppress(AppError):
            await job.give_back()
        raise
    except Exception:
        logger.exception("replay failed", replay_id=replay.id)


class Job:
    """One replay under way."""

    def __init__(self, resources: Resources, replay: Replay) -> None:
        self._resources = resources
        self._replay = replay
        self._progress = Progress()
        self._destination: Destination | None = None
        self._version: int | None = None
        self._pace = Pace(replay.per_second)
        self._delivered_at = 0.0
        self._unexpected: set[type[BaseException]] = set()

    async def run(self) -> None:
        """Deliver batch after batch up to the end; raises `Ended` where it is no longer this worker's to carry out."""
        try:
            while self._replay.position < self._replay.last_position:
                subscription = await self._subscription()
                if subscription is None:
                    await self._keep()
                    await asyncio.sleep(WAIT_SECONDS)
                else:
                    await self._deliver_batch(subscription, await self._open(subscription))
            await self._keep(ReplayStatus.DONE)
            logger.info("replay done", replay_id=self._replay.id)
        except Refused as refused:
            self._progress.last_error = str(refused)
            await self._keep(ReplayStatus.FAILED)
            logger.warning("replay failed: destination wants no more", replay_id=self._replay.id, reason=str(refused))
        finally:
            await self._close()

    async def give_back(self) -> None:
        """Let another worker go on at once."""
        async with self._resources.database.driver_connection() as connection:
            with database_errors():
                await queries.give_back(connection, self._replay)

    async def _subscription(self) -> Subscription | None:
        """The subscription, if events may go to it now: it is active, and its destination is not down."""
        async with self._resources.database.driver_connection() as connection:
            with database_errors():
                found = await queries.subscription_of(connection, self._replay)
        if found is None:
            raise Ended
        if found.status == SubscriptionStatus.DISABLED:
            raise Refused("subscription_disabled")
        may_go = found.status == SubscriptionStatus.ACTIVE and found.health == Health.UP
        return found if may_go else None

    async def _open(self, subscription: Subscription) -> Destination:
        """The destination as the subscription has it now."""
        if self._destination is None or self._version != subscription.version:
            await self._close()
            self._destination = await registry.open(self._resources, subscription)
            self._version = subscription.version
        return self._destination

    async def _close(self) -> None:
        if self._destination is not None:
            destination, self._destination = self._destination, None
            await destination.close()

    async def _deliver_batch(self, subscription: Subscription, destination: Destination) -> None:
        async with self._resources.database.driver_connection() as connection:
            with database_errors():
                events, read_to = await queries.next_batch(
                    connection, self._resources.data_keys, self._replay, subscription
                )
        if events:
            await self._deliver_all(destination, _chains(events, subscription.ordering))
        self._replay.position = read_to
        await self._keep()

    async def _deliver_all(self, destination: Destination, chains: Iterable[list[EventJson]]) -> None:
        """Deliver chains side by side, the events of each one after the other; renew the lease meanwhile."""
        lanes = asyncio.Semaphore(AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew())
                delivering = [group.create_task(self._deliver_chain(destination, chain, lanes)) for chain in chains]
                await asyncio.wait(delivering)
                renewing.cancel()
        except* Ended:
            raise Ended from None
        except* Refused as refused:
            raise refused.exceptions[0] from None
        except* DatabaseAway as away:
            raise away.exceptions[0] from None

    async def _deliver_chain(self, destination: Destination, chain: list[EventJson], lanes: asyncio.Semaphore) -> None:
        for event in chain:
            await self._deliver(destination, event, lanes)

    async def _deliver(self, destination: Destination, event: EventJson, lanes: asyncio.Semaphore) -> None:
        """Deliver one event, however many tries it takes, or give it up."""
        body = msgspec.json.encode(event)
        message = Message(event.id, event.installation_id, event.type, body, replay=self._replay.id)
        began, tries = time.monotonic(), 0
        while True:
            async with lanes:
                await self._pace.turn()
                outcome = await self._try(destination, event, message)
            tries += 1
            match outcome:
                case Delivered():
                    self._delivered_at = time.monotonic()
                    self._progress.delivered += 1
                    return
                case Gone():
                    raise Refused(outcome.reason)
                case TryAgain():
                    self._progress.last_error = outcome.reason
                    if self._gives_up(began, tries):
                        self._progress.failed += 1
                        return
                    pause = PAUSES_SECONDS[min(tries, len(PAUSES_SECONDS)) - 1]
                    await asyncio.sleep(max(pause, outcome.pause_seconds or 0.0))

    def _gives_up(self, began: float, tries: int) -> bool:
        others_arrive = self._delivered_at > began
        return (tries >= TRIES and others_arrive) or time.monotonic() - began > GIVE_UP_SECONDS

    async def _try(self, destination: Destination, event: EventJson, message: Message) -> Outcome:
        at, started = now(), time.perf_counter()
        outcome = await attempt(destination, message, self._note_unexpected)
        milliseconds = round((time.perf_counter() - started) * 1000)
        self._progress.attempts.append(Attempt(event.id, event.position, at, word(outcome), milliseconds))
        self._resources.metrics.attempted(word(outcome))
        return outcome

    async def _renew(self) -> None:
        """Write the attempts down and keep the lease while a batch takes its time."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            # How many were delivered is written down with the position: else a crash would count them twice.
            attempts, self._progress.attempts = self._progress.attempts, []
            await self._write(Progress(last_error=self._progress.last_error, attempts=attempts))

    async def _keep(self, status: ReplayStatus = ReplayStatus.RUNNING) -> None:
        progress, self._progress = self._progress, Progress()
        await self._write(progress, status)

    async def _write(self, progress: Progress, status: ReplayStatus = ReplayStatus.RUNNING) -> None:
        async with self._resources.database.driver_connection() as connection:
            with database_errors():
                is_mine = await queries.keep(connection, self._replay, progress, status)
        if not is_mine:
            raise Ended

    def _note_unexpected(self, error: BaseException) -> None:
        """Log each kind of error once that a destination should have turned into an outcome."""
        if type(error) not in self._unexpected:
            self._unexpected.add(type(error))
            logger.error(
                "replay's delivery failed unexpectedly",
                replay_id=self._replay.id,
                error=type(error).__name__,
                at=raised_at(error),
            )


class Pace:
    """Lets so many deliveries a second begin, evenly."""

    def __init__(self, per_second: int) -> None:
        self._step = 1.0 / per_second
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        at = max(self._next, time.monotonic())
        self._next = at + self._step
        await asyncio.sleep(at - time.monotonic())


def _chains(events: Iterable[EventJson], ordering: str) -> list[list[EventJson]]:
    """The events that must arrive one after the other."""
    if ordering == SubscriptionOrder.NONE:
        return [[event] for event in events]
    chains: dict[OrderKey, list[EventJson]] = {}
    for event in events:
        chains.setdefault(order_key(ordering, event.installation_id, event.about), []).append(event)
    return list(chains.values())
