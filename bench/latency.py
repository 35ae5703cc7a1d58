"""From the 200 to the delivery: web and worker in one process, then in two; 100 and 300 events a second.

python -m bench.latency [--seconds 20] [--rounds 3]
"""

import argparse
import asyncio
import os
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from pathlib import Path

from aircall_oauth.sandbox.children import Child
from aircall_oauth.sandbox.ports import free_port
from bench import ground
from bench.deliveries import House, api_key_of, delays, percentile, serving_with_worker

PER_SECOND = (100, 300)
PATH = "/latency"


def main() -> None:
    options = _options()
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        api_key, sink_port = asyncio.run(api_key_of(url)), free_port()
        stack.enter_context(Child("sink", ["bench.sink", str(sink_port)], dict(os.environ), folder / "sink.log"))
        for number in range(options.rounds):
            for name in ("one process", "two processes") if number % 2 else ("two processes", "one process"):
                together = name == "one process"
                serving = serving_with_worker(folder, url) if together else ground.serving("service", folder, url)
                with serving as server:
                    house = House(folder, url, server, sink_port, api_key)
                    with nullcontext() if together else house.worker():
                        subscription_id = house.subscribe(PATH)
                        for per_second in PER_SECOND:
                            each = delays(house, per_second, options.seconds, {PATH})
                            found[name, per_second].append((percentile(each, 0.5), percentile(each, 0.99)))
                        house.forget(subscription_id)
    for (name, per_second), rounds in sorted(found.items()):
        p50, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:<14} {per_second} events/s   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   ({len(rounds)} rounds)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
