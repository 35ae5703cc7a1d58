"""What finding events by subject costs the receiver, and what a search costs: all in one run.

The receiver as it is, without the index, and without saying what an event is about, so with an index that stays empty.

python -m bench.search [--rounds 3] [--count 5000] [--days 10] [--events 100000]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg

from aircall_oauth.access import callers
from aircall_oauth.events import newest
from aircall_oauth.events.newest import Search
from aircall_oauth.events.query import Filter
from aircall_oauth.events.spans import Span
from aircall_oauth.resources import open_resources
from bench import ground

PER_CALL = 8
# Less than a day: PostgreSQL rounds an interval to microseconds.
DAY_SECONDS = 86_000
TIMES = 20
FILL = """
    CREATE TABLE event_{day} PARTITION OF event FOR VALUES FROM ('{begin}') TO ('{end}');
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, subject, source, data)
    SELECT nextval('event_position'), '{begin}'::timestamptz + n * interval '{every} s', 'evt_' || md5(n::text),
           'ins_' || md5((n % 1000)::text), 1, 'call.ended', 'call', 'call:' || (2400000000 + {first} + n / {per_call}),
           'aircall', repeat('x', 300)
    FROM generate_series(1, {events}) n
"""
SIZE = """
    SELECT sum(pg_relation_size(x.indexrelid)) FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indexrelid
    WHERE i.inhparent = 'ix_event_subject_position'::regclass
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rounds", 3), ("count", 5000), ("days", 10), ("events", 100_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        postgres = stack.enter_context(ground.durable_postgres(folder))
        for other in ("without", "unfilled"):
            asyncio.run(_execute(postgres.dsn(), f"CREATE DATABASE {other}"))
        urls = {"with": postgres.dsn(), "without": postgres.dsn("without"), "unfilled": postgres.dsn("unfilled")}
        servers = {}
        for name, url in urls.items():
            asyncio.run(ground.prepare(url))
            (folder / name).mkdir()
            kind = "subjectless" if name == "unfilled" else "service"
            servers[name] = stack.enter_context(ground.serving(kind, folder / name, url))
        asyncio.run(_execute(urls["without"], "DROP INDEX ix_event_subject_position"))
        for server in servers.values():
            ground.load(server, 500, ground.fresh_salt())
        rounds = [asyncio.run(_round(urls, servers, options.count, number)) for number in range(options.rounds)]
        assert asyncio.run(_execute(urls["unfilled"], "SELECT count(subject) FROM event")) == 0
        for what in ("per_second", "wal"):
            for other in ("without", "unfilled"):
                ratios = [each["with"][what] / each[other][what] for each in rounds]
                spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
                ground.say(f"  {what:<10} {f'with / {other}':<16} {statistics.median(ratios):5.2f} {spread}")
        if not options.days:
            return
        ground.say(f"  WAL bytes per event    {statistics.median(each['with']['wal'] for each in rounds):6.0f}")
        asyncio.run(_search(urls["with"], options.days, options.events))


async def _round(urls: dict[str, str], servers: dict[str, Any], count: int, turn: int) -> dict[str, dict[str, float]]:
    found = {}
    names = list(servers)
    for name in names[turn % len(names) :] + names[: turn % len(names)]:
        server = servers[name]
        before = await _execute(urls[name], "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        done = await asyncio.to_thread(ground.load, server, count, ground.fresh_salt())
        after = await _execute(urls[name], "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        found[name] = {"per_second": done["per_second"], "wal": float(after - before) / count}
    return found


async def _search(url: str, days: int, events: int) -> None:
    for number in range(days):
        day = time.strftime("%Y%m%d", time.gmtime(time.time() - (days - number + 1) * 86400))
        following = time.strftime("%Y%m%d", time.gmtime(time.time() - (days - number) * 86400))
        first = number * events // PER_CALL
        await _execute(
            url,
            FILL.format(
                day=day,
                begin=day,
                end=following,
                first=first,
                per_call=PER_CALL,
                events=events,
                every=DAY_SECONDS / (events + 1),
            ),
        )
    await _execute(url, "ANALYZE event")
    size = await _execute(url, SIZE)
    ground.say(f"  index bytes per event  {float(size) / (days * events):6.1f}")
    async with open_resources(ground.settings_for(url)) as resources:
        for what, span, filter_ in (
            ("one call of an early day", Span(subject=f"call:{2400000000 + events // PER_CALL // 2}"), Filter()),
            ("the newest 100 events", Span(), Filter()),
            ("a type that nothing has", Span(), Filter(["nothing.*"])),
        ):
            spent = []
            for _ in range(TIMES):
                started = time.perf_counter()
                page = await newest.read_back(resources, callers.OPERATOR, Search(100, filter_, span))
                spent.append(time.perf_counter() - started)
            ground.say(
                f"  {what:<26} {1000 * statistics.median(spent):7.1f} ms (at most {1000 * max(spent):.1f}), "
                f"{len(page.events)} events, more: {page.more}"
            )


async def _execute(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        if statement.lstrip().startswith("SELECT"):
            return await connection.fetchval(statement)
        return await connection.execute(statement, timeout=300)
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
