"""How many connections our processes may open, and how many PostgreSQL has room for."""

from dataclasses import dataclass

import asyncpg

from aircall_oauth.deliveries.reader import connections as readers
from aircall_oauth.events.receiver import writers
from aircall_oauth.storage.database import DRIVER_POOL_SIZE
from aircall_oauth.storage.sessions import POOL_SIZE

ROOM = """
    WITH open AS (
        SELECT usename = current_user AND datname = current_database()
                   AND application_name = current_setting('application_name') AS is_ours
        FROM pg_stat_activity WHERE backend_type = 'client backend'
    )
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0) AS server,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS of_role,
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database,
           count(*) AS open, count(*) FILTER (WHERE is_ours) AS ours
    FROM open
"""


@dataclass(frozen=True)
class Most:
    """The most connections of one process: those of its pools, and those past a pooler."""

    pooled: int
    direct: int

    @property
    def all(self) -> int:
        return self.pooled + self.direct


# Two pools, and one that recognises API keys; the log's writers and one that listens.
WEB = Most(POOL_SIZE + 2 * DRIVER_POOL_SIZE, writers.WRITERS + 1)
# Two pools; those of the readers, one for their leases, and one that listens.
WORKER = Most(POOL_SIZE + DRIVER_POOL_SIZE, readers.MOST + 2)
# `serve --with-worker`: the pools are the same ones.
BOTH = Most(WEB.pooled, WEB.direct + WORKER.direct)
EACH = (WEB, WORKER, BOTH)


@dataclass(frozen=True)
class Room:
    """The connections that PostgreSQL allows our user, and those that are open now."""

    most: int
    open: int
    ours: int

    @property
    def for_us(self) -> int:
        """How many we may have: those that others do not have now."""
        return self.most - (self.open - self.ours)


async def room(connection: asyncpg.Connection) -> Room:
    """Return what the server, our user and our database allow, whichever is least."""
    found = await connection.fetchrow(ROOM)
    limits = [found["server"], *(found[name] for name in ("of_role", "of_database") if found[name] >= 0)]
    return Room(most=min(limits), open=found["open"], ours=found["ours"])
