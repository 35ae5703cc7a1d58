"""Pool: many pieces of work of the same kind, run at once up to a bound."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from aircall_oauth.errors import AppError
from aircall_oauth.storage.away import reason
from aircall_oauth.telemetry import log

logger = log.get(__name__)

POLL_SECONDS = 1.0

Piece = Coroutine[Any, Any, None]


async def work_off(take: Callable[[int], Awaitable[Iterable[Piece]]], *, at_once: int) -> None:
    """Run up to `at_once` pieces until `take` gives none and all have ended.

    `take` is asked for as many pieces as there are free places. A slow piece holds up no other, and one that fails ends
    no other: taken together again, it would end them each time. The last failure is raised once all have ended. A
    cancellation, or a failure of `take`, cancels all pieces.
    """
    under_way: set[asyncio.Task[None]] = set()
    failure: BaseException | None = None
    try:
        while True:
            if free := at_once - len(under_way):
                under_way |= {asyncio.create_task(piece) for piece in await take(free)}
            if not under_way:
                break
            ended, under_way = await _some_ended(under_way)
            failure = _failure(ended) or failure
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    if failure is not None:
        raise failure


async def _some_ended(under_way: set[asyncio.Task[None]]) -> tuple[set[asyncio.Task[None]], set[asyncio.Task[None]]]:
    """Return the tasks that ended and those still running; after a second also with none ended, as more may be due."""
    return await asyncio.wait(under_way, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)


def _failure(ended: Iterable[asyncio.Task[None]]) -> BaseException | None:
    """Log each failure now, because the others may run for long, and return the last of them."""
    failure: BaseException | None = None
    for task in ended:
        if not task.cancelled() and (failed := task.exception()) is not None:
            failure = failed
            if isinstance(failed, AppError):
                logger.warning("a piece of work put off", reason=reason(failed))
            else:
                logger.error("a piece of work failed", exc_info=failed)
    return failure
