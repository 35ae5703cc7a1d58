"""Turns at the connections of a pool, in the order of asking."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

POOL_TIMEOUT_SECONDS = 3.0


@asynccontextmanager
async def turn(turns: asyncio.Semaphore) -> AsyncIterator[float]:
    """Wait for one of a pool's connections behind all that asked before; raises `TimeoutError`.

    Yields the seconds that are left to open it, where it is not open.

    The pools' own queues let a newcomer go first that asks in the moment when a connection is given back. So under load
    some would wait for as long as there are others.
    """
    answer_by = time.monotonic() + POOL_TIMEOUT_SECONDS
    async with asyncio.timeout(POOL_TIMEOUT_SECONDS):
        await turns.acquire()
    try:
        yield answer_by - time.monotonic()
    finally:
        turns.release()
