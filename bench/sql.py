"""One statement outside a transaction: `python -m bench.sql URL STATEMENT`."""

import asyncio
import sys

import asyncpg


async def run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
