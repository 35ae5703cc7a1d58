"""The order of the log: every writer takes one lock before it draws a position, so positions commit in order.

A reader may therefore read `position > cursor` and never skip an event. The lock is the last thing a transaction
waits for before it commits; nothing that can wait may come after it.
"""

from typing import Any

import msgspec
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth import partitions
from aircall_oauth.models import Event, EventSource, Installation, new_id

APPEND_LOCK = 0x61697263616C6C2D6C6F67 & 0x7FFFFFFFFFFFFFFF
CHANNEL = "aircall_oauth_log"


async def append(session: AsyncSession, installation: Installation, type_: str, data: dict[str, Any]) -> None:
    """Add an event of the service's own, as the last act of the session's transaction."""
    await session.flush()
    connection = await session.connection()
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await partitions.ensure(driver)
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
