"""Recognises a pooler between a connection and PostgreSQL, and the mode it is in."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum, auto

import asyncpg

TRIES_OF_EACH = 3
JITTER_SECONDS = 0.01
BACKEND = "SELECT pg_backend_pid()"


class Sessions(StrEnum):
    """What a connection has behind it."""

    OWN = auto()  # a session of PostgreSQL's for as long as it lasts
    POOLED = auto()  # the same, of a pooler in session mode
    LENT = auto()  # a session for each transaction, of a pooler in transaction mode


async def sessions_behind(connect: Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]) -> Sessions:
    """Tell what is behind the connections that `connect` opens; raises the driver's errors.

    A pooler shows another process id than PostgreSQL's when a client connects. In session mode each of two connections
    keeps a session of its own. In transaction mode one session is lent to both, or several to one of them: not at each
    try, as a pooler that gives sessions out in turn may give both the same again. So they are asked in changing order.
    """
    async with connect() as first:
        of_first = await _backend(first)
        if of_first == first.get_server_pid():
            return Sessions.OWN
        async with connect() as second:
            keepers = {of_first: first}
            for outer, inner in [(second, first), (second, first), (first, second), (first, second)] * TRIES_OF_EACH:
                async with outer.transaction():
                    for asked in (outer, inner):
                        keeper = keepers.setdefault(await _backend(asked), asked)
                        if keeper is not asked or len(keepers) > len((first, second)):
                            return Sessions.LENT
                # Out of step with busy clients, whose turns may come round alike each time.
                await asyncio.sleep(random.uniform(0, JITTER_SECONDS))  # noqa: S311 - no secret
    return Sessions.POOLED


async def _backend(connection: asyncpg.Connection) -> int:
    """Return the id of the server process behind a connection; asked in a transaction, or two might answer."""
    async with connection.transaction():
        backend: int = await connection.fetchval(BACKEND)
        return backend
