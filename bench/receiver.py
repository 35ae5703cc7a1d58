"""Acks per second: this service, a server that does nothing, and a plain handler, alternating in one run.

python -m bench.receiver [--rounds 5] [--count 10000] [--full]

Each time with bodies made from the samples, of 2 and of 4 KB, and with one of a single letter (`bench.bodies`).
"""

import argparse
import asyncio
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg

from aircall_oauth.sandbox.postgres import Postgres
from bench import ground
from bench.ground import Server
from bench.processor import busy_seconds, family_seconds

PLAIN_SHARE = 20
BODIES = ("varied", "varied_of_4_kb", "of_one_letter")
INSTALLATIONS = 10_000
EVENTS = 2_000_000
FILL_INSTALLATIONS = """
    WITH filled AS (
        INSERT INTO installation (id, status, company_id, integration_id, token_sealed, token_fingerprint,
                                  connected_at)
        SELECT 'ins_' || md5(n::text), 'active', 1000 + n, 1000 + n, sealed.token_sealed, sealed.token_fingerprint,
               now()
        FROM generate_series(1, $1) n, (SELECT * FROM installation LIMIT 1) AS sealed
        RETURNING id
    )
    INSERT INTO webhook (id, installation_id, status, webhook_id, token_fingerprint)
    SELECT 'whk_' || md5(id), id, 'active', 'bench', sha256(convert_to(id, 'UTF8')) FROM filled
"""
FILL_EVENTS = f"""
    WITH filled AS (
        INSERT INTO event_fingerprint (fingerprint, received_at)
        SELECT int8send(extract(epoch FROM now() - {EVENTS} * interval '0.3 s' + n * interval '0.3 s')::bigint)
                   || sha256(convert_to('full' || n, 'UTF8')), now()
        FROM generate_series($1::bigint, $2::bigint) n
        RETURNING 1
    )
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, source, data)
    SELECT nextval('event_position'), now(), 'evt_' || md5(n::text), 'ins_' || md5((n % 10000 + 1)::text), 1,
           'call.ended', 'call', 'aircall', repeat('x', 300)
    FROM generate_series($1::bigint, $2::bigint) n
"""


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        postgres = stack.enter_context(ground.durable_postgres(folder))
        url = postgres.dsn()
        asyncio.run(ground.prepare(url))
        names = ("noop", "plain", "service")
        servers = {name: stack.enter_context(ground.serving(name, folder, url)) for name in names}
        for server in servers.values():
            ground.load(server, 500, ground.fresh_salt())
        for made in BODIES:
            rounds = [_round(servers, options.count, made) for _ in range(options.rounds)]
            _report(f"empty house, bodies {made}", rounds)
            costs = asyncio.run(costs_of(url, postgres, servers["service"], options.count, made))
            _say_costs(costs)
            if made == BODIES[0]:
                beside_others = _beside_others(rounds, costs)
        if options.full:
            asyncio.run(_fill(url))
            _report(
                f"full house: {INSTALLATIONS:,} installations, {EVENTS:,} events",
                [_round(servers, options.count) for _ in range(options.rounds)],
            )
    ground.say(beside_others)


def _round(servers: dict[str, Server], count: int, made: str = "varied") -> dict[str, dict[str, Any]]:
    counts = {"noop": count, "plain": max(count // PLAIN_SHARE, 200), "service": count}
    return {name: ground.load(server, counts[name], ground.fresh_salt(), made=made) for name, server in servers.items()}


def _report(title: str, rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Medians of what each round says of itself: the machine may differ from one round to the next."""
    assert not sum(result["refused"] for each in rounds for result in each.values())
    ground.say(f"\n{title}: medians of {len(rounds)} rounds, {ground.CONNECTIONS} connections")
    for name in rounds[0]:
        per_second, p50, p99 = (_median(rounds, name, what) for what in ("per_second", "p50_ms", "p99_ms"))
        ground.say(f"  {name:<8} {per_second:8.0f} acks/s   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms")
    ratios = {
        "acks/s, service / no-op": [r["service"]["per_second"] / r["noop"]["per_second"] for r in rounds],
        "acks/s, service / plain": [r["service"]["per_second"] / r["plain"]["per_second"] for r in rounds],
        "p99, service / no-op": [r["service"]["p99_ms"] / r["noop"]["p99_ms"] for r in rounds],
    }
    for what, values in ratios.items():
        ground.say(f"  {what:<26} {statistics.median(values):6.2f}   ({min(values):.2f} to {max(values):.2f})")


def _beside_others(rounds: list[dict[str, dict[str, Any]]], costs: dict[str, float]) -> str:
    """Return a table with a place for another system, measured on the same machine by the same load."""
    per_second, p50, p99 = (_median(rounds, "service", what) for what in ("per_second", "p50_ms", "p99_ms"))
    lines = [
        ("acks/s: POST to 2xx, event committed with fsync", f"{per_second:,.0f}"),
        ("p50, p99 of those answers", f"{p50:.1f}, {p99:.1f} ms"),
        ("processor time per event, server + database", f"{costs['server'] + costs['postgres']:.0f} µs"),
        ("memory of the server's process after them", f"{costs['megabytes']:.0f} MB"),
    ]
    connections = ground.CONNECTIONS
    return "\n".join(
        (
            "\nFor another system on this machine, the same bodies, posted to /aircall/webhook:",
            f"python -m bench.load PORT TOKEN {connections} COUNT 1000001 varied",
            f"\n| {connections} connections, bodies of 2 KB | aircall-oauth | another |",
            "|---|---|---|",
            *(f"| {what} | {ours} | |" for what, ours in lines),
        )
    )


def _median(rounds: list[dict[str, dict[str, Any]]], name: str, what: str) -> float:
    return float(statistics.median(each[name][what] for each in rounds))


async def costs_of(url: str, postgres: Postgres, server: Server, count: int, made: str) -> dict[str, float]:
    """Statements, WAL bytes and processor time per event, at full load."""
    connection = await asyncpg.connect(url)
    try:
        before = await connection.fetchrow(MEASURED)
        busy = [busy_seconds(server.pid), family_seconds(postgres.pid)]
        await asyncio.to_thread(ground.load, server, count, ground.fresh_salt(), made=made)
        after = await connection.fetchrow(MEASURED)
        busy += [busy_seconds(server.pid), family_seconds(postgres.pid)]
    finally:
        await connection.close()
    return {
        "statements": (after["calls"] - before["calls"]) / count,
        "wal": float(after["wal"] - before["wal"]) / count,
        "server": (busy[2] - busy[0]) / count * 1e6,
        "postgres": (busy[3] - busy[1]) / count * 1e6,
        "megabytes": ground.resident_megabytes(server),
    }


MEASURED = """
    SELECT (SELECT sum(calls) FROM pg_stat_statements) AS calls, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal
"""


def _say_costs(costs: dict[str, float]) -> None:
    ground.say(f"  SQL statements per event   {costs['statements']:6.3f}")
    ground.say(f"  WAL bytes per event        {costs['wal']:6.0f}")
    ground.say(f"  CPU per event: server      {costs['server']:6.0f} µs")
    ground.say(f"  CPU per event: PostgreSQL  {costs['postgres']:6.0f} µs")
    ground.say(f"  memory of the process      {costs['megabytes']:6.0f} MB")


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(FILL_INSTALLATIONS.replace("$1", str(INSTALLATIONS)))
        step = 100_000
        for start in range(1, EVENTS, step):
            await connection.execute(
                FILL_EVENTS.replace("$1", str(start)).replace("$2", str(start + step - 1)), timeout=300
            )
        await connection.execute("VACUUM ANALYZE", timeout=300)
        await connection.execute("CHECKPOINT", timeout=300)
    finally:
        await connection.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--full", action="store_true", help="again with a full house")
    return parser.parse_args()


if __name__ == "__main__":
    main()
