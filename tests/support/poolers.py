"""A real PgBouncer before a database."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from aircall_oauth.sandbox.ports import free_port
from tests.support.processes import eventually
from tests.support.tools import miss

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
# It refuses root, as PostgreSQL does.
DISGUISE = ("unshare", "--user", "--map-user=65534", "--map-group=65534") if os.geteuid() == 0 else ()
CONFIGURATION = """
[databases]
* = host={host} port={server_port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = {clients}
server_round_robin = {round_robin}
"""


class PgBouncer:
    """One PgBouncer; it can be killed, and started again at the same address."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        mode: str,
        size: int = 40,
        round_robin: int = 0,
        user: str = "postgres",
        clients: int = 100,
        program: str | None = None,
    ) -> None:
        """`program` is the binary, if not that of this machine."""
        url, query = urlsplit(database_url), parse_qs(urlsplit(database_url).query)
        self._port = free_port()
        self._program = program or PGBOUNCER
        self._file, self._log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"postgresql://{user}@127.0.0.1:{self._port}{url.path}?sslmode=disable"
        self._file.write_text(
            CONFIGURATION.format(
                host=query["host"][0],
                server_port=query.get("port", ["5432"])[0],
                user=user,
                port=self._port,
                mode=mode,
                size=size,
                clients=clients,
                round_robin=round_robin,
            )
        )

    async def start(self) -> None:
        """Start it, and return once it listens."""
        assert self._program is not None
        command = (*DISGUISE, self._program, str(self._file))
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        await eventually(self._listens)

    async def kill(self) -> None:
        """Every connection through it breaks. Does nothing where it does not run."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self._log.read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True


@asynccontextmanager
async def pgbouncer(
    database_url: str, folder: Path, *, mode: str, size: int = 40, round_robin: int = 0, clients: int = 100
) -> AsyncIterator[str]:
    """A PgBouncer for as long as the block lasts; its address. Where none is installed, the test ends."""
    if PGBOUNCER is None:
        miss("pgbouncer is not installed")
    it = PgBouncer(database_url, folder, mode=mode, size=size, round_robin=round_robin, clients=clients)
    try:
        await it.start()
        yield it.url
    finally:
        await it.kill()
