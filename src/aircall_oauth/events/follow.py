"""Follows the log for a chore of the worker: each part of the log once, over all processes."""

from collections.abc import Awaitable, Callable

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from aircall_oauth.events.positions import NEWEST_POSITION
from aircall_oauth.resources import Resources

# Positions read in one transaction.
WINDOW = 50_000

BEGIN = text("INSERT INTO log_reader (name, position) VALUES (:name, 0) ON CONFLICT DO NOTHING")
# A row that another worker has locked is skipped: that worker reads on.
STAND = text("SELECT position FROM log_reader WHERE name = :name FOR UPDATE SKIP LOCKED")
HEAD = text(f"SELECT {NEWEST_POSITION}")
MOVE = text("UPDATE log_reader SET position = :end WHERE name = :name")

# Notes what the events past the first position, up to the second one, tell.
Note = Callable[[AsyncConnection, int, int], Awaitable[None]]


def has_more(name: str) -> TextClause:
    """Whether the log has events past the position kept under `name`."""
    return text(f"{NEWEST_POSITION} > coalesce((SELECT position FROM log_reader WHERE name = '{name}'), 0)")  # noqa: S608


async def follow(resources: Resources, name: str, note: Note) -> None:
    """Read the log from the position kept under `name` to its end; notes and position of a window commit together."""
    while await _read_on(resources, name, note):
        pass


async def _read_on(resources: Resources, name: str, note: Note) -> bool:
    """Read one window at most. Returns whether there is more to read."""
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
