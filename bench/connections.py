"""What a new connection costs up to its first row with an array: arrays registered by us, against asking for them.

python -m bench.connections [--rounds 5]
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import asyncpg
from sqlmodel import select

from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage import arrays, migrations
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.models.installations import Installation
from bench import ground
from bench.processor import family_seconds

CONNECTIONS = 60
# Until PostgreSQL has counted the processes that ended.
SETTLE_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-") as folder,
        Postgres.start(Path(folder) / "postgres", durable=False) as postgres,
    ):
        asyncio.run(compare(postgres, rounds))


async def compare(postgres: Postgres, rounds: int) -> None:
    """Say the medians of rounds in turn: of a connection's time, and of PostgreSQL's processor time for it."""
    await migrations.migrate(postgres.dsn())
    asked: list[tuple[float, float]] = []
    registered: list[tuple[float, float]] = []
    for _ in range(rounds):
        with patch.object(arrays, "register", _register_nothing):
            asked.append(await measure(postgres))
        registered.append(await measure(postgres))
    ground.say(f"{'a new session and its first row':<34}{'time':>10}{'PostgreSQL':>14}")
    for name, seen in (("asks for arrays, as asyncpg does", asked), ("has them registered, as here", registered)):
        seconds, processor = (median(column) for column in zip(*seen, strict=True))
        ground.say(f"{name:<34}{seconds * 1000:>7.1f} ms{processor * 1000:>11.1f} ms")
    ratios = [ours[1] / theirs[1] for theirs, ours in zip(asked, registered, strict=True)]
    ground.say(f"PostgreSQL's, of each pair: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


async def measure(postgres: Postgres) -> tuple[float, float]:
    """Seconds of one connection, the median, and PostgreSQL's processor time for one, the mean."""
    before = family_seconds(postgres.pid)
    seconds = [await one(postgres.dsn()) for _ in range(CONNECTIONS)]
    await asyncio.sleep(SETTLE_SECONDS)
    return median(seconds), (family_seconds(postgres.pid) - before) / CONNECTIONS


async def one(url: str) -> float:
    """Open a session, read from a table with an array, and close it; returns the seconds until it was read."""
    database, began = Database(url), time.perf_counter()
    async with database.session() as session:
        await session.exec(select(Installation.number_ids))
        took = time.perf_counter() - began
    await database.close()
    return took


def _register_nothing(_connection: asyncpg.Connection) -> None:
    """So asyncpg asks."""


if __name__ == "__main__":
    main()
