"""A stranger hammers the install endpoint: `python -m bench.install_attack [requests]`, and what is left of it.

In one process, with a PostgreSQL of its own and no network: half the requests open the endpoint, half come back to the
callback with states that are made up, replayed in another browser, declined or answered with a made-up code.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from tests.support.service import Service, run_service, settings_for

from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage import migrations
from aircall_oauth.telemetry import log

AT_ONCE = 16
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"


async def main(requests: int) -> None:
    log.configure("error", "json")
    with tempfile.TemporaryDirectory() as folder, Postgres.start(Path(folder) / "data", durable=False) as server:
        await migrations.migrate(server.dsn())
        async with run_service(settings_for(server.dsn())) as service:
            before = await rows(service)
            started = time.perf_counter()
            statuses = await hammer(service, requests)
            seconds = time.perf_counter() - started
            await service.app.state.tally.write()
            after = await rows(service)
    told = {table: count - before.get(table, 0) for table, count in after.items() if count != before.get(table, 0)}
    print(f"{requests} requests in {seconds:.0f} s; answered {dict(statuses)}; rows added: {told}")


async def hammer(service: Service, requests: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    numbers = iter(range(requests // 2))

    async def one_sender() -> None:
        browser, other = service.new_browser(), service.new_browser()
        for number in numbers:
            browser.cookies.clear()
            departure = await browser.get("/aircall/oauth/install")
            state = httpx.URL(departure.headers["location"]).params["state"]
            visitor = other if number % 4 == 1 else browser
            answer = await visitor.get("/aircall/oauth/callback", params=query(number, state))
            statuses.update((departure.status_code, answer.status_code))

    await asyncio.gather(*(one_sender() for _ in range(AT_ONCE)))
    return statuses


def query(number: int, state: str) -> dict[str, str]:
    match number % 4:
        case 0:
            return {"state": f"v1.k1.{number}", "code": "x"}
        case 1:
            return {"state": state, "code": "x"}
        case 2:
            return {"state": state, "error": "access_denied"}
        case _:
            return {"state": state, "code": f"made-up-{number}"}


async def rows(service: Service) -> dict[str, int]:
    """The number of rows of every table."""
    names = [row["relname"] for row in await service.sql(TABLES)]
    return {name: (await service.sql(f'SELECT count(*) AS n FROM "{name}"'))[0]["n"] for name in names}


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
