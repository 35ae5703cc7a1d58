"""What deliveries are measured against, each a process of its own.

python -m bench.senders bare|usual URL COUNT CONCURRENCY

`bare`: a loop that posts the bodies of the log's first events with aiohttp and does nothing else. `usual`: what most
teams would write, a row per delivery, taken with SKIP LOCKED, posted with httpx, marked. Prints the processor
time of its deliveries in seconds.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator

import aiohttp
import asyncpg
import httpx
import msgspec
import uvloop

from aircall_oauth.events.query import COLUMNS, event_of
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.vault import Vault

TABLE = """
    DROP TABLE IF EXISTS usual_delivery;
    CREATE TABLE usual_delivery (id bigserial PRIMARY KEY, event_id text, body text, status text DEFAULT 'pending',
                                 attempts int DEFAULT 0, next_at timestamptz DEFAULT now());
    CREATE INDEX ON usual_delivery (next_at) WHERE status = 'pending';
"""
TAKE = """
    SELECT id, body FROM usual_delivery WHERE status = 'pending' AND next_at <= now()
    ORDER BY next_at FOR UPDATE SKIP LOCKED LIMIT 1
"""
DONE = "UPDATE usual_delivery SET status = 'delivered', attempts = attempts + 1 WHERE id = $1"


async def bodies(database_url: str, count: int) -> list[bytes]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(f"SELECT {COLUMNS} FROM event ORDER BY position LIMIT $1", count)
    finally:
        await connection.close()
    return [msgspec.json.encode(event_of(row, DataKeys(Vault({}, b"")))) for row in rows]


async def bare(database_url: str, url: str, count: int, concurrency: int) -> None:
    left: Iterator[bytes] = iter(await bodies(database_url, count))
    connector, before = aiohttp.TCPConnector(limit=concurrency), time.process_time()
    async with aiohttp.ClientSession(connector=connector, headers={"content-type": "application/json"}) as session:

        async def post() -> None:
            for body in left:
                async with session.post(url, data=body) as response:
                    await response.read()

        await asyncio.gather(*(post() for _ in range(concurrency)))
    sys.stdout.write(f"{time.process_time() - before}\n")


async def usual(database_url: str, url: str, count: int, concurrency: int) -> None:
    pool = await asyncpg.create_pool(database_url, min_size=20, max_size=20)
    await pool.execute(TABLE)
    await pool.executemany(
        "INSERT INTO usual_delivery (event_id, body) VALUES ($1, $2)",
        [(str(number), body.decode()) for number, body in enumerate(await bodies(database_url, count))],
    )
    before = time.process_time()
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:

        async def work() -> None:
            while True:
                async with pool.acquire() as connection, connection.transaction():
                    row = await connection.fetchrow(TAKE)
                    if row is None:
                        return
                    await client.post(url, content=row["body"].encode(), headers={"content-type": "application/json"})
                    await connection.execute(DONE, row["id"])

        await asyncio.gather(*(work() for _ in range(concurrency)))
    await pool.close()
    sys.stdout.write(f"{time.process_time() - before}\n")


if __name__ == "__main__":
    which, destination, number, at_once = sys.argv[1:]
    senders = {"bare": bare, "usual": usual}
    uvloop.run(senders[which](os.environ["BENCH_DATABASE_URL"], destination, int(number), int(at_once)))
