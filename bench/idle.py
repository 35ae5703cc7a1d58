"""What processes without work ask of PostgreSQL: statements a minute, and the connections they hold.

python -m bench.idle [--web 3] [--workers 2] [--minutes 2] [--top 15]
"""

import argparse
import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import asyncpg

from aircall_oauth.sandbox.children import Child
from bench import ground

# After its start a process still makes days ahead, checks and settles.
SETTLED_SECONDS = 90
OF_THE_SERVICE = "usename = current_user AND application_name = 'aircall-oauth'"
HELD = f"SELECT count(*) FROM pg_stat_activity WHERE {OF_THE_SERVICE}"
ASKED = """
    SELECT query, calls FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
    WHERE datname = current_database() AND query NOT LIKE '%pg_stat_statements%' ORDER BY calls DESC
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, number in (("web", 3), ("workers", 2), ("minutes", 2), ("top", 15)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        for _ in range(options.web):
            stack.enter_context(ground.serving("service", folder, url))
        for number in range(options.workers):
            command = ["aircall_oauth", "work"]
            environment = ground.environment(url, 8000)
            stack.enter_context(Child(f"worker {number}", command, environment, folder / f"worker{number}.log"))
        time.sleep(SETTLED_SECONDS)
        asyncio.run(_watch(url, options))


async def _watch(url: str, options: argparse.Namespace) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT pg_stat_statements_reset()")
    await asyncio.sleep(60 * options.minutes)
    rows, held = await connection.fetch(ASKED), await connection.fetchval(HELD)
    await connection.close()
    processes = options.web + options.workers
    ground.say(f"{options.web} web and {options.workers} worker processes without work, {options.minutes} minutes:")
    ground.say(f"  {held} connections held, {held / processes:.1f} each")
    ground.say(f"  {sum(row['calls'] for row in rows) / options.minutes:,.0f} statements a minute, most of all:")
    for row in rows[: options.top]:
        ground.say(f"  {row['calls'] / options.minutes:7,.1f}  {' '.join(row['query'].split())[:100]}")


if __name__ == "__main__":
    main()
