"""What each page of the console costs where much is held: median time, statements, rows read, and the largest scan.

Rows are those that PostgreSQL's plans say were read (auto_explain), left out or not.

python -m bench.console [--days 30] [--events 1000000] [--times 9] [--data FOLDER]
"""

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import md5
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from aircall_oauth.console import sessions
from aircall_oauth.console.visitors import SCOPES
from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.server.console_port import console_app
from aircall_oauth.storage import migrations
from bench import console_data, ground

ADDRESS = "https://localhost"
EXPLAINED = {
    "session_preload_libraries": "'auto_explain'",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "'json'",
    "auto_explain.log_parameter_max_length": "0",
    "log_min_messages": "'log'",
    "max_wal_size": "'4GB'",
    "wal_level": "'minimal'",
    "max_wal_senders": "0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("installations", 10_000),
        ("subscriptions", 200),
        ("days", 30),
        ("events", 1_000_000),
        ("times", 9),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--data", type=Path, help="keep what was filled there, and use it again")
    parser.add_argument("--plans", action="store_true", help="print every plan of more than 1,000 rows")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        is_filled = (folder / "filled").exists()
        postgres = stack.enter_context(Postgres.start(folder / "postgres", durable=False))
        if not is_filled:
            asyncio.run(_set(postgres.dsn(), EXPLAINED))
            postgres.stop()
            postgres.restart()
            named = ("installations", "subscriptions", "days", "events")
            asyncio.run(console_data.fill(postgres.dsn(), **{name: getattr(options, name) for name in named}))
            (folder / "filled").touch()
        else:
            asyncio.run(migrations.migrate(postgres.dsn()))
        asyncio.run(_pages(postgres, options))


async def _pages(postgres: Postgres, options: argparse.Namespace) -> None:
    async with open_resources(ground.settings_for(postgres.dsn())) as resources:
        transport = httpx.ASGITransport(console_app(resources), client=("192.0.2.7", 40000))
        async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as browser:
            link = await sessions.make_link(resources, person="bench", scopes=SCOPES)
            assert (await browser.get(f"/sign-in/link/{link}", follow_redirects=True)).status_code == 200
            ground.say(f"  {'page':<44} {'median':>8} {'most':>8} {'statements':>10} {'rows read':>10}  largest scan")
            for path in _paths(options):
                await _page(postgres, browser, path, options)


async def _page(postgres: Postgres, browser: httpx.AsyncClient, path: str, options: argparse.Namespace) -> None:
    spent, status = [], {(await browser.get(path)).status_code}
    for _ in range(options.times):
        started = time.perf_counter()
        status.add((await browser.get(path)).status_code)
        spent.append(1000 * (time.perf_counter() - started))
    begin = postgres.log.stat().st_size
    await _set(postgres.dsn(), {"auto_explain.log_min_duration": "0"})
    await asyncio.sleep(0.3)
    await browser.get(path)
    await _set(postgres.dsn(), {"auto_explain.log_min_duration": "-1"})
    await asyncio.sleep(0.3)
    with postgres.log.open("rb") as log:
        log.seek(begin)
        plans = list(_plans(log.read().decode()))
    scans = [scan for plan in plans for scan in _scans(plan["Plan"])]
    rows, largest = sum(read for read, _ in scans), max(scans, default=(0, ""))
    shown = re.sub(r"[0-9a-f]{32}", "…", path)
    ground.say(
        f"  {shown:<44} {statistics.median(spent):5.0f} ms {max(spent):5.0f} ms {len(plans):>10} {rows:>10,}  "
        f"{largest[0]:,} {largest[1]}{'' if status == {200} else f', answered {status}'}"
    )
    if options.plans:
        for plan in plans:
            if sum(read for read, _ in _scans(plan["Plan"])) > 1000:
                found = [scan for scan in sorted(_scans(plan["Plan"]), reverse=True) if scan[0] > 100][:6]
                ground.say(f"      {' '.join(plan['Query Text'].split())[:200]}\n        {found}")


def _paths(options: argparse.Namespace) -> list[str]:
    def id_(kind: str, number: int) -> str:
        return f"{kind}_{md5(str(number).encode(), usedforsecurity=False).hexdigest()}"

    newest = options.days * options.events
    day = time.strftime("%Y-%m-%dT00:00", time.gmtime(time.time() - (options.days - 1) * 86_400))
    return [
        *("/", "/customers", "/customers?q=Company+77", "/customers?q=nothing", "/customers?status=silent"),
        *("/customers?status=unauthorized", "/customers?owner=owner-77", f"/customers/{id_('ins', 77)}"),
        *("/attempts", "/attempts?days=90", "/attempts?ending=declined", "/attempts?ending=app_refused&days=90"),
        *("/attempts?owner=owner-77", f"/attempts/{id_('att', 77)}"),
        *("/events", "/events?type=call.ended", "/events?type=nothing.ever", f"/events?until={day}"),
        *(f"/events?call_id={2400000000 + newest // 16}", f"/events?installation_id={id_('ins', 77)}"),
        *("/events?owner=owner-77", "/events?owner=nobody", f"/events/tail?after={newest - 30}"),
        *(f"/events/{id_('evt', newest - 50)}", f"/events/{id_('evt', newest // 2)}"),
        f"/calls/{2400000000 + newest // 16}",
        *("/destinations", f"/destinations/{id_('sub', 5)}", f"/destinations/{id_('sub', 1)}"),
        *(f"/destinations/{id_('sub', 2)}", f"/destinations/{id_('sub', 3)}", f"/destinations/{id_('sub', 4)}"),
        *(f"/destinations/{id_('sub', 5)}/replay", f"/destinations/{id_('sub', 4)}/retry"),
        *("/audit", "/audit?action=aircall.read", "/audit?owner=owner-77", "/audit?actor=nobody"),
        *("/search?q=owner-77", "/search?q=Company", "/search?q=nothing-like-it"),
        *("/keys", "/vault", "/sessions"),
    ]


def _plans(log: str) -> Iterator[dict[str, Any]]:
    """Yield the plans of a log: each on many lines, of which those after the first begin with a tab."""
    for found in re.finditer(r"plan:\n((?:\t.*\n)+)", log):
        yield json.loads("".join(line[1:] for line in found[1].splitlines(keepends=True)))


def _scans(node: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield how many rows each scan of a plan has read, and what it is."""
    # A bitmap's index has no relation, and what it gives is read too.
    if "Relation Name" in node or "Index Name" in node:
        name = node.get("Relation Name", "")
        left_out = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
        index = f" by {node['Index Name']}" if "Index Name" in node else ""
        yield (
            round((node["Actual Rows"] + left_out) * node["Actual Loops"]),
            " ".join(f"{node['Node Type']} {name}{index}".split()),
        )
    for each in node.get("Plans", []):
        yield from _scans(each)


async def _set(url: str, settings: dict[str, str]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for name, value in settings.items():
            if name.startswith("auto_explain"):
                await connection.execute("LOAD 'auto_explain'")
            await connection.execute(f"ALTER SYSTEM SET {name} = {value}")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
