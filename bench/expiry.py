"""Events of one type expire beside the receiver: what does it cost the receiver, and how long is a step's transaction?

python -m bench.expiry [--rounds 3] [--count 6000] [--events 60000]
"""

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from aircall_oauth.privacy import expiring
from aircall_oauth.resources import open_resources
from bench import ground
from bench.ground import Server

# Half of the day's events are of the type that expires, each of 1.5 KB, as few of which lie inline as in truth.
FILL = """
    CREATE TABLE event_{day} PARTITION OF event FOR VALUES FROM ('{begin}') TO ('{end}');
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, subject, source, data)
    SELECT nextval('event_position'), '{begin}'::timestamptz + n * interval '1 ms', 'evt_' || md5(n::text),
           'ins_' || md5((n % 1000)::text), 1, (ARRAY['transcription.created', 'call.ended'])[1 + n % 2], 'call',
           'call:' || n, 'aircall', (SELECT string_agg(md5(n::text || m::text), '') FROM generate_series(1, 48) m)
    FROM generate_series(1, {events}) n;
    ANALYZE event_{day};
"""
LEFT = "SELECT count(*) FROM event WHERE type = 'transcription.created' AND erased_at IS NULL"


@dataclass
class Seen:
    """The steps of a round: how long each took, from its first lock to its commit."""

    milliseconds: list[float] = field(default_factory=list)
    events: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rounds", 3), ("count", 6000), ("events", 60_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        ground.SETTINGS |= {"EVENT_TYPE_RETENTION": "transcription.*=7d"}
        for number in range(asked.rounds):
            asyncio.run(_fill(url, 8 + asked.rounds - number, asked.events))
        server = stack.enter_context(ground.serving("service", folder, url))
        ground.load(server, 1000, ground.fresh_salt())
        _measure(server, url, asked.rounds, asked.count)


def _measure(server: Server, url: str, rounds: int, count: int) -> None:
    rates, slow, steps, events, seconds = [], [], [], 0, 0.0
    for number in range(rounds):
        alone = ground.load(server, count, ground.fresh_salt())
        seen, over = Seen(), threading.Event()
        beside = threading.Thread(target=lambda seen=seen, over=over: asyncio.run(_expire(url, seen, over)))
        beside.start()
        while not seen.milliseconds and beside.is_alive():
            time.sleep(0.01)
        with_it = ground.load(server, count, ground.fresh_salt())
        over.set()
        beside.join()
        rates.append(with_it["per_second"] / alone["per_second"])
        slow.append(with_it["p99_ms"] / alone["p99_ms"])
        steps += seen.milliseconds
        events, seconds = events + seen.events, seconds + seen.seconds
        ground.say(
            f"round {number}: {alone['per_second']:.0f} → {with_it['per_second']:.0f} acks/s, {seen.events} expired"
        )
    ordered = sorted(steps)
    ground.say(f"acks/s with, against without: {statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})")
    ground.say(f"p99 with, against without:    {statistics.median(slow):.2f} × ({min(slow):.2f} to {max(slow):.2f})")
    ground.say(
        f"{len(steps)} steps of {expiring.BATCH}: {ordered[len(ordered) // 2]:.0f} ms at the median, "
        f"{ordered[len(ordered) * 99 // 100]:.0f} ms p99, {ordered[-1]:.0f} ms at most; {events / seconds:.0f} events/s"
    )


async def _expire(url: str, seen: Seen, over: threading.Event) -> None:
    """Expire what is due, round after round, until the load is over."""
    step: Callable[..., Awaitable[Any]] = expiring._expire_some

    async def timed(*given: Any) -> Any:
        if over.is_set():
            raise expiring.KeepingChanged
        started = time.perf_counter()
        done = await step(*given)
        seen.milliseconds.append((time.perf_counter() - started) * 1000)
        seen.events += done[1]
        return done

    expiring._expire_some = timed  # type: ignore[assignment]
    started = time.perf_counter()
    try:
        async with open_resources(ground.settings_for(url)) as resources:
            while not over.is_set() and await _left(url):
                await expiring.expire(resources)
    finally:
        expiring._expire_some = step  # type: ignore[assignment]
    seen.seconds = time.perf_counter() - started


async def _left(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval(LEFT))
    finally:
        await connection.close()


async def _fill(url: str, days_ago: int, events: int) -> None:
    begin = datetime.now(UTC).date() - timedelta(days=days_ago)
    end = begin + timedelta(days=1)
    statement = FILL.format(day=f"{begin:%Y%m%d}", begin=f"{begin} 00:00+00", end=f"{end} 00:00+00", events=events)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
