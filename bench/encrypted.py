"""What encrypting events at rest costs: a receiver and a reader with and without, alternating in one run.

python -m bench.encrypted [--rounds 5] [--count 5000]

Two servers over two databases of one PostgreSQL; each round loads both, with bodies of 2 KB made from the samples, and
reads all of both logs, a thousand events a page.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import asyncpg

from aircall_oauth.access.scopes import Scope
from bench import ground
from bench.feed import read_all
from bench.ground import Server
from bench.receiver import costs_of

CLEAR, ENCRYPTED = "in clear", "encrypted"
BYTES = "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'event'::regclass"


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        postgres = stack.enter_context(ground.durable_postgres(folder))
        urls = {CLEAR: postgres.dsn("clear"), ENCRYPTED: postgres.dsn("encrypted")}
        asyncio.run(_make(postgres.dsn(), "clear", "encrypted"))
        api_keys = {name: asyncio.run(_prepared(url)) for name, url in urls.items()}
        servers = {
            name: stack.enter_context(
                ground.serving("service", folder, url, ENCRYPT_EVENTS=str(name == ENCRYPTED).lower())
            )
            for name, url in urls.items()
        }
        for server in servers.values():
            ground.load(server, 500, ground.fresh_salt())
        _compare("acks/s", [_received(servers, options.count) for _ in range(options.rounds)])
        costs = {
            name: asyncio.run(costs_of(urls[name], postgres, server, options.count, "varied"))
            for name, server in servers.items()
        }
        for what in ("server", "postgres", "wal"):
            _compare({"wal": "WAL bytes"}.get(what, f"µs, {what}"), [{name: costs[name][what] for name in servers}])
        _compare("bytes stored", [{name: asyncio.run(_bytes(url)) for name, url in urls.items()}])
        reads = [
            {name: read_all(server, api_keys[name]) for name, server in servers.items()} for _ in range(options.rounds)
        ]
        _compare("events/s read", reads)


def _received(servers: dict[str, Server], count: int) -> dict[str, float]:
    return {name: ground.load(server, count, ground.fresh_salt())["per_second"] for name, server in servers.items()}


def _compare(what: str, rounds: list[dict[str, float]]) -> None:
    """Medians, and the ratio of each round."""
    ratios = [each[ENCRYPTED] / each[CLEAR] for each in rounds]
    clear, encrypted = (statistics.median(each[name] for each in rounds) for name in (CLEAR, ENCRYPTED))
    sys.stdout.write(
        f"{what:<16} {CLEAR} {clear:10,.0f}   {ENCRYPTED} {encrypted:10,.0f}   "
        f"ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})\n"
    )
    sys.stdout.flush()


async def _make(url: str, *names: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for name in names:
            await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()


async def _prepared(url: str) -> str:
    """A migrated database; an API key for it."""
    await ground.prepare(url)
    return await ground.api_key(url, Scope.EVENTS_READ)


async def _bytes(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        return float(await connection.fetchval(f"SELECT ({BYTES})::float8 / (SELECT count(*) FROM event)"))
    finally:
        await connection.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=5_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
