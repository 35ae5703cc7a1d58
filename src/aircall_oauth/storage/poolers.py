"""Recognises a pooler between a connection and PostgreSQL, and the mode it is in."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum, auto

import asyncpg

TRIES = 12
JITTER_SECONDS = 0.01
BACKEND = "SELECT pg_backend_pid()"


class Sessions(StrEnum):
    """What a connection has behind it."""

    OWN = auto()  # a session of PostgreSQL's for as long as it lasts
    POOLED = auto()  # the same, of a pooler in session mode
    LENT = auto()  # a session for each transaction, of a pooler in transaction mode


async def sessions_behind(connect: Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]) -> Sessions:
    """Tell what is behind the connections that `connect` opens; raises the driver's errors.

    A pooler shows another process id than PostgreSQL's when a client connects. A pooler in transaction mode lends
    one session to two connections, or several sessions to one connection; among busy clients it may lend the first
    one its session again by chance, but not each time.
    """
    async with connect() as first:
        own = await _backend(first)
        if own == first.get_server_pid():
            return Sessions.OWN
        async with connect() as second:
            for _ in range(TRIES):
                async with second.transaction():
                    other = await second.fetchval(BACKEND)
                    if other == own or await _backend(first) != own:
                        return Sessions.LENT
                # Out of step with busy clients, whose turns may come round alike each time.
                await asyncio.sleep(random.uniform(0, JITTER_SECONDS))  # noqa: S311 - no secret
    return Sessions.POOLED


async def _backend(connection: asyncpg.Connection) -> int:
    """Return the id of the server process behind a connection; asked in a transaction, or two might answer."""
    async with connection.transaction():
        backend: int = await connection.fetchval(BACKEND)
        return backend
