"""Much work of the same kind, many pieces at once."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from aircall_oauth.errors import AppError
from aircall_oauth.storage.database import reason
from aircall_oauth.telemetry import log

logger = log.get(__name__)

LOOK_AROUND_SECONDS = 1.0

Piece = Coroutine[Any, Any, None]


async def work_off(take: Callable[[int], Awaitable[Iterable[Piece]]], *, at_once: int) -> None:
    """Do what `take` gives, asked for so many pieces as are free, until it gives none and all have ended.

    A slow piece holds nobody up, and one that fails ends no other: taken together again and again, it would end them
    each time. The last failure is raised when all have ended. Being cut short, and a `take` that fails, end all.
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
    """Those that ended, none perhaps after a moment in which something else may have fallen due; those that go on."""
    return await asyncio.wait(under_way, timeout=LOOK_AROUND_SECONDS, return_when=asyncio.FIRST_COMPLETED)


def _failure(ended: Iterable[asyncio.Task[None]]) -> BaseException | None:
    """What one of them failed with; each is logged now, because the end of all may be long in coming."""
    failure: BaseException | None = None
    for task in ended:
        if not task.cancelled() and (failed := task.exception()) is not None:
            failure = failed
            if isinstance(failed, AppError):
                logger.warning("a piece of work put off", reason=reason(failed))
            else:
                logger.error("a piece of work failed", exc_info=failed)
    return failure
