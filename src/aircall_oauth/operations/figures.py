"""Keeps the numbers over time: each process writes what it has counted once a minute, in one statement.

A crash loses what was counted since the last minute. While the database is away, a process keeps what it counted,
minute by minute, for an hour; what is older is kept together.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from aircall_oauth.errors import AppError
from aircall_oauth.resources import Resources
from aircall_oauth.storage import figures
from aircall_oauth.storage.away import reason
from aircall_oauth.storage.figures import Count
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.figures import HIGHEST, Counts, Name, merge

logger = log.get(__name__)

MINUTE_SECONDS = 60.0
MOST_WAITING = 60
WRITE_SECONDS = 10.0
LAST_SECONDS = 2.0


@dataclass
class Taken:
    """What was counted around a time of the monotonic clock."""

    middle: float
    counts: Counts


class Keeper:
    """What this process has counted and not written yet."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._waiting: deque[Taken] = deque()
        self._taken_at = time.monotonic()

    def take(self, *, alive: bool = True) -> None:
        """Take what was counted since the last time, and with `alive` count the process itself."""
        began, self._taken_at = self._taken_at, time.monotonic()
        counts = self._resources.metrics.take_figures()
        if alive:
            counts |= {(Name.ALIVE, role): [1] for role in self._resources.metrics.roles()}
        if counts:
            self._waiting.append(Taken((began + self._taken_at) / 2, counts))
        while len(self._waiting) > MOST_WAITING:
            oldest = self._waiting.popleft()
            merge(oldest.counts, self._waiting.popleft().counts)
            self._waiting.appendleft(oldest)

    async def write(self) -> None:
        """Write what was taken, oldest first; what can't be written is kept.

        A commit of which the answer is lost is made again: then up to a minute is counted twice.
        """
        while self._waiting:
            taken = self._waiting[0]
            await self._resources.require_ready()
            counts = [
                Count(name, label, amounts, highest=name in HIGHEST) for (name, label), amounts in taken.counts.items()
            ]
            ago = timedelta(seconds=time.monotonic() - taken.middle)
            async with asyncio.timeout(WRITE_SECONDS):
                await figures.add(self._resources.database, counts, ago=ago)
            self._waiting.popleft()


@asynccontextmanager
async def kept(resources: Resources) -> AsyncIterator[None]:
    """Write down once a minute what this process counts, while the block lasts, and once more at its end.

    In a process that is web server and worker at once, the first of the two does it for both.
    """
    if resources.keeps_figures:
        yield
        return
    resources.keeps_figures = True
    keeper, stopping = Keeper(resources), asyncio.Event()
    keeping = asyncio.create_task(_keep_on(keeper, stopping))
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait([keeping], timeout=LAST_SECONDS)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        resources.keeps_figures = False


async def forget(resources: Resources) -> None:
    """Chore: delete minutes older than 48 hours, and hours older than 400 days."""
    await figures.forget(resources.database)


async def _keep_on(keeper: Keeper, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        try:
            # At the turn of each minute, so that a minute's row holds what was counted in it.
            async with asyncio.timeout(MINUTE_SECONDS - time.time() % MINUTE_SECONDS):
                await stopping.wait()
        except TimeoutError:
            pass
        keeper.take(alive=not stopping.is_set())
        await _write(keeper)


async def _write(keeper: Keeper) -> None:
    try:
        await keeper.write()
    except (AppError, TimeoutError) as error:
        logger.warning("figures put off", reason=reason(error))
    except Exception:
        logger.exception("figures not written")
