"""A load of GETs over kept connections, bounded in count; prints what it saw as JSON.

python -m bench.ask PORT PATH API_KEY CONNECTIONS COUNT
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from typing import cast

import uvloop

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
LONGEST_SECONDS = 120


@dataclass
class Tally:
    """What the connections did together."""

    wanted: int
    sent: int = 0
    answered: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, tally: Tally, request: bytes, done: asyncio.Event) -> None:
        self._tally, self._request, self._done = tally, request, done
        self._transport: asyncio.Transport | None = None
        self._started = 0.0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is none by name
        self._send()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        tally, self._answer = self._tally, b""
        tally.latencies.append(time.perf_counter() - self._started)
        tally.answered += 1
        tally.refused += not head.startswith(b"HTTP/1.1 200")
        if tally.answered >= tally.wanted:
            self._done.set()
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        if self._tally.sent < self._tally.wanted:
            self._tally.sent += 1
            self._started = time.perf_counter()
            self._transport.write(self._request)


async def ask(port: int, request: bytes, connections: int, count: int) -> dict[str, float]:
    tally, done, loop = Tally(count), asyncio.Event(), asyncio.get_running_loop()
    started = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: Connection(tally, request, done), "127.0.0.1", port)
        for _ in range(connections)
    ]
    async with asyncio.timeout(LONGEST_SECONDS):
        await done.wait()
    seconds = time.perf_counter() - started
    for transport, _ in opened:
        transport.close()
    ordered = sorted(tally.latencies)
    return {
        "refused": tally.refused,
        "per_second": tally.answered / seconds,
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    port, path, api_key, connections, count = sys.argv[1:]
    request = (
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\nauthorization: Bearer {api_key}\r\n\r\n"
    )
    result = uvloop.run(ask(int(port), request.encode(), int(connections), int(count)))
    sys.stdout.write(json.dumps(result) + "\n")
