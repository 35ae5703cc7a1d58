"""The ground every measurement stands on: a durable PostgreSQL, the servers as processes of their own, the load."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.resources import open_resources, vault_of
from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.settings import Settings
from aircall_oauth.storage import migrations
from aircall_oauth.storage.sealed import TOKEN_COLUMN, TOKEN_PURPOSE, WEBHOOK_TOKEN_PURPOSE
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.vault import SealedAt

ROOT = Path(__file__).parents[1]
TOKEN = "bench-webhook-token"
READY_SECONDS = 30.0
CONNECTIONS = 64
SETTINGS = {
    "CLIENT_ID": "bench",
    "CLIENT_SECRET": "bench",
    "SECRET_KEYS": "bench:" + "a" * 43 + "=",
    "FINGERPRINT_KEY": "b" * 43 + "=",
    "METRICS_PORT": "0",
    "DRAIN": "0s",
    "ALLOWED_PRIVATE_RANGES": "127.0.0.0/8",
}


@dataclass(frozen=True)
class Server:
    """A server under load."""

    name: str
    port: int
    pid: int


@contextmanager
def durable_postgres(folder: Path) -> Iterator[Postgres]:
    """PostgreSQL with fsync on, counting statements."""
    with Postgres.start(folder / "postgres", durable=True) as postgres:
        settings = {
            "shared_preload_libraries": "'pg_stat_statements'",
            "max_wal_size": "'8GB'",
            "checkpoint_timeout": "'30min'",
        }
        for name, value in settings.items():
            subprocess.run(
                [sys.executable, "-m", "bench.sql", postgres.dsn(), f"ALTER SYSTEM SET {name} = {value}"],
                check=True,
                cwd=ROOT,
            )
        postgres.stop()
        postgres.restart()
        yield postgres


def environment(url: str, port: int, **changes: str) -> dict[str, str]:
    settings = SETTINGS | {"DATABASE_URL": url, "PUBLIC_URL": f"http://localhost:{port}"} | changes
    own = {f"AIRCALL_OAUTH_{name}": value for name, value in settings.items()}
    return {**os.environ, **own, "BENCH_DATABASE_URL": url, "BENCH_TOKEN": TOKEN}


def settings_for(url: str) -> Settings:
    named = SETTINGS | {"DATABASE_URL": url, "PUBLIC_URL": "http://localhost:8000"}
    return Settings.model_validate({name.lower(): value for name, value in named.items()})


async def api_key(database_url: str, *scopes: Scope) -> str:
    """Make an API key with these scopes; its secret."""
    async with open_resources(settings_for(database_url)) as resources:
        return await keys.create(resources, name="bench", scopes=scopes)


async def prepare(url: str) -> str:
    """A migrated database with one installation whose webhook has `TOKEN`; the installation's id."""
    await migrations.migrate(url)
    vault, installation_id = vault_of(settings_for(url)), new_id("ins")
    sealed = vault.seal("bench-access-token", SealedAt(TOKEN_COLUMN, installation_id))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        await connection.execute(
            "INSERT INTO installation (id, status, company_id, integration_id, token_sealed, token_fingerprint, "
            "connected_at) VALUES ($1, 'active', 1, 1, $2, $3, $4)",
            installation_id,
            sealed,
            vault.fingerprint("bench-access-token", TOKEN_PURPOSE),
            now(),
        )
        await connection.execute(
            "INSERT INTO webhook (id, installation_id, status, webhook_id, token_fingerprint) "
            "VALUES ($1, $2, 'active', 'bench', $3)",
            new_id("whk"),
            installation_id,
            vault.fingerprint(TOKEN, WEBHOOK_TOKEN_PURPOSE),
        )
    finally:
        await connection.close()
    return installation_id


@contextmanager
def serving(name: str, folder: Path, url: str, **changes: str) -> Iterator[Server]:
    """One of `noop`, `plain`, `service` and `subjectless` as a process, ready; `changes` are other settings."""
    port = free_port()
    uvicorn = ["uvicorn", f"bench.{name}:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    modules = {"service": "aircall_oauth", "subjectless": "bench.subjectless"}
    command = [modules[name], "serve", "--port", str(port)] if name in modules else uvicorn
    with Child(name, command, environment(url, port, **changes), folder / f"{name}.log") as child:
        wait_until(lambda: answers(port), [child], READY_SECONDS)
        yield Server(name, port, child.pid)


def answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2.0, trust_env=False)
    except httpx.ConnectError:
        return False
    except httpx.HTTPError:
        pass
    return True


def load(server: Server, count: int, salt: int, connections: int = CONNECTIONS, made: str = "varied") -> dict[str, Any]:
    """A bounded load on a server, from a process of its own; `made` is a function of `bench.bodies`."""
    numbers = [str(number) for number in (connections, count, salt)]
    command = [sys.executable, "-m", "bench.load", str(server.port), TOKEN, *numbers, made, str(server.pid)]
    done = subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=600)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def resident_megabytes(server: Server) -> float:
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Memory:
    """A process's memory in MB: all that is resident, its share of that, and what no other process has."""

    rss: float
    pss: float
    uss: float


def memory_of(pid: int) -> Memory:
    """Read what a process holds; programs and libraries that several processes run are shared between them."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    megabytes = {name.rstrip(":"): int(kilobytes) * 1024 / 1e6 for name, kilobytes, *_ in lines}
    own = megabytes["Private_Clean"] + megabytes["Private_Dirty"]
    return Memory(megabytes["Rss"], megabytes["Pss"], own)


def say(line: str) -> None:
    """Print a line at once: a bench takes minutes, and its output may be followed in a file."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def fresh_salt() -> int:
    """Makes this run's events unlike any other's: seven digits, that the numbers of its events have nineteen."""
    return 10**6 + time.time_ns() // 1000 % (8 * 10**6)
