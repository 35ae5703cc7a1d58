"""Positions in the log: the newest, the lock under which they are drawn, and the channel that announces them."""

from datetime import timedelta

import asyncpg

from aircall_oauth.storage import locks

CHANNEL = "aircall_oauth_log"
# The newest position of the log, as an expression; 0 where the log is empty.
NEWEST_POSITION = "(SELECT coalesce(max(position), 0) FROM event)"
# The sessions that hold the log's lock; PostgreSQL shows the lock's number in two halves.
HOLDERS = f"""
    SELECT a.pid, a.wait_event_type, clock_timestamp() - a.state_change AS held_for
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.classid = {locks.LOG >> 32} AND l.objid = {locks.LOG & 0xFFFFFFFF}
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - only constants of ours are put in
# A holder that waits for its client lacks only the end of a message, which comes at once or never.
SILENT = timedelta(seconds=2)
FREE = f"""
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM ({HOLDERS}) AS holder
    WHERE wait_event_type = 'Client' AND held_for > $1::interval
"""  # noqa: S608 - only constants of ours are put in


async def newest_position(connection: asyncpg.Connection) -> int:
    """Return the newest position of the log; 0 where the log is empty."""
    position: int = await connection.fetchval(f"SELECT {NEWEST_POSITION}")
    return position


async def end_silent_holders(connection: asyncpg.Connection) -> int:
    """End the sessions that hold the log's lock while their client is silent; what they did is undone.

    Returns how many there were.
    """
    ended: int = await connection.fetchval(FREE, SILENT)
    return ended
