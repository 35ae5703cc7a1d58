"""Connections that the readers keep: a pool would check that each is alive before every one of many statements."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from aircall_oauth.errors import DatabaseAway
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.database import Database, database_errors

MOST = 4


@dataclass(frozen=True)
class Kept:
    """A connection, and the database's generation when it was opened."""

    connection: asyncpg.Connection
    generation: int


class Connections:
    """A few connections for all readers of a process, each opened when it is first needed."""

    def __init__(self, database: Database, data_keys: DataKeys, most: int = MOST) -> None:
        self.data_keys = data_keys  # for what is read over them
        self._database = database
        self._free: asyncio.LifoQueue[Kept | None] = asyncio.LifoQueue()
        for _ in range(most):
            self._free.put_nowait(None)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection for a statement or two; raises `DatabaseAway`."""
        kept = self._sound(await self._free.get())
        try:
            with database_errors():
                kept = kept or await self._open()
                yield kept.connection
        except BaseException as error:
            if kept is not None:
                kept.connection.terminate()
                if isinstance(error, DatabaseAway):
                    self._database.broke(error.__cause__, kept.generation)
            kept = None
            raise
        finally:
            self._free.put_nowait(kept)

    def _sound(self, kept: Kept | None) -> Kept | None:
        """Drop a connection that is closed, or of the time of one that broke."""
        if kept is None or (kept.generation == self._database.generation and not kept.connection.is_closed()):
            return kept
        kept.connection.terminate()
        return None

    async def _open(self) -> Kept:
        generation = self._database.generation
        return Kept(await self._database.connect(), generation)

    async def close(self) -> None:
        while not self._free.empty():
            kept = self._free.get_nowait()
            if kept is not None:
                kept.connection.terminate()
