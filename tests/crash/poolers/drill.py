"""The command `deploy/drills/poolers`."""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

import aircall_oauth
from tests.crash.poolers.acceptance import POOL_SIZES, accept
from tests.crash.poolers.figures import Figure, figures
from tests.support.poolers import PGBOUNCER

EVENTS = 10_000
PER_SECOND = 100.0


def main() -> int:
    """Run it in each mode that is asked for; 1 if a figure is missed, 2 without a PgBouncer."""
    parser = argparse.ArgumentParser(description="Run the acceptance run through a real PgBouncer.")
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{' or '.join(POOL_SIZES)}; both if none is named")
    parser.add_argument("--events", type=int, default=EVENTS, help=f"how many events ({EVENTS:,})")
    parser.add_argument("--pace", type=float, default=PER_SECOND, help=f"events per second ({PER_SECOND:g})")
    parser.add_argument("--pgbouncer", metavar="FILE", default=PGBOUNCER, help="the binary, if not this machine's")
    parser.add_argument("--keep", type=Path, help="keep every process's log in this folder")
    asked = parser.parse_args()
    if unknown := set(asked.modes) - POOL_SIZES.keys():
        parser.error(f"no mode {min(unknown)!r}")
    if not asked.pgbouncer:
        print("No pgbouncer is installed (Debian: apt-get install pgbouncer); --pgbouncer names one.", file=sys.stderr)
        return 2
    # Every process has an interpreter of its own then, and is not forked off another one.
    os.environ.setdefault("PYTHONPATH", str(Path(aircall_oauth.__file__).parents[1]))
    print(
        subprocess.run([asked.pgbouncer, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    )
    with tempfile.TemporaryDirectory(prefix="poolers-", ignore_cleanup_errors=True) as temporary:
        try:
            found = uvloop.run(_each(asked, asked.keep or Path(temporary)))
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM
    _print(found)
    return 1 if any(figure.is_missed for each in found.values() for figure in each) else 0


async def _each(asked: argparse.Namespace, folder: Path) -> dict[str, list[Figure]]:
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    found = {}
    for mode in asked.modes or POOL_SIZES:
        mine = folder / mode
        await asyncio.to_thread(mine.mkdir, parents=True, exist_ok=True)
        run = await accept(mode, mine, events=asked.events, pace=asked.pace, program=asked.pgbouncer)
        found[mode] = figures(run, asked.events)
        print(f"{mode}: done", file=sys.stderr)
    return found


def _print(found: dict[str, list[Figure]]) -> None:
    """A table with a column for each mode."""
    modes = list(found)
    print("".join(["| ", " | ".join(["", *modes, "wanted"]), " |"]))
    print("|---" * (len(modes) + 2) + "|")
    for line in zip(*found.values(), strict=True):
        cells = [f"{figure.value}{' MISSED' if figure.is_missed else ''}" for figure in line]
        print(f"| {' | '.join([line[0].name, *cells, line[0].wanted])} |")
