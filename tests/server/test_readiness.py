"""A process is ready if and only if it can store an event; what could not be written for a while is written later."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from aircall_oauth.storage.sessions import POOL_SIZE
from tests.support.processes import eventually
from tests.support.service import Service


async def test_an_event_is_kept_where_the_server_has_no_connection_left_for_us(service: Service) -> None:
    await service.installed()
    assert (await service.browser.get("/readyz")).status_code == 200

    async with _no_more_connections(service):
        answer = await service.post_event(_event(service, 1))
        ready = await service.browser.get("/readyz")

    assert (answer.status_code, ready.status_code) == (200, 200)


async def test_a_receiver_that_cannot_connect_is_not_ready_until_it_can(service: Service) -> None:
    await service.installed()
    assert (await service.browser.get("/readyz")).status_code == 200
    async with _no_more_connections(service) as admin:
        name = urlsplit(service.settings.database_url.get_secret_value()).path[1:]
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)

        await eventually(lambda: _is_not_ready(service))
        assert (await service.post_event(_event(service, 1))).status_code == 503

    await eventually(lambda: _is_ready(service))
    assert (await service.post_event(_event(service, 1))).status_code == 200


async def test_a_database_that_only_reads_for_a_while_is_not_ready_and_leaves_nothing_behind(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner()
    admin = await _admin(service)
    name = urlsplit(service.settings.database_url.get_secret_value()).path[1:]
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)

    # Every pool is filled with connections that only read.
    reads_only = [(await partner.delete(f"/v1/installations/{installation_id}")).status_code for _ in range(8)]
    # What was committed before shows for a second that it can be.
    await eventually(lambda: _is_not_ready(service))
    await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await admin.close()
    deleted = (await partner.delete(f"/v1/installations/{installation_id}")).status_code

    assert {503} == set(reads_only)
    assert deleted == 204
    await eventually(lambda: _is_ready(service))


async def test_it_is_ready_while_all_sessions_are_lent(service: Service) -> None:
    async with AsyncExitStack() as held:
        for _ in range(POOL_SIZE):
            await held.enter_async_context(service.resources.database.session())
        assert await _is_ready(service)


async def _is_ready(service: Service) -> bool:
    return (await service.browser.get("/readyz")).status_code == 200


async def _is_not_ready(service: Service) -> bool:
    return (await service.browser.get("/readyz")).status_code == 503


async def _admin(service: Service) -> asyncpg.Connection:
    url = urlsplit(service.settings.database_url.get_secret_value())
    return await asyncpg.connect(url._replace(path="/postgres").geturl())


@asynccontextmanager
async def _no_more_connections(service: Service) -> AsyncIterator[asyncpg.Connection]:
    """Refuse new connections to the database while the block lasts; existing ones stay."""
    name = urlsplit(service.settings.database_url.get_secret_value()).path[1:]
    admin = await _admin(service)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        yield admin
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()


def _event(service: Service, number: int) -> bytes:
    return (
        f'{{"resource":"call","event":"call.created","timestamp":{1767261600 + number},'
        f'"token":"{service.webhook_token()}","data":{{"id":{number}}}}}'
    ).encode()
