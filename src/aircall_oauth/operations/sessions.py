"""Ends sessions of the service in which the client fell silent within a transaction: their locks would stay.

PostgreSQL's `idle_in_transaction_session_timeout` does not cover a session of which the client sent a statement but not
the end of its message, and where PostgreSQL's clock is set back, the timeout waits for as long as the clock lost. TCP
keepalives do not help where a proxy in between answers them.
"""

import asyncio

from sqlalchemy import text

from aircall_oauth.resources import Resources
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# A client that is well continues its transaction within milliseconds.
SILENT_SECONDS = 5.0
# Compared between two looks instead of with a clock, which may jump.
IN_TRANSACTION = """
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
        AND application_name = current_setting('application_name')
        AND xact_start IS NOT NULL AND wait_event = 'ClientRead'
"""
LOOK = f"SELECT pid, state_change::text AS since {IN_TRANSACTION}"
HAS_WAITING = text(f"EXISTS (SELECT {IN_TRANSACTION})")
END = f"""
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (
        SELECT pid {IN_TRANSACTION} AND (pid, state_change::text) IN (SELECT * FROM unnest($1::int[], $2::text[]))
    ) AS silent
"""  # noqa: S608 - only constants of ours are put in


async def end_silent(resources: Resources) -> None:
    """The worker's chore: end sessions that wait for their client, in a transaction, in two looks without any change.

    What they did is undone, and their locks are free.
    """
    silent = await _look(resources)
    if not silent:
        return
    await asyncio.sleep(SILENT_SECONDS)
    pids, since = zip(*silent, strict=True)
    async with resources.database.driver_connection() as connection:
        if ended := await connection.fetchval(END, pids, since):
            logger.warning("sessions fell silent in a transaction and were ended", ended=ended)


async def _look(resources: Resources) -> list[tuple[int, str]]:
    async with resources.database.driver_connection() as connection:
        return [(row["pid"], row["since"]) for row in await connection.fetch(LOOK)]
