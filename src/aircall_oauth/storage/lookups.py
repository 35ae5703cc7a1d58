"""Lookups in the database that callers share who ask for the same at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import asyncpg

from aircall_oauth.storage.database import Database

T = TypeVar("T")


class Lookups:
    """Makes one lookup for all who ask before it is sent: many callers at once cost a statement, not one each.

    Whoever asks after that gets a later lookup, since it may know of a change that the one under way does not see.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unsent: dict[Hashable, asyncio.Task[Any]] = {}

    async def find(self, key: Hashable, look: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Return what `look` finds, called now or for another caller with the same `key`; raises `DatabaseAway`."""
        lookup: asyncio.Task[T] | None = self._unsent.get(key)
        if lookup is None:
            lookup = self._unsent[key] = asyncio.create_task(self._find(key, look))
            # Retrieve its error: every caller that waits for it may have gone.
            lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(lookup)

    async def _find(self, key: Hashable, look: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        sent = False
        try:
            async with self._database.driver_connection() as connection:
                del self._unsent[key]
                sent = True
                return await look(connection)
        finally:
            if not sent:
                del self._unsent[key]
