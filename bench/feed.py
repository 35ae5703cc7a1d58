"""Events per second one reader reads over HTTP, a thousand at a time; the same rows read with bare asyncpg beside it.

python -m bench.feed [--events 200000]
"""

import argparse
import asyncio
import http.client
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import msgspec

from aircall_oauth.access.scopes import Scope
from bench import ground
from bench.ground import Server

PAGE = 1000
ROUNDS = 3


class Page(msgspec.Struct):
    events: list[msgspec.Raw]
    next: int
    more: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    events = parser.parse_args().events
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        postgres = stack.enter_context(ground.durable_postgres(folder))
        url = postgres.dsn()
        asyncio.run(ground.prepare(url))
        api_key = asyncio.run(ground.api_key(url, Scope.EVENTS_READ))
        server = stack.enter_context(ground.serving("service", folder, url))
        ground.load(server, events, ground.fresh_salt())
        rounds = [(read_all(server, api_key), asyncio.run(_read_bare(url))) for _ in range(ROUNDS)]
        sys.stdout.write(
            f"\nfeed: medians of {ROUNDS} rounds, {events:,} events of 2 KB, {PAGE} a page\n"
            f"  one reader over HTTP   {statistics.median(one for one, _ in rounds):9,.0f} events/s\n"
            f"  bare asyncpg           {statistics.median(two for _, two in rounds):9,.0f} events/s\n"
            f"  ratio                  {statistics.median(one / two for one, two in rounds):9.2f}\n"
            f"  memory of the process  {ground.resident_megabytes(server):9.0f} MB\n"
        )


def read_all(server: Server, api_key: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"authorization": f"Bearer {api_key}"}
    page, count, started = Page([], 0, True), 0, time.perf_counter()
    while page.more:
        connection.request("GET", f"/v1/events?after={page.next}&limit={PAGE}", headers=headers)
        page = msgspec.json.decode(connection.getresponse().read(), type=Page)
        count += len(page.events)
    return count / (time.perf_counter() - started)


async def _read_bare(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        after, count, started = 0, 0, time.perf_counter()
        while rows := await connection.fetch(
            "SELECT * FROM event WHERE position > $1 ORDER BY position LIMIT $2", after, PAGE
        ):
            after, count = rows[-1]["position"], count + len(rows)
        return count / (time.perf_counter() - started)
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
