"""The connections that readers keep: one that broke tells of the others."""

import asyncpg
import pytest

from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.errors import DatabaseAway
from tests.support.service import Service

SLEEPS = "SET LOCAL statement_timeout = 20; SELECT pg_sleep(9)"
DEADLOCKS = "DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"


@pytest.mark.parametrize(("statement", "opened_anew"), [(SLEEPS, True), (DEADLOCKS, False)])
async def test_what_breaks_on_one_connection_is_not_waited_for_on_each_of_the_others(
    statement: str, opened_anew: bool, service: Service
) -> None:
    connections = Connections(service.resources.database, service.resources.data_keys)
    async with connections.one() as first, connections.one() as second:
        before = {await _backend(first), await _backend(second)}

    with pytest.raises(DatabaseAway):
        async with connections.one() as connection:
            await connection.execute(statement)
    async with connections.one() as first, connections.one() as second:
        after = {await _backend(first), await _backend(second)}
    await connections.close()

    assert opened_anew == (not before & after)


async def _backend(connection: asyncpg.Connection) -> int:
    backend: int = await connection.fetchval("SELECT pg_backend_pid()")
    return backend
