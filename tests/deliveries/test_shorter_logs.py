"""A standby that is promoted may lack the end of the log, whose positions are then given to other events."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.errors import DatabaseAway
from tests.support.processes import eventually
from tests.support.receivers import LOOPBACK, receiver, subscribe, tell
from tests.support.service import Service, run_service, settings_for, until

DISCONNECT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


async def test_events_that_get_the_positions_of_lost_ones_are_delivered(service: Service, database_url: str) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 2)
        await until(lambda: sorted(to.numbers) == [0, 1])
        (kept,) = await service.sql("SELECT max(position) AS position FROM event")
        await partner.stands(position=kept["position"])
        await tell(service, 3, first=2)
        await until(lambda: sorted(to.numbers) == [0, 1, 2, 3, 4])
        await partner.stands(position=kept["position"] + 3)

        await _lose_what_is_past(kept["position"], database_url)
        await eventually(lambda: _is_told(service))
        await until(lambda: 5 in to.numbers)
        await tell(service, 3, first=6)
        await until(lambda: {5, 6, 7, 8} <= set(to.numbers))

        (there,) = await service.sql("SELECT array_agg(position ORDER BY position) AS positions FROM event")
        assert there["positions"][-4:] == [kept["position"] + n for n in (1, 2, 3, 4)]


async def _lose_what_is_past(position: int, database_url: str) -> None:
    """As on a standby that is promoted: the log, the places of its readers and the sequence go back together."""
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        # Until all is there, a new connection waits before it knows the epoch.
        await connection.execute("LOCK TABLE log_epoch, subscription")
        await connection.execute("DELETE FROM event WHERE position > $1", position)
        await connection.execute("UPDATE subscription SET position = $1", position)
        await connection.execute("UPDATE log_epoch SET database = 'another timeline'")
        await connection.execute("SELECT setval('event_position', $1)", position)
        await connection.execute(DISCONNECT)
    await connection.close()


async def _is_told(service: Service) -> bool:
    try:
        await tell(service, 1, first=5)
    except (AssertionError, DatabaseAway):
        return False
    return True
