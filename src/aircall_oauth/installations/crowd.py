"""Much work of the same kind, many pieces at once."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

LOOK_AROUND_SECONDS = 1.0

Piece = Coroutine[Any, Any, None]


async def work_off(take: Callable[[int], Awaitable[Iterable[Piece]]], *, at_once: int) -> None:
    """Do what `take` gives, asked for so many pieces as are free, until it gives none and all have ended.

    A slow piece holds nobody up. Where one fails, nothing more is taken, and its error is raised when the others have
    ended. Being cut short ends all of them.
    """
    under_way, failures = set[asyncio.Task[None]](), list[BaseException]()
    try:
        while True:
            if not failures and (free := at_once - len(under_way)):
                under_way |= {asyncio.create_task(piece) for piece in await take(free)}
            if not under_way:
                break
            # Meanwhile something else may fall due.
            ended, under_way = await asyncio.wait(
                under_way, timeout=LOOK_AROUND_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            failures += [error for task in ended if (error := task.exception()) is not None]
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    if failures:
        raise failures[0]
