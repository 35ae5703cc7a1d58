"""Follows the log for a chore of our own: each part of it once, whichever process comes first."""

from collections.abc import Awaitable, Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from aircall_oauth.events.store import NEWEST_POSITION
from aircall_oauth.resources import Resources

# So much of the log in one transaction.
WINDOW = 50_000

BEGIN = text("INSERT INTO log_reader (name, position) VALUES (:name, 0) ON CONFLICT DO NOTHING")
# Where another worker is at it, there is nothing to do.
STAND = text("SELECT position FROM log_reader WHERE name = :name FOR UPDATE SKIP LOCKED")
HEAD = text(f"SELECT {NEWEST_POSITION}")
MOVE = text("UPDATE log_reader SET position = :end WHERE name = :name")

# Notes what the positions after the first and up to the second tell.
Note = Callable[[AsyncConnection, int, int], Awaitable[None]]


async def follow(resources: Resources, name: str, note: Note) -> None:
    """Read from where this reader stands to the log's end. What is noted and how far it is go into one transaction."""
    while await _read_on(resources, name, note):
        pass


async def _read_on(resources: Resources, name: str, note: Note) -> bool:
    """Read at most a window; whether there is more."""
    async with resources.database.session() as session:
        connection = await session.connection()
        await connection.execute(BEGIN, {"name": name})
        stand = await connection.scalar(STAND, {"name": name})
        head = await connection.scalar(HEAD)
        if stand is None or head is None or stand >= head:
            return False
        end = min(head, stand + WINDOW)
        await note(connection, stand, end)
        await connection.execute(MOVE, {"name": name, "end": end})
    return bool(end < head)
