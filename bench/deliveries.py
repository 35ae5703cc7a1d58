"""Deliveries: this service, a bare aiohttp loop and the usual design, alternating in one run; then many, and outages.

python -m bench.deliveries [--rounds 3] [--count 20000] [--only backlog]
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from bench import ground, paced
from bench.ground import Server
from bench.processor import busy_seconds

CONCURRENCY = 64
USUAL_SHARE = 20
MANY, MANY_PER_SECOND, MANY_SECONDS = 50, 10, 15
MILLION = 1_000_000
OUTAGE_SECONDS = 30
PER_CALL = 8
# So many events in a row about one call: more than Aircall sends, so that they have to wait for each other.
ABOUT_CALLS = f"UPDATE event SET subject = 'call:' || position / {PER_CALL}"
CALLS = "SELECT sum(calls) FROM pg_stat_statements"
FILL = """
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, subject, source, data)
    SELECT nextval('event_position'), now(), 'evt_' || md5(n::text), 'ins_' || md5((n % 100)::text), 1,
           'call.ended', 'call', 'call:' || n, 'aircall', '{}'
    FROM generate_series($1::bigint, $2::bigint) n
"""
WRITTEN = """
    SELECT coalesce(sum(n_tup_ins), 0) AS inserted, coalesce(sum(n_tup_upd), 0) AS updated
    FROM pg_stat_user_tables WHERE relname IN ('subscription', 'parked', 'attempt')
"""


class House:
    """The service, its database, and where deliveries end."""

    def __init__(self, folder: Path, url: str, server: Server, sink_port: int, api_key: str) -> None:
        self.folder, self.url, self.sink_port = folder, url, sink_port
        self.server = server
        headers = {"authorization": f"Bearer {api_key}"}
        base_url = f"http://127.0.0.1:{server.port}"
        self.partner = httpx.Client(base_url=base_url, headers=headers, trust_env=False, timeout=60.0)

    def subscribe(self, path: str, **fields: Any) -> str:
        url = f"http://127.0.0.1:{self.sink_port}{path}"
        made = self.partner.post("/v1/subscriptions", json={"name": path, "kind": "http", "url": url, **fields})
        made.raise_for_status()
        return str(made.json()["id"])

    def show(self, subscription_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.partner.get(f"/v1/subscriptions/{subscription_id}").json()
        return shown

    def count(self) -> int:
        """How much came; the database is not asked, whose statements are counted."""
        time.sleep(0.3)
        return int(httpx.get(f"http://127.0.0.1:{self.sink_port}/count", trust_env=False, timeout=60.0).text)

    def forget(self, *subscription_ids: str) -> None:
        for subscription_id in subscription_ids:
            self.partner.delete(f"/v1/subscriptions/{subscription_id}").raise_for_status()

    def came(self) -> list[tuple[str, int, float]]:
        told = httpx.get(f"http://127.0.0.1:{self.sink_port}/stats", trust_env=False, timeout=60.0).json()
        return [(path, number, at) for path, number, at in told]

    def sql(self, statement: str, *values: Any, seconds: float = 600.0) -> Any:
        async def ask() -> Any:
            connection = await asyncpg.connect(self.url)
            try:
                return await connection.fetchrow(statement, *values, timeout=seconds)
            finally:
                await connection.close()

        return asyncio.run(ask())

    @contextmanager
    def worker(self) -> Iterator[Child]:
        with Child(
            "worker", ["aircall_oauth", "work"], ground.environment(self.url, 1), self.folder / "work.log"
        ) as it:
            yield it


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        api_key = asyncio.run(api_key_of(url))
        sink_port = free_port()
        stack.enter_context(Child("sink", ["bench.sink", str(sink_port)], dict(os.environ), folder / "sink.log"))
        with ground.serving("service", folder, url) as server:
            house = House(folder, url, server, sink_port, api_key)
            ground.load(server, options.count, ground.fresh_salt())
            house.sql(ABOUT_CALLS)
            _backlog(house, options.count, options.rounds)
        if options.only == "backlog":
            return
        with serving_with_worker(folder, url) as server:
            house = House(folder, url, server, sink_port, api_key)
            _many(house)
        with ground.serving("service", folder, url) as server:
            _outage(House(folder, url, server, sink_port, api_key))


def _backlog(house: House, count: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {"bare": [], "usual": [], "subject": [], "none": []}
    busy: dict[str, list[float]] = {name: [] for name in rates}
    statements = []

    def note(name: str, rate: float, seconds: float) -> None:
        rates[name].append(rate)
        busy[name].append(seconds)

    for number in range(rounds):
        note("bare", *_send(house, "bare", count))
        note("usual", *_send(house, "usual", count // USUAL_SHARE))
        for order in ("subject", "none") if number % 2 else ("none", "subject"):
            rate, seconds, calls = _deliver(house, count, order)
            note(order, rate, seconds)
            statements.append(calls / count)
    ground.say(f"\nbacklog of {count:,} events of 2 KB to one destination, {CONCURRENCY} at once, {rounds} rounds")
    for name, each in rates.items():
        microseconds = statistics.median(busy[name]) * 1e6
        ground.say(
            f"  {name:<8} {statistics.median(each):8.0f} deliveries/s   {microseconds:6.0f} µs of its process each"
        )
    for one, other in (("none", "bare"), ("none", "usual"), ("subject", "bare"), ("subject", "none")):
        ratios = [ours / theirs for ours, theirs in zip(rates[one], rates[other], strict=True)]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        less = statistics.median(theirs / ours for ours, theirs in zip(busy[one], busy[other], strict=True))
        ground.say(
            f"  {f'{one} / {other}':<16} {statistics.median(ratios):8.2f}   {spread}   by processor time {less:.2f}"
        )
    ground.say(f"  SQL statements per delivered event {statistics.median(statements):.4f}")


def _send(house: House, which: str, count: int) -> tuple[float, float]:
    """Deliveries per second, and processor time of each."""
    house.came()
    destination = f"http://127.0.0.1:{house.sink_port}/{which}"
    command = [sys.executable, "-m", "bench.senders", which, destination, str(count), str(CONCURRENCY)]
    environment = ground.environment(house.url, 1)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ground.ROOT, env=environment, timeout=600)
    return _rate(house.came(), count), float(done.stdout) / count


def _deliver(house: House, count: int, order: str) -> tuple[float, float, int]:
    """Deliveries per second, processor time of each once the worker has begun, and the statements they cost."""
    house.came()
    subscription_id = house.subscribe("/service", order=order, **{"from": "beginning"})
    before = house.sql(CALLS)[0]
    with house.worker() as worker:
        wait_until(lambda: house.count() > 0, [worker], 300)
        came, begun = house.count(), busy_seconds(worker.pid)
        wait_until(lambda: house.count() >= count, [worker], 300)
        busy = (busy_seconds(worker.pid) - begun) / max(count - came, 1)
    calls = int(house.sql(CALLS)[0] - before)
    house.forget(subscription_id)
    return _rate(house.came(), count), busy, calls


def _rate(came: list[tuple[str, int, float]], count: int) -> float:
    assert len(came) >= count, f"{len(came)} of {count} came"
    at = sorted(moment for _, _, moment in came)
    # Without the start: a connection pool fills, a process loads.
    first, last = len(at) // 20, len(at) - 1
    return (last - first) / (at[last] - at[first])


def _many(house: House) -> None:
    """The others' p99 with one subscription hanging, against none hanging; alternating."""
    paths = [f"/many{number}" for number in range(MANY - 1)]
    others = [house.subscribe(path) for path in paths]
    p99: dict[str, list[float]] = {"/well": [], "/hang": []}
    for _ in range(3):
        for fiftieth, found in p99.items():
            one = house.subscribe(fiftieth)
            time.sleep(3)
            found.append(percentile(delays(house, MANY_PER_SECOND, MANY_SECONDS, set(paths)), 0.99))
            house.forget(one)
    house.forget(*others)
    ratios = [hanging / well for well, hanging in zip(p99["/well"], p99["/hang"], strict=True)]
    ground.say(f"\n{MANY} subscriptions, {MANY_PER_SECOND} events/s to each; p99 of the others")
    medians = {name: statistics.median(each) for name, each in p99.items()}
    ground.say(f"  none hanging {medians['/well']:6.1f} ms   one hanging {medians['/hang']:6.1f} ms")
    ground.say(f"  ratio {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


def delays(house: House, per_second: int, seconds: int, paths: set[str]) -> list[float]:
    """Milliseconds between the answer to an event and each of its deliveries."""
    time.sleep(3)  # so that every subscription has its reader
    house.came()
    answered = paced.load(house.server.port, ground.TOKEN, per_second, seconds, ground.fresh_salt())
    time.sleep(2)
    came = [(number, at) for path, number, at in house.came() if path in paths]
    assert len(came) >= len(answered) * len(paths), f"{len(came)} of {len(answered) * len(paths)} came"
    return [(at - answered[number]) * 1000 for number, at in came if number in answered]


def _outage(house: House) -> None:
    subscription_id = house.subscribe("/never", url=f"http://127.0.0.1:{free_port()}/")
    for first in range(1, MILLION, 100_000):
        house.sql(FILL.replace("$1", str(first)).replace("$2", str(first + 99_999)))
    house.sql("SELECT pg_stat_force_next_flush()")
    before = house.sql(WRITTEN)
    with house.worker():
        time.sleep(OUTAGE_SECONDS)
        shown = house.show(subscription_id)
    time.sleep(2)
    after = house.sql(WRITTEN)
    inserted, updated = (after[name] - before[name] for name in ("inserted", "updated"))
    ground.say(f"\nbacklog of {MILLION:,} while the destination is down, {OUTAGE_SECONDS} s of it")
    ground.say(f"  lag {shown['lag']:,}, parked {shown['parked']}, health {shown['health']}")
    ground.say(f"  rows written beyond the events: {inserted} inserted, {updated} updates of the subscription's row")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


@contextmanager
def serving_with_worker(folder: Path, url: str) -> Iterator[Server]:
    """`serve --with-worker`, ready."""
    port = free_port()
    command = ["aircall_oauth", "serve", "--with-worker", "--port", str(port)]
    with Child("both", command, ground.environment(url, port), folder / "both.log") as child:
        wait_until(lambda: ground.answers(port), [child], ground.READY_SECONDS)
        yield Server("both", port, child.pid)


async def api_key_of(url: str) -> str:
    return await ground.api_key(url, Scope.SUBSCRIPTIONS_READ, Scope.SUBSCRIPTIONS_WRITE)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--only", choices=["backlog"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
