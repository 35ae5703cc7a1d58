"""Heartbeat: notice, after the fact, that no process was there to receive, and record the gap.

Each process that receives writes a pulse every few seconds. The first one to do so after a long pause knows that all
processes, or the database, were away, and records a gap for each installation. Only the database's clock is used. A
database restored to an older state looks like an outage, and is filled like one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import asyncpg

from aircall_oauth.errors import AppError
from aircall_oauth.installations.outages import silence
from aircall_oauth.installations.outages.gaps import MARGIN, SETTLING
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import database_errors, reason
from aircall_oauth.storage.statuses import GapReason, InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

BEAT_SECONDS = 15.0
# A shorter absence, such as a restart, loses nothing: Aircall repeats what it could not deliver.
AWAY = timedelta(minutes=2)

# As long as the last pulse is not too old.
GO_ON = "UPDATE pulse SET at = clock_timestamp() WHERE at >= clock_timestamp() - $1::interval RETURNING true"
# The row's lock orders processes that come back at once: the second one finds a fresh pulse.
LAST = "SELECT at FROM pulse WHERE at < clock_timestamp() - $1::interval FOR UPDATE"
BEAT = """
    INSERT INTO pulse (at) VALUES (clock_timestamp())
    ON CONFLICT (one) DO UPDATE SET at = excluded.at
"""
# An open gap that began earlier covers the window already.
RECORD = f"""
    INSERT INTO gap (id, installation_id, reason, since, until, due_at)
    SELECT 'gap_' || replace(gen_random_uuid()::text, '-', ''), i.id, '{GapReason.SERVICE_AWAY}', $1, now(),
           now() + $2::interval
    FROM installation i
    WHERE i.status IN ('{InstallationStatus.ACTIVE}', '{InstallationStatus.UNAUTHORIZED}')
      AND NOT EXISTS (
          SELECT FROM gap g WHERE g.installation_id = i.id AND g.until IS NULL AND g.since <= $1
      )
"""  # noqa: S608 - only constants of ours are put in

# Aircall may have switched off any webhook meanwhile, so all are reconciled.
RECONCILE_ALL = """
    INSERT INTO trouble (id, began_at, ended_at, failures)
    VALUES ('trb_' || replace(gen_random_uuid()::text, '-', ''), $1, now(), 0)
"""


@asynccontextmanager
async def beating(resources: Resources) -> AsyncIterator[None]:
    """Write a pulse every few seconds while the block runs."""
    heart = asyncio.create_task(_beat_on(resources))
    try:
        yield
    finally:
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)


async def beat(resources: Resources) -> None:
    """Write a pulse, and record a gap for each installation if the last pulse is too old.

    The first pulse ever records no gap.
    """
    await resources.require_ready()
    with database_errors():
        async with resources.database.driver_connection() as connection:
            if await connection.fetchval(GO_ON, AWAY) is None:
                await _come_back(connection)


async def _come_back(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        last: datetime | None = await connection.fetchval(LAST, AWAY)
        if last is not None:
            await connection.execute(RECORD, last, MARGIN + SETTLING)
            await connection.execute(RECONCILE_ALL, last)
            await silence.excuse(connection, since=last)
        await connection.execute(BEAT)
    if last is not None:
        logger.warning("nobody was here to receive", since=last.isoformat())


async def _beat_on(resources: Resources) -> None:
    while True:
        try:
            await beat(resources)
        except AppError as error:
            logger.warning("no pulse", reason=reason(error))
        except Exception:
            logger.exception("pulse failed")
        await asyncio.sleep(BEAT_SECONDS)
