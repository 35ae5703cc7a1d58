"""Proxied GETs per second, against a bare FastAPI and httpx pass-through to the same Aircall, in one run.

python -m bench.proxy [--rounds 5] [--count 3000]
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from bench import ground
from bench.ground import Server

CONNECTIONS = (1, 8, 32, 64)


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        api_url = stack.enter_context(_answering(folder))
        ground.SETTINGS |= {"API_URL": api_url, "AIRCALL_RATE_PER_MINUTE": "100000"}
        os.environ["BENCH_API_URL"] = api_url
        installation_id = asyncio.run(ground.prepare(url))
        api_key = asyncio.run(ground.api_key(url, Scope.AIRCALL_CALL))
        names = ("passthrough", "service")
        servers = {name: stack.enter_context(ground.serving(name, folder, url)) for name in names}
        path = f"/v1/installations/{installation_id}/aircall/calls?page=1&per_page=50"
        for server in servers.values():
            _ask(server, path, api_key, 16, 500)
        for connections in CONNECTIONS:
            rounds = [
                {name: _ask(server, path, api_key, connections, options.count) for name, server in servers.items()}
                for _ in range(options.rounds)
            ]
            _report(connections, rounds)


@contextmanager
def _answering(folder: Path) -> Iterator[str]:
    """The Aircall that both ask; its address."""
    port = free_port()
    with Child("answering", ["bench.answering", str(port)], dict(os.environ), folder / "answering.log") as child:
        wait_until(lambda: ground.answers(port), [child], ground.READY_SECONDS)
        yield f"http://127.0.0.1:{port}/v1"


def _ask(server: Server, path: str, api_key: str, connections: int, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.ask", str(server.port), path, api_key, str(connections), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, cwd=ground.ROOT, timeout=600)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _report(connections: int, rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Medians of what each round says of itself: the machine may differ from one round to the next."""
    assert not sum(result["refused"] for each in rounds for result in each.values())
    ground.say(f"\nproxied GET, {connections} connections: medians of {len(rounds)} rounds")
    for name in rounds[0]:
        per_second, p50, p99 = (
            statistics.median(each[name][what] for each in rounds) for what in ("per_second", "p50_ms", "p99_ms")
        )
        ground.say(f"  {name:<12} {per_second:8.0f} requests/s   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms")
    ratios = [each["service"]["per_second"] / each["passthrough"]["per_second"] for each in rounds]
    ground.say(f"  ratio        {statistics.median(ratios):8.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=3000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
