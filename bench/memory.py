"""What a process holds at rest, the plain handler beside it, and `serve --with-worker` while it takes in events.

python -m bench.memory [--events 1000000]
"""

import argparse
import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import ground
from bench.deliveries import serving_with_worker

STEP = 100_000
# By then each chore of the worker has run once, and memory stays as it is.
REST_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        for name in ("plain", "service"):
            with ground.serving(name, folder, url) as server:
                time.sleep(REST_SECONDS)
                _print("at rest", server)
        server = stack.enter_context(serving_with_worker(folder, url))
        time.sleep(REST_SECONDS)
        for taken in range(0, events, STEP):
            _print(f"after {taken:9,} events" if taken else "at rest", server)
            ground.load(server, STEP, ground.fresh_salt())
        _print(f"after {events:9,} events", server)


def _print(when: str, server: ground.Server) -> None:
    held = ground.memory_of(server.pid)
    ground.say(f"{server.name:<8} {when:<22} RSS {held.rss:6.1f} MB   PSS {held.pss:6.1f} MB   USS {held.uss:6.1f} MB")


if __name__ == "__main__":
    main()
