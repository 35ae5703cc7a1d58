"""A load of unique events over kept connections, bounded in count; prints what it saw as JSON.

python -m bench.load PORT TOKEN CONNECTIONS COUNT SALT [BODIES [PID]]

BODIES is a function of `bench.bodies`: `varied`, the default, `varied_of_4_kb` or `of_one_letter`. PID is the server's
process, whose processor time while the load lasts is told too.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench import bodies
from bench.processor import busy_seconds

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
    """One connection: an event, its answer, the next event."""

    def __init__(self, tally: Tally, requests: list[tuple[bytes, bytes]], salt: int, done: asyncio.Event) -> None:
        self._tally, self._requests, self._salt, self._done = tally, requests, salt, done
        self._transport: asyncio.Transport | None = None
        self._started = 0.0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is none by name
        self._send()

    def data_received(self, data: bytes) -> None:
        # An answer may come as head and body apart; each ends a JSON object.
        self._answer += data
        if not data.endswith(b"}"):
            return
        tally, answer = self._tally, self._answer
        self._answer = b""
        tally.latencies.append(time.perf_counter() - self._started)
        tally.answered += 1
        if not answer.startswith(b"HTTP/1.1 200"):
            tally.refused += 1
        if tally.answered >= tally.wanted:
            self._done.set()
        self._send()

    def _send(self) -> None:
        tally = self._tally
        assert self._transport is not None
        if tally.sent >= tally.wanted:
            return
        tally.sent += 1
        head, tail = self._requests[tally.sent % len(self._requests)]
        number = b"%d" % (self._salt * 10**12 + tally.sent)
        self._started = time.perf_counter()
        self._transport.write(b"".join((head, number, tail)))


def requests(token: str, made: str = "varied") -> list[tuple[bytes, bytes]]:
    """Each body as an HTTP request, cut at the place of its number."""
    head = b"POST /aircall/webhook HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    whole = (head + b"content-length: %d\r\n\r\n" % len(body) + body for body in getattr(bodies, made)(token))
    return [cast("tuple[bytes, bytes]", tuple(request.split(bodies.SLOT))) for request in whole]


async def load(
    port: int, token: str, connections: int, count: int, salt: int, made: str, *pids: int
) -> dict[str, float]:
    tally, done, loop = Tally(count), asyncio.Event(), asyncio.get_running_loop()
    of_token = requests(token, made)
    started, busy = time.perf_counter(), busy_seconds(*pids)
    opened = [
        await loop.create_connection(lambda: Connection(tally, of_token, salt, done), "127.0.0.1", port)
        for _ in range(connections)
    ]
    async with asyncio.timeout(LONGEST_SECONDS):
        await done.wait()
    seconds, busy = time.perf_counter() - started, busy_seconds(*pids) - busy
    for transport, _ in opened:
        transport.close()
    ordered = sorted(tally.latencies)
    return {
        "count": tally.answered,
        "refused": tally.refused,
        "seconds": seconds,
        "busy_seconds": busy,
        "per_second": tally.answered / seconds,
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    port, token, connections, count, salt, *more = sys.argv[1:]
    made, pids = more[0] if more else "varied", map(int, more[1:])
    result = uvloop.run(load(int(port), token, int(connections), int(count), int(salt), made, *pids))
    sys.stdout.write(json.dumps(result) + "\n")
