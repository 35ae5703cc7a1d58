"""A real PostgreSQL for every test process, a fresh migrated database for every test, and one honest Aircall."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.server.web import collect_less
from aircall_oauth.storage import idle
from aircall_oauth.telemetry import log
from tests.support.databases import administer, fresh_database, hang_up, migrated_database, template_of_today
from tests.support.kept import keep_connections
from tests.support.one_dialect import share_dialect
from tests.support.service import Service, run_service, settings_for

# httpx asks for it several times per request, and each time looks through every folder that Python imports from.
if find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]
# Where files cost nothing: each test has a database made of some three hundred.
MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 1024**3

share_dialect()
keep_connections()


def pytest_collection_finish() -> None:
    """Keep the garbage collector off the modules that have been read: scanning them is a tenth of a test's time."""
    collect_less()


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> None:
    log.configure("error", "json")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """This test process's own server, with a migrated template; in memory, where there is plenty."""
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH_BYTES
    place = MEMORY if in_memory else tmp_path_factory.mktemp("postgres")
    with (
        tempfile.TemporaryDirectory(prefix="aircall-oauth-tests-", dir=place) as folder,
        Postgres.start(Path(folder) / "data", durable=False) as server,
    ):
        asyncio.run(template_of_today(server))
        yield server


@pytest.fixture(scope="session")
async def _hung_up() -> AsyncIterator[None]:
    yield
    await hang_up()


@pytest.fixture
async def empty_database(postgres: Postgres) -> AsyncIterator[str]:
    """The address of a database with nothing in it."""
    await administer(postgres, "CREATE DATABASE empty STRATEGY FILE_COPY")
    yield postgres.dsn("empty")
    await administer(postgres, "DROP DATABASE empty WITH (FORCE)")


@pytest.fixture
async def database_url(postgres: Postgres, _hung_up: None) -> str:
    """The address of a fresh, migrated database, which the next test's takes the place of."""
    return await fresh_database(postgres, "test")


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """The web application with a pretend Aircall, both in this process, over a fresh database."""
    async with run_service(settings_for(database_url)) as running:
        yield running


@pytest.fixture(scope="module")
async def shared_service(postgres: Postgres) -> AsyncIterator[Service]:
    """The same for all tests of a module: for those that leave nothing behind that another one would notice."""
    async with lasting_service(postgres) as running:
        yield running


@asynccontextmanager
async def lasting_service(server: Postgres, name: str = "shared", **changes: str) -> AsyncIterator[Service]:
    """A service over the database `name`, for a module whose tests share it: `changes` are its settings."""
    async with migrated_database(server, name) as url, run_service(settings_for(url, **changes)) as running:
        yield running


@pytest.fixture
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not in use is closed after moments."""
    monkeypatch.setattr(idle, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(idle, "SWEEP_SECONDS", 0.01)


@pytest.fixture
def samples() -> Path:
    """The folder of sample payloads."""
    return Path(__file__).parents[2] / "src/aircall_oauth/sandbox/samples"
