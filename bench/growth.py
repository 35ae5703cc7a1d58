"""What things cost where up to a thousand times as much is held: processor time, which others disturb little.

python -m bench.growth [--factors 1 10 100 1000] [--count 5000] [--views 20]

At 1 there are 10 installations, 1 subscription and a day of 10,000 events. A thousand times as much needs 8 GB of disk.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from bench import console_data, ground, sql
from bench.deliveries import House, serving_with_worker
from bench.processor import busy_seconds, family_seconds

INSTALLATIONS, SUBSCRIPTIONS, EVENTS = 10, 1, 10_000
RESTING_SECONDS = 30
PATIENCE_SECONDS = 600
SCOPES = [Scope.SUBSCRIPTIONS_READ, Scope.SUBSCRIPTIONS_WRITE, Scope.EVENTS_READ, Scope.CONSOLE_READ]
# What autovacuum does for minutes after so much was written, at once: it is not what is measured.
TIDY = ("VACUUM (FREEZE, ANALYZE)", "CHECKPOINT")
# All are up to date, and none wants what comes.
ALL_IDLE = """
    WITH no_tries AS (DELETE FROM attempt), none_parked AS (DELETE FROM parked)
    UPDATE subscription SET types = '{none.such}', health = 'up', last_error = NULL, ordering = 'subject',
        position = (SELECT last_value FROM event_position)
"""
# The chores that read each event once have read those that were filled in, too.
ALL_READ = "SELECT count(*) > 0 AND bool_and(position >= (SELECT max(position) FROM event)) FROM log_reader"


class Spent(NamedTuple):
    """Processor time of the service, and of PostgreSQL."""

    service: float
    postgres: float

    def per(self, count: int) -> str:
        return f"{self.service / count * 1e6:,.0f} + {self.postgres / count * 1e6:,.0f} µs"


class Held:
    """A service over a database that holds so many times as much as the smallest."""

    def __init__(self, stack: ExitStack, factor: int) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        self._postgres = stack.enter_context(ground.durable_postgres(self.folder))
        self.url = self._postgres.dsn()
        filled = console_data.fill(
            self.url,
            installations=INSTALLATIONS * factor,
            subscriptions=SUBSCRIPTIONS * factor,
            days=1,
            events=EVENTS * factor,
        )
        asyncio.run(filled)
        _run(self.url, *TIDY)
        self.api_key = asyncio.run(ground.api_key(self.url, *SCOPES))

    def spent(self, pid: int, work: Callable[[], object]) -> Spent:
        """Return what the service (its `pid`) and PostgreSQL spend on some work."""
        before = busy_seconds(pid), family_seconds(self._postgres.pid)
        work()
        return Spent(busy_seconds(pid) - before[0], family_seconds(self._postgres.pid) - before[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--views", type=int, default=20)
    options = parser.parse_args()
    for factor in options.factors:
        with ExitStack() as stack:
            held = Held(stack, factor)
            ground.say(f"{factor} × (service + PostgreSQL)")
            _without_worker(held, options.count, options.views)
            _with_worker(held, options.count)


def _without_worker(held: Held, count: int, views: int) -> None:
    port = free_port()
    with ground.serving("service", held.folder, held.url, CONSOLE_PORT=str(port)) as server:
        ground.load(server, 500, ground.fresh_salt())
        spent = held.spent(server.pid, lambda: ground.load(server, count, ground.fresh_salt()))
        ground.say(f"  an event taken in       {spent.per(count)}")
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=60.0) as partner:
            partner.headers["authorization"] = f"Bearer {held.api_key}"
            for name, path in (
                ("newest 100 events", "/v1/events?order=desc&limit=100"),
                ("events of one call", "/v1/events?order=desc&call_id=2400000100"),
            ):
                _views(held, server.pid, name, partner, path, views)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60.0) as browser:
            signed_in = browser.post(
                "/sign-in", data={"api_key": held.api_key}, headers={"sec-fetch-site": "same-origin"}
            )
            # A secure cookie, which the client would not send over http.
            browser.headers["cookie"] = signed_in.headers["set-cookie"].partition(";")[0]
            for name, path in (("first page", "/"), ("customers", "/customers"), ("destinations", "/destinations")):
                _views(held, server.pid, f"console: {name}", browser, path, views)


def _views(held: Held, pid: int, name: str, client: httpx.Client, path: str, views: int) -> None:
    def view() -> None:
        answer = client.get(path)
        if answer.status_code != 200:
            sys.exit(f"{path}: {answer.status_code} {answer.text[:200]}")

    def look() -> None:
        for _ in range(views):
            view()

    view()
    ground.say(f"  {name:<24}{held.spent(pid, look).per(views)}")


def _with_worker(held: Held, count: int) -> None:
    with _house(held) as (house, sink):
        wait_until(lambda: house.sql(ALL_READ)[0], [sink], PATIENCE_SECONDS)
        time.sleep(RESTING_SECONDS / 2)
        resting = held.spent(house.server.pid, lambda: time.sleep(RESTING_SECONDS))
        ground.say(f"  at rest, a second       {resting.per(RESTING_SECONDS)}")
        house.subscribe("/all")

        def delivered() -> None:
            ground.load(house.server, count, ground.fresh_salt())
            wait_until(lambda: house.count() >= count, [sink], PATIENCE_SECONDS)

        spent = held.spent(house.server.pid, delivered)
        ground.say(f"  taken in and delivered  {spent.per(count)}, resting included")
        ground.say(f"  memory of the process   {ground.resident_megabytes(house.server):.0f} MB")


@contextmanager
def _house(held: Held) -> Iterator[tuple[House, Child]]:
    """A service with a worker, whose subscriptions want nothing, and a place for deliveries."""
    port = free_port()
    with ExitStack() as stack:
        sink = Child("sink", ["bench.sink", str(port)], dict(os.environ), held.folder / "sink.log")
        stack.enter_context(sink)
        _run(held.url, ALL_IDLE, "VACUUM ANALYZE subscription, parked, attempt")
        server = stack.enter_context(serving_with_worker(held.folder, held.url))
        yield House(held.folder, held.url, server, port, held.api_key), sink


def _run(url: str, *statements: str) -> None:
    for statement in statements:
        asyncio.run(sql.run(url, statement))


if __name__ == "__main__":
    main()
