"""What destinations that never answer cost: a worker's memory, and statements for events that nobody wants.

python -m bench.stalled [--subscriptions 120] [--events 5000]
"""

import argparse
import asyncio
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import asyncpg

from bench import ground
from bench.deliveries import CALLS, House, api_key_of, serving_with_worker

KILOBYTES = 10
UNWANTED_PER_SECOND, UNWANTED_SECONDS, UNWANTED_SUBSCRIPTIONS = 20, 20, 200
WATCHED_SECONDS = 60
FILL = """
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, source, data)
    SELECT nextval('event_position'), now(), 'evt_' || md5(random()::text || n), 'ins_' || md5((n % 100)::text), 1,
           $2, 'call', 'aircall', (SELECT json_object_agg(k, md5(random()::text || n)) FROM generate_series(1, $3) k)
    FROM generate_series(1, $1::int) n
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=120)
    parser.add_argument("--events", type=int, default=5000)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        server = stack.enter_context(serving_with_worker(folder, url))
        house = House(folder, url, server, _never_answering(), asyncio.run(api_key_of(url)))
        _unwanted(house)
        _memory(house, options.subscriptions, options.events)


def _memory(house: House, subscriptions: int, events: int) -> None:
    before = ground.resident_megabytes(house.server)
    ids = [house.subscribe(f"/{number}") for number in range(subscriptions)]
    asyncio.run(_fill(house.url, events, "call.ended", KILOBYTES * 1024 // 42))
    most = 0.0
    for _ in range(WATCHED_SECONDS):
        time.sleep(1)
        most = max(most, ground.resident_megabytes(house.server))
    ground.say(
        f"memory: {before:.0f} MB at rest; at most {most:.0f} MB with {subscriptions} destinations that never answer, "
    )
    ground.say(f"        and {events:,} events of {KILOBYTES} KB behind ({WATCHED_SECONDS} s)")
    house.forget(*ids)


def _unwanted(house: House) -> None:
    ids = [house.subscribe(f"/{number}", types=["message.*"]) for number in range(UNWANTED_SUBSCRIPTIONS)]
    time.sleep(30)
    statements = asyncio.run(_tell_unwanted(house.url))
    ground.say(
        f"statements: {statements / UNWANTED_SECONDS:.0f} a second, all chores included, for "
        f"{UNWANTED_PER_SECOND} events a second that none of {UNWANTED_SUBSCRIPTIONS} subscriptions wants"
    )
    house.forget(*ids)


async def _fill(url: str, count: int, type_: str, keys: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(FILL, count, type_, keys)
    await connection.execute("NOTIFY aircall_oauth_log")
    await connection.close()


async def _tell_unwanted(url: str) -> int:
    connection = await asyncpg.connect(url)
    before = await connection.fetchval(CALLS)
    for _ in range(UNWANTED_PER_SECOND * UNWANTED_SECONDS):
        await connection.execute(FILL, 1, "call.ended", 1)
        await connection.execute("NOTIFY aircall_oauth_log")
        await asyncio.sleep(1 / UNWANTED_PER_SECOND)
    after = await connection.fetchval(CALLS)
    await connection.close()
    own = 2 * UNWANTED_PER_SECOND * UNWANTED_SECONDS
    return int(after - before - own)


def _never_answering() -> int:
    """A server that reads what comes and says nothing; its port."""
    ports: list[int] = []
    ready = threading.Event()

    async def serve() -> None:
        async def swallow(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            while await reader.read(65_536):
                pass

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    ready.wait()
    return ports[0]


if __name__ == "__main__":
    main()
