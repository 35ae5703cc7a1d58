"""A rotation of many sealed rows under live reads: does a read fail, and how long does a write wait for a row?

python -m bench.rotation [--rows 100000]
"""

import argparse
import asyncio
import http.client
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from aircall_oauth.access.scopes import Scope
from aircall_oauth.resources import vault_of
from aircall_oauth.storage.sealed import TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.vault import SealedAt
from bench import ground
from bench.ground import Server

NEW_KEY = "new:" + "c" * 43 + "="
READERS = 4


@dataclass
class Seen:
    """What went on beside the rotation."""

    reads: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_read: float = 0.0
    writes: int = 0
    slowest_write: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        ids = asyncio.run(_fill(url, rows))
        ground.SETTINGS |= {
            "SECRET_KEYS": f"{NEW_KEY},{ground.SETTINGS['SECRET_KEYS']}",
            "TOKEN_READS_PER_MINUTE": "100000",
        }
        api_key = asyncio.run(ground.api_key(url, Scope.TOKENS_READ))
        server = stack.enter_context(ground.serving("service", folder, url))
        ground.say(
            f"\nrotation of {rows:,} rows, {READERS} readers of tokens and one writer of the same rows beside it"
        )
        _rotate_beside(server, url, api_key, ids)


def _rotate_beside(server: Server, url: str, api_key: str, ids: list[str]) -> None:
    seen, over = Seen(), threading.Event()
    beside = [threading.Thread(target=_read, args=(server, api_key, ids, seen, over)) for _ in range(READERS)]
    beside.append(threading.Thread(target=lambda: asyncio.run(_write(url, ids, seen, over))))
    for thread in beside:
        thread.start()
    command = [sys.executable, "-m", "aircall_oauth", "secrets", "rotate"]
    started = time.perf_counter()
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=ground.environment(url, server.port), timeout=600
    )
    seconds = time.perf_counter() - started
    over.set()
    for thread in beside:
        thread.join()
    ground.say(
        f"  {done.stderr.strip().replace(chr(10), ' ')}\n"
        f"  took                {seconds:8.1f} s\n"
        f"  reads meanwhile     {seen.reads:8,}   slowest {seen.slowest_read * 1000:.0f} ms   "
        f"failed {len(seen.failed)}\n"
        f"  writes meanwhile    {seen.writes:8,}   slowest {seen.slowest_write * 1000:.0f} ms"
    )
    assert not seen.failed, seen.failed[:3]


def _read(server: Server, api_key: str, ids: list[str], seen: Seen, over: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    while not over.is_set():
        one, started = random.choice(ids), time.perf_counter()  # noqa: S311 - no secret
        connection.request("GET", f"/v1/installations/{one}/token", headers={"authorization": f"Bearer {api_key}"})
        answer = connection.getresponse()
        body = answer.read().decode()
        seen.reads += 1
        seen.slowest_read = max(seen.slowest_read, time.perf_counter() - started)
        if answer.status != 200 or f"token-of-{one}" not in body:
            seen.failed.append(f"{answer.status} {body}")


async def _write(url: str, ids: list[str], seen: Seen, over: threading.Event) -> None:
    """Changes one row after the other, and so waits for whoever has its lock."""
    connection = await asyncpg.connect(url)
    while not over.is_set():
        one, started = random.choice(ids), time.perf_counter()  # noqa: S311 - no secret
        await connection.execute("UPDATE installation SET company_name = 'x' WHERE id = $1", one)
        seen.writes += 1
        seen.slowest_write = max(seen.slowest_write, time.perf_counter() - started)
    await connection.close()


async def _fill(url: str, count: int) -> list[str]:
    vault, connection = vault_of(ground.settings_for(url)), await asyncpg.connect(url)
    ids = [new_id("ins") for _ in range(count)]
    columns = ["id", "status", "company_id", "integration_id", "token_sealed", "token_fingerprint", "connected_at"]
    records = [
        (one, "active", 10 + n, 10 + n, vault.seal(token, SealedAt(TOKEN_COLUMN, one)), print_, now())
        for n, one in enumerate(ids)
        for token in (f"token-of-{one}",)
        for print_ in (vault.fingerprint(token, TOKEN_PURPOSE),)
    ]
    await connection.copy_records_to_table("installation", records=records, columns=columns)
    await connection.execute("ANALYZE installation")
    await connection.close()
    return ids


if __name__ == "__main__":
    main()
