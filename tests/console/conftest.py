"""What the console's tests share."""

from collections.abc import AsyncIterator

import pytest

from aircall_oauth.sandbox.postgres import Postgres
from tests.support.consoles import Console
from tests.support.fixtures import lasting_service
from tests.support.receivers import LOOPBACK
from tests.support.service import Service, run_service, settings_for


@pytest.fixture
async def delivering(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine, with an installation; nothing reads for its destinations."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        await running.installed()
        yield running


@pytest.fixture(scope="module")
async def shared_delivering(postgres: Postgres) -> AsyncIterator[Service]:
    """The same for all tests of a module: for those that leave nothing behind that another one would notice."""
    async with lasting_service(postgres, ALLOWED_PRIVATE_RANGES=LOOPBACK) as running:
        await running.installed()
        yield running


@pytest.fixture
def console(service: Service) -> Console:
    return Console(service)


@pytest.fixture
def shared_console(shared_service: Service) -> Console:
    """The console over the service that all tests of a module share."""
    return Console(shared_service)
