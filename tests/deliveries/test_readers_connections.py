"""The connections that readers keep: one that broke tells of the others."""

import pytest
from sqlalchemy import text

from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.errors import DatabaseAway
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.poolers import BACKEND
from tests.support.processes import until_closed
from tests.support.service import Service

SLEEPS = "SET LOCAL statement_timeout = 20; SELECT pg_sleep(9)"
DEADLOCKS = "DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"
OPEN = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"


@pytest.mark.parametrize(("statement", "opened_anew"), [(SLEEPS, True), (DEADLOCKS, False)])
async def test_what_breaks_on_one_connection_is_not_waited_for_on_each_of_the_others(
    statement: str, opened_anew: bool, service: Service
) -> None:
    connections = Connections(service.resources.database, service.resources.data_keys)
    before = await _backends(connections, service.resources.database)

    with pytest.raises(DatabaseAway):  # noqa: PT012 - the block has to meet the error
        async with connections.one() as connection:
            broken = connection.get_server_pid()
            await connection.execute(statement)
    after = await _backends(connections, service.resources.database)
    others = set(before) - {broken}

    assert len(others) == 3
    if opened_anew:
        assert not others & set(after)
    else:
        # A pool may have lent another one that time.
        assert {row[0] for row in await service.sql(OPEN)} >= others
    await connections.close()


@pytest.mark.usefixtures("soon_idle")
async def test_connections_that_readers_did_not_need_for_a_while_are_closed(service: Service) -> None:
    """All but the one that is used next."""
    connections = Connections(service.resources.database, service.resources.data_keys)
    async with connections.one() as in_use:
        async with connections.one() as kept, connections.one() as another, connections.one() as closed:
            await closed.execute("SELECT 1")
        idle = [another.get_server_pid(), closed.get_server_pid()]

        await until_closed(service.settings.database_url.get_secret_value(), idle)

        assert await in_use.fetchval(BACKEND) == in_use.get_server_pid()
        async with connections.one() as connection:
            assert connection is kept
    await connections.close()


async def _backends(connections: Connections, database: Database) -> list[int]:
    """What answers over two of the readers' connections, and over one of each pool."""
    async with connections.one() as second, connections.one() as first, database.driver_connection() as third:
        found = [await connection.fetchval(BACKEND) for connection in (first, second, third)]
    async with database.session() as session:
        return [*found, await (await session.connection()).scalar(text(BACKEND))]
