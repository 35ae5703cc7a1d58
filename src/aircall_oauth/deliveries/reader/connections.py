"""Connections that the readers keep: a pool would check that each is alive before every one of many statements."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.database import Database, database_errors

MOST = 4


class Connections:
    """A few connections for all readers of a process, each opened when it is first needed."""

    def __init__(self, database: Database, data_keys: DataKeys, most: int = MOST) -> None:
        self.data_keys = data_keys  # for what is read over them
        self._database = database
        self._free: asyncio.LifoQueue[asyncpg.Connection | None] = asyncio.LifoQueue()
        for _ in range(most):
            self._free.put_nowait(None)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection for a statement or two; raises `DatabaseAway`."""
        connection = await self._free.get()
        try:
            with database_errors():
                if connection is None or connection.is_closed():
                    connection = await self._database.connect()
                yield connection
        except BaseException:
            if connection is not None:
                connection.terminate()
            connection = None
            raise
        finally:
            self._free.put_nowait(connection)

    async def close(self) -> None:
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                connection.terminate()
