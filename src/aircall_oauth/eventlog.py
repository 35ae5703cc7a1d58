"""The order of the log: every writer takes one lock before it draws a position, so positions commit in order.

A reader may therefore read `position > cursor` and never skip an event. The lock is the last thing a transaction
waits for before it commits; nothing that can wait may come after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth import partitions
from aircall_oauth.models import Event, EventSource, Installation, new_id

APPEND_LOCK = 0x61697263616C6C2D6C6F67 & 0x7FFFFFFFFFFFFFFF
CHANNEL = "aircall_oauth_log"
# A call whose end was told already, by its event or by an earlier back-fill, is not told again.
FILL = text(f"""
    WITH locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock({APPEND_LOCK}), pg_notify('{CHANNEL}', '')
    ), missed AS MATERIALIZED (
        SELECT DISTINCT ON (fingerprint) a.*, sha256(convert_to(:installation_id, 'UTF8') || a.key) AS fingerprint
        FROM locked, unnest(CAST(:keys AS bytea[]), CAST(:ids AS text[]), CAST(:times AS timestamptz[]),
                            CAST(:texts AS text[])) WITH ORDINALITY AS a (key, id, occurred_at, data, number)
        ORDER BY fingerprint, number
    ), new AS (
        INSERT INTO told_call (fingerprint, received_at, back_filled) SELECT fingerprint, now(), true FROM missed
        ON CONFLICT (fingerprint) DO NOTHING
        RETURNING fingerprint
    ), kept AS (
        INSERT INTO event (position, received_at, id, installation_id, company_id, owner, type, resource,
                           occurred_at, source, data)
        SELECT nextval('event_position'), clock_timestamp(), id, :installation_id, :company_id, :owner, :type,
               :resource, occurred_at, '{EventSource.BACKFILL}', data
        FROM (SELECT missed.* FROM missed JOIN new USING (fingerprint) ORDER BY number) AS in_order
        RETURNING id
    )
    SELECT count(*) FROM kept
""")  # noqa: S608 - only constants of ours are put in


@dataclass(frozen=True)
class Missed:
    """A call whose end Aircall told when asked; `key` recognises it, `data` is its very text."""

    key: bytes
    occurred_at: datetime
    data: str


async def append(session: AsyncSession, installation: Installation, type_: str, data: dict[str, Any]) -> None:
    """Add an event of the service's own, as the last act of the session's transaction."""
    connection = await _ready(session)
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({APPEND_LOCK}), pg_notify('{CHANNEL}', '')"))
    # The days are PostgreSQL's, and so is the hour.
    at = await connection.scalar(text("SELECT clock_timestamp()"))
    session.add(
        Event(
            id=new_id("evt"),
            installation_id=installation.id,
            company_id=installation.company_id,
            owner=installation.owner,
            type=type_,
            resource=type_.partition(".")[0],
            occurred_at=at,
            received_at=at,
            source=EventSource.SERVICE,
            data=msgspec.json.encode(data).decode(),
        )
    )


async def fill(
    session: AsyncSession, installation: Installation, missed: Sequence[Missed], *, type_: str, resource: str
) -> int:
    """Add what the log lacks of these, oldest first; how many. Takes the log's lock, as `append` does."""
    connection = await _ready(session)
    values = {
        "installation_id": installation.id,
        "company_id": installation.company_id,
        "owner": installation.owner,
        "type": type_,
        "resource": resource,
        "ids": [new_id("evt") for _ in missed],
        "keys": [one.key for one in missed],
        "times": [one.occurred_at for one in missed],
        "texts": [one.data for one in missed],
    }
    return int(await connection.scalar(FILL, values) or 0)


async def _ready(session: AsyncSession) -> AsyncConnection:
    """Everything else of the transaction written, and a day to write to."""
    await session.flush()
    connection = await session.connection()
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await partitions.ensure(driver)
    return connection
