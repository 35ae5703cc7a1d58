"""Connections that the readers keep: a pool would check that each is alive before every one of many statements."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from aircall_oauth.errors import DatabaseAway
from aircall_oauth.storage.away import database_errors
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.idle import Sweeper

MOST = 4


@dataclass
class Kept:
    """A connection, the database's generation when it was opened, and when it was last used."""

    connection: asyncpg.Connection
    generation: int
    used_at: float = 0.0  # by the monotonic clock


class Connections:
    """A few connections for all readers of a process, each opened when it is needed, and all but one closed when not.

    The one is kept so that an event which comes after a quiet time does not wait for a connection.
    """

    def __init__(self, database: Database, data_keys: DataKeys, most: int = MOST) -> None:
        self.data_keys = data_keys  # for what is read over them
        self._database = database
        self._most = most
        # Who asked first has one first; a queue would let whoever asks when one is given back overtake all that wait.
        self._turns = asyncio.Semaphore(most)
        self._free: list[Kept | None] = [None] * most
        self._sweeper = Sweeper(self._close_idle)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection for a statement or two; raises `DatabaseAway`."""
        async with self._turns:
            kept = self._sound(self._free.pop())
            try:
                with database_errors():
                    kept = kept or await self._open()
                    yield kept.connection
                kept.used_at = time.monotonic()
            except BaseException as error:
                if kept is not None:
                    kept.connection.terminate()
                    if isinstance(error, DatabaseAway):
                        self._database.broke(error.__cause__, kept.generation)
                kept = None
                raise
            finally:
                self._free.append(kept)

    def _sound(self, kept: Kept | None) -> Kept | None:
        """Drop a connection that is closed, or of the time of one that broke."""
        if kept is None or (kept.generation == self._database.generation and not kept.connection.is_closed()):
            return kept
        kept.connection.terminate()
        return None

    async def _open(self) -> Kept:
        generation = self._database.generation
        kept = Kept(await self._database.connect(), generation)
        self._sweeper.begin()
        return kept

    def _close_idle(self, used_before: float) -> bool:
        """Close the free connections that were not used since then, but for one; returns whether more are open."""
        spare = next(filter(None, reversed(self._free)), None)
        self._free = [kept if kept is spare else _unless_idle(kept, used_before) for kept in self._free]
        return self._most - self._free.count(None) > 1

    async def close(self) -> None:
        self._sweeper.end()
        for kept in filter(None, self._free):
            kept.connection.terminate()


def _unless_idle(kept: Kept | None, used_before: float) -> Kept | None:
    if kept is None or kept.used_at >= used_before:
        return kept
    kept.connection.terminate()
    return None
