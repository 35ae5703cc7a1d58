"""A subscription's destination: answers 200, and knows which of the drill's events came."""

import asyncio
import re
import ssl
from typing import cast

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
NUMBER = re.compile(rb'"drill": ?(\d+)')


class Sink:
    """Takes deliveries on a port until it is closed."""

    def __init__(self) -> None:
        self.came: set[int] = set()
        self.requests = 0

    async def listen(self, host: str, port: int, tls: ssl.SSLContext) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Connection(self), host, port, ssl=tls, backlog=1024)

    def take(self, body: bytes) -> None:
        self.requests += 1
        if number := NUMBER.search(body):
            self.came.add(int(number[1]))


class _Connection(asyncio.Protocol):
    """Requests one after the other."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._buffer[:end])
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._sink.take(body)
            self._transport.write(ANSWER)
