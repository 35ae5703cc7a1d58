"""A pooler between us and PostgreSQL: in session mode it is not noticed, in transaction mode it is refused at start."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from aircall_oauth.errors import PoolerRefused
from aircall_oauth.events.notify import open_notifier, wait_for
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.storage import database, migrations
from tests.support.processes import eventually
from tests.support.service import command_environment, run_command, run_service, settings_for

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
# It refuses root, as PostgreSQL does.
DISGUISE = ("unshare", "--user", "--map-user=65534", "--map-group=65534") if os.geteuid() == 0 else ()
PORT = str(free_port())
CONFIGURATION = """
[databases]
* = host={host} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
server_round_robin = {round_robin}
"""

pytestmark = pytest.mark.skipif(PGBOUNCER is None and "CI" not in os.environ, reason="needs Debian's pgbouncer")


@pytest.mark.parametrize("round_robin", [0, 1])
@pytest.mark.parametrize("command", [("serve", "--port", PORT), ("work",), ("migrate",), ("doctor",)])
async def test_a_pooler_in_transaction_mode_is_refused_in_one_line(
    command: tuple[str, ...], round_robin: int, database_url: str, tmp_path: Path
) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction", round_robin=round_robin) as url:
        async with asyncio.timeout(30):
            ended = await run_command(*command, environment=command_environment(url))

    told = ended.stdout + ended.stderr
    assert ended.exit_code != 0
    assert "pool_mode=session" in told
    assert "Traceback" not in told


async def test_through_a_pooler_in_session_mode_everything_works(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="session") as url:
        await migrations.migrate(url)
        async with run_service(settings_for(url)) as service:
            installation_id = await service.install()
            answer = await service.post_event(_event(service.webhook_token()))
            ready = await service.browser.get("/readyz")
            async with open_notifier(service.resources.database) as notifier:
                # It polls every second as well; growth that was notified, not polled, comes sooner or later.
                async def rings() -> bool:
                    growth = notifier.next_growth()
                    await service.sql("NOTIFY aircall_oauth_log")
                    return await wait_for(growth, 0.5)

                await eventually(rings)
            partner = await service.partner()
            deleted = await partner.delete(f"/v1/installations/{installation_id}")

    assert (answer.status_code, ready.status_code, deleted.status_code) == (200, 200, 204)


async def test_postgresql_itself_is_taken_for_no_pooler(database_url: str) -> None:
    opened = database.Database(database_url)

    await opened.require_own_sessions()

    await opened.close()


async def test_a_pooler_with_a_single_session_is_recognised(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction", size=1) as url:
        opened = database.Database(url)
        with pytest.raises(PoolerRefused):
            await opened.require_own_sessions()
        await opened.close()


def _event(token: str) -> bytes:
    return f'{{"event":"call.created","timestamp":1767261600,"token":"{token}","data":{{"id":1}}}}'.encode()


@asynccontextmanager
async def pgbouncer(
    database_url: str, folder: Path, *, mode: str, size: int = 40, round_robin: int = 0
) -> AsyncIterator[str]:
    """A real PgBouncer before the database; its address."""
    assert PGBOUNCER is not None
    url, port = urlsplit(database_url), free_port()
    host = parse_qs(url.query)["host"][0]
    file, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
    file.write_text(CONFIGURATION.format(host=host, port=port, mode=mode, size=size, round_robin=round_robin))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*DISGUISE, PGBOUNCER, str(file), stdout=output, stderr=output)
    try:

        async def listens() -> bool:
            assert process.returncode is None, log.read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens)
        yield f"postgresql://postgres@127.0.0.1:{port}{url.path}?sslmode=disable"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
