"""Much work of the same kind, many pieces at once."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

LOOK_AROUND_SECONDS = 1.0

Piece = Coroutine[Any, Any, None]


async def work_off(take: Callable[[int], Awaitable[Iterable[Piece]]], *, at_once: int) -> None:
    """Do what `take` gives, asked for so many pieces as are free, until it gives none and all have ended.

    A slow piece holds nobody up. One that fails, and being cut short, ends all of them.
    """
    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            if free := at_once - len(under_way):
                under_way |= {asyncio.create_task(piece) for piece in await take(free)}
            if not under_way:
                return
            under_way = await _some_ended(under_way)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _some_ended(under_way: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that go on, after some ended or a moment has passed, in which something else may have fallen due."""
    ended, going_on = await asyncio.wait(under_way, timeout=LOOK_AROUND_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()
    return going_on
