"""A PostgreSQL that others wait for: a primary, and a standby that is a copy of it and follows."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from aircall_oauth.sandbox.postgres import Postgres, find_binaries
from aircall_oauth.storage import migrations
from tests.support.processes import eventually

NAME = "standby"


@asynccontextmanager
async def with_standby(
    folder: Path,
    *,
    binaries: Path | None = None,
    synchronous: bool = True,
    ports: tuple[int | None, int | None] = (None, None),
    migrated: bool = True,
) -> AsyncIterator[tuple[Postgres, Postgres]]:
    """A primary and its standby; a commit waits for both where they are `synchronous`."""
    binaries = binaries or find_binaries()
    primary = await asyncio.to_thread(
        Postgres.start, folder / "primary", durable=True, port=ports[0], binaries=binaries
    )
    try:
        if migrated:
            await migrations.migrate(primary.dsn())
        await asyncio.to_thread(_copy, primary, folder / "standby", binaries)
        standby = await asyncio.to_thread(
            Postgres.start, folder / "standby", durable=True, port=ports[1], binaries=binaries
        )
        try:
            if synchronous:
                await sql(primary, f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")
                await sql(primary, "SELECT pg_reload_conf()")
            state = "sync" if synchronous else "async"
            await eventually(lambda: sql(primary, f"SELECT FROM pg_stat_replication WHERE sync_state = '{state}'"))
            yield primary, standby
        finally:
            await asyncio.to_thread(standby.stop)
    finally:
        await asyncio.to_thread(primary.stop)


@contextmanager
def hanging(server: Postgres, sessions: list[dict[str, int]]) -> Iterator[None]:
    """The server keeps its connections and takes new ones, and does nothing with them."""
    pids = [server.pid, *(row["pid"] for row in sessions)]
    stopped = [pid for pid in pids if _told(pid, signal.SIGSTOP)]
    try:
        yield
    finally:
        for pid in stopped:
            _told(pid, signal.SIGCONT)


def _told(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


async def sql(postgres: Postgres, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(postgres.dsn())
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


def _copy(primary: Postgres, folder: Path, binaries: Path) -> None:
    folder.mkdir(mode=0o700)
    address = parse_qs(urlsplit(primary.dsn()).query)
    where = f"host={address['host'][0]} port={primary.port or 5432} user=postgres application_name={NAME}"
    subprocess.run(
        [
            *(str(binaries / "pg_basebackup"), "-D", str(folder / "cluster"), "-d", where),
            *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        ],
        check=True,
        capture_output=True,
    )
    _give(folder / "cluster", primary.cluster)


def _give(copy: Path, original: Path) -> None:
    """To the user that the launcher runs servers as."""
    owner = original.stat()
    for path in (copy, *copy.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    shutil.copymode(original, copy)
