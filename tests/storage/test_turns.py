"""Connections go to who asked first, whoever asks in the moment when one is given back."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from aircall_oauth.deliveries.reader.connections import MOST, Connections
from aircall_oauth.errors import DatabaseAway
from aircall_oauth.storage import turns
from aircall_oauth.storage.database import DRIVER_POOL_SIZE, Database
from aircall_oauth.storage.sessions import POOL_SIZE
from tests.support.service import Service

Lend = Callable[[], AbstractAsyncContextManager[Any]]


@pytest.fixture(params=["sessions", "the driver's", "the readers'"])
async def lending(request: pytest.FixtureRequest, service: Service) -> AsyncIterator[tuple[Lend, int]]:
    """How a connection is lent, and how many there are."""
    database: Database = service.resources.database
    readers = Connections(database, service.resources.data_keys)

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        async with database.session() as session:
            await session.connection()
            yield

    yield {
        "sessions": (session, POOL_SIZE),
        "the driver's": (database.driver_connection, DRIVER_POOL_SIZE),
        "the readers'": (readers.one, MOST),
    }[request.param]
    await readers.close()


async def test_who_asked_first_has_a_connection_first(lending: tuple[Lend, int]) -> None:
    lend, count = lending
    numbers, served = itertools.count(), list[int]()

    async def ask_again_and_again() -> None:
        for _ in range(10):
            number = next(numbers)
            async with lend():
                served.append(number)
                await asyncio.sleep(0)

    async with AsyncExitStack() as opened:
        for _ in range(count):
            await opened.enter_async_context(lend())
    await asyncio.gather(*(ask_again_and_again() for _ in range(8 * count)))

    # As many as there are connections are lent at once.
    assert all(abs(number - place) < count for place, number in enumerate(served))


@pytest.mark.parametrize("lending", ["sessions", "the driver's"], indirect=True)
async def test_who_waited_in_vain_is_told_so_and_takes_no_turn(
    lending: tuple[Lend, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lend, count = lending
    async with AsyncExitStack() as held:
        for _ in range(count):
            await held.enter_async_context(lend())
        monkeypatch.setattr(turns, "POOL_TIMEOUT_SECONDS", 0.05)
        with pytest.raises(DatabaseAway):
            await held.enter_async_context(lend())
    monkeypatch.undo()

    async with AsyncExitStack() as held:
        for _ in range(count):
            await held.enter_async_context(lend())
