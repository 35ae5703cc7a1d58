"""Where deliveries end: answers 200 and notes when what came in. `python -m bench.sink PORT`

`/hang…` is never answered. `GET /stats` tells, and forgets, what came since it was asked last; `GET /count` how much.
"""

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
# The number that `bench.load` gave the event.
NUMBER = re.compile(rb'"data":\{"id": ?(\d{19})\b')

came: list[tuple[str, int, float]] = []


class Connection(asyncio.Protocol):
    """Requests one after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._answer(head.split(b" ", 2)[1].decode(), body, get=head.startswith(b"GET"))

    def _answer(self, path: str, body: bytes, *, get: bool) -> None:
        assert self._transport is not None
        if get:
            told = json.dumps(len(came) if path == "/count" else came).encode()
            if path != "/count":
                came.clear()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(told), told))
        elif not path.startswith("/hang"):
            number = NUMBER.search(body)
            came.append((path, int(number[1]) if number else 0, time.monotonic()))
            self._transport.write(ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
