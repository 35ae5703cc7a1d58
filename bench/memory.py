"""The service's memory while it takes in a million events. `python -m bench.memory [--events 1000000]`"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import ground

STEP = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        server = stack.enter_context(ground.serving("service", folder, url))
        for taken in range(0, events, STEP):
            sys.stdout.write(f"  after {taken:9,} events   {ground.resident_megabytes(server):6.1f} MB\n")
            sys.stdout.flush()
            ground.load(server, STEP, ground.fresh_salt())
        sys.stdout.write(f"  after {events:9,} events   {ground.resident_megabytes(server):6.1f} MB\n")


if __name__ == "__main__":
    main()
