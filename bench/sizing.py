"""What things take in memory and on disk, for `docs/sizing.md`. No times: other programs may run meanwhile.

python -m bench.sizing [--readers 500] [--subscriptions 200] [--events 10000]
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx

from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.children import Child
from aircall_oauth.sandbox.ports import free_port
from bench import ground
from bench.deliveries import House, serving_with_worker

SETTLED_SECONDS = 15
READER_SECONDS = 60
SCOPES = [Scope.SUBSCRIPTIONS_READ, Scope.SUBSCRIPTIONS_WRITE, Scope.EVENTS_READ]
EVENTS = "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'event'::regclass"
TABLE = "SELECT pg_total_relation_size('{}')"
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'aircall-oauth' AND pid <> pg_backend_pid()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--subscriptions", type=int, default=200)
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        api_key, sink_port = asyncio.run(ground.api_key(url, *SCOPES)), free_port()
        stack.enter_context(Child("sink", ["bench.sink", str(sink_port)], dict(os.environ), folder / "sink.log"))
        server = stack.enter_context(serving_with_worker(folder, url))
        house = House(folder, url, server, sink_port, api_key)
        _disk(house, options.events)
        _memory("subscription that is up to date", house, options.subscriptions, lambda: _subscribe(house, options))
        newest = house.sql("SELECT max(position) FROM event")[0]
        asyncio.run(_readers(house, api_key, newest, options.readers))
        ground.say(f"connections to PostgreSQL now: {house.sql(OPEN)[0]}")


def _disk(house: House, events: int) -> None:
    """Take events in and deliver each once."""
    house.subscribe("/all")
    tables = {"event": EVENTS, **{name: TABLE.format(name) for name in ("event_fingerprint", "told_call", "attempt")}}
    before = {name: house.sql(statement)[0] for name, statement in tables.items()}
    ground.load(house.server, events, ground.fresh_salt())
    while house.count() < events:
        time.sleep(1)
    house.sql("SELECT pg_sleep(3)")
    for name, statement in tables.items():
        ground.say(f"bytes per event in {name}: {(house.sql(statement)[0] - before[name]) / events:,.0f}")


def _subscribe(house: House, options: argparse.Namespace) -> None:
    for number in range(options.subscriptions):
        house.subscribe(f"/{number}", types=["message.*"])


def _memory(what: str, house: House, count: int, add: Callable[[], None]) -> None:
    time.sleep(SETTLED_SECONDS)
    before = ground.resident_megabytes(house.server)
    add()
    time.sleep(SETTLED_SECONDS)
    after = ground.resident_megabytes(house.server)
    ground.say(f"{count} × {what}: {before:.1f} → {after:.1f} MB, {(after - before) / count * 1000:.0f} KB each")


async def _readers(house: House, api_key: str, after: int, count: int) -> None:
    """Have readers wait for an event that does not come."""
    before = ground.resident_megabytes(house.server)
    headers, base_url = {"authorization": f"Bearer {api_key}"}, f"http://127.0.0.1:{house.server.port}"
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(
        base_url=base_url, headers=headers, limits=limits, trust_env=False, timeout=READER_SECONDS
    ) as client:
        waiting = [
            asyncio.create_task(client.get("/v1/events", params={"after": after, "wait": 30})) for _ in range(count)
        ]
        await asyncio.sleep(SETTLED_SECONDS)
        most = ground.resident_megabytes(house.server)
        still = sum(not each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*waiting, return_exceptions=True)
    ground.say(
        f"{still} × reader that waits: {before:.1f} → {most:.1f} MB, {(most - before) / count * 1000:.0f} KB each"
    )


if __name__ == "__main__":
    main()
