"""Performs drills and says what they found."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

import aircall_oauth
from tests.crash.availability.figures import broken, figures
from tests.crash.availability.rows import ROWS, Row
from tests.crash.availability.stage import Stage, staged
from tests.crash.evidence import busy_seconds
from tests.crash.processes import failures_in

PER_SECOND = 100.0
CALM_SECONDS = 2.0
COLUMNS = {
    "fault": "fault",
    "lasted": "lasted, s",
    "first_ack_after_fault": "first ack after the fault, s",
    "first_ack_after_cure": "after the cure, s",
    "longest_without_ack": "longest without an ack, s",
    "home_after_cure": "all well after the cure, s",
    "acknowledged": "acknowledged",
    "answered_503": "answered 503, and sent again",
    "not_answered": "not answered in 5 s",
    "lost": "acknowledged and lost",
    "lost_and_delivered": "of those, delivered",
    "delivered_twice": "delivered twice",
    "missing": "not delivered",
}


async def perform(rows: Sequence[Row], folder: Path, *, pace: float, calm: float = CALM_SECONDS) -> dict[str, Any]:
    """Let these happen one after the other on the ground of the first; figures, and the promises that were broken."""
    busy = busy_seconds()
    async with staged(rows[0].ground, folder, pace=pace) as stage:
        for row in rows:
            await asyncio.sleep(calm)
            try:
                await row.happens(stage, row.seconds)
                await stage.comes_home()
            except TimeoutError:
                stage.records.failures.append(f"{row.name}: not well again by itself")
        await asyncio.sleep(calm)
        await stage.settle()
        for member in stage.members:
            if member.ended_by_itself:
                stage.records.failures.append(f"{member.name} ended by itself")
            stage.records.failures.extend(f"{member.name}: {line}" for line in failures_in(member.log))
    # Only now: of processes the time is known that have ended.
    stage.records.others_share = others_share(stage, busy)
    measured, share = figures(stage), round(stage.records.others_share, 2)
    return {"others_share_of_the_machine": share, "figures": measured, "broken": broken(stage)}


def others_share(stage: Stage, busy: float) -> float:
    """Of the machine's processors since the stage was made; `busy` is what `busy_seconds` was then."""
    return max(busy_seconds() - busy, 0.0) / (stage.now() * (os.cpu_count() or 1))


def main() -> int:
    """The command `deploy/drills/availability`."""
    parser = argparse.ArgumentParser(description="Break PostgreSQL under load in one of the ways it breaks.")
    parser.add_argument("rows", nargs="+", choices=[*ROWS, "all"], metavar="ROW", help=f"{', '.join(ROWS)}, or all")
    parser.add_argument("--pace", type=float, default=PER_SECOND, help=f"events per second ({PER_SECOND:g})")
    parser.add_argument("--seconds", type=float, help="how long each fault lasts, if not as long as it would by itself")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--keep", type=Path, help="keep every process's log in this folder")
    asked = parser.parse_args()
    # Every process has an interpreter of its own then, and is not forked off another one.
    os.environ.setdefault("PYTHONPATH", str(Path(aircall_oauth.__file__).parents[1]))
    chosen = [ROWS[name] for name in (ROWS if "all" in asked.rows else asked.rows)]
    if asked.seconds:
        chosen = [replace(row, seconds=asked.seconds) for row in chosen]
    with tempfile.TemporaryDirectory(prefix="availability-", ignore_cleanup_errors=True) as temporary:
        try:
            found = uvloop.run(_each(chosen, asked.keep or Path(temporary), asked.pace, says=not asked.json))
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM
    if asked.json:
        print(json.dumps(found, indent=2))
    return 1 if any(one["broken"] for one in found) else 0


async def _each(rows: Sequence[Row], folder: Path, pace: float, *, says: bool) -> list[dict[str, Any]]:
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    found = []
    for row in rows:
        if row.is_possible():
            mine = folder / row.name
            await asyncio.to_thread(mine.mkdir, parents=True, exist_ok=True)
            found.append({"row": row.name, **await perform([row], mine, pace=pace)})
            if says:
                _say(found[-1])
        else:
            print(f"{row.name}: left out, as this machine lacks what it needs", file=sys.stderr, flush=True)
    return found


def _say(found: dict[str, Any]) -> None:
    print(f"{found['row']} (others took {found['others_share_of_the_machine']:.0%} of the machine)")
    for figures_ in found["figures"]:
        for name, value in figures_.items():
            print(f"  {COLUMNS[name]:32}{value:.2f}" if isinstance(value, float) else f"  {COLUMNS[name]:32}{value}")
    for promise in found["broken"]:
        print(f"  BROKEN: {promise}")
    sys.stdout.flush()
