"""A hostile tenant, as a process of its own: `python -m tests.crash.hostile PORT SERVICE_URL`.

It serves destinations that never end (`/continue`: interim answers at 2 MB/s; `/huge`: a body at 20 MB/s), and sends
the service what it must refuse: events of unknown tokens, garbage, half bodies, a body without an end and a bound.
"""

import asyncio
import sys
from contextlib import suppress
from urllib.parse import urlsplit

import uvloop

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" * 2560
INTERIM_PAUSE_SECONDS = len(INTERIM) / 2_000_000
HUGE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n"
HUGE_PIECE = b"x" * 200_000
HUGE_PAUSE_SECONDS = 0.01
HALF_BODIES = 100
UNBOUNDED_PIECES = 4_000  # of 64 KiB: 256 MB
PIECE = b"10000\r\n" + b"x" * 65_536 + b"\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A destination that answers without an end."""
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/continue" in head.partition(b"\r\n")[0]:
            await _without_end(writer, INTERIM, INTERIM_PAUSE_SECONDS)
        else:
            writer.write(HUGE_HEAD)
            await _without_end(writer, HUGE_PIECE, HUGE_PAUSE_SECONDS)
    writer.transport.abort()


async def _without_end(writer: asyncio.StreamWriter, piece: bytes, pause_seconds: float) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause_seconds)


async def attack(host: str, port: int) -> None:
    """Bad requests, again and again."""
    await asyncio.gather(
        *(_half_body(host, port) for _ in range(HALF_BODIES)),
        _again(0.1, host, port, _event(b'{"event":"call.created","token":"unknown","timestamp":1,"data":{}}')),
        _again(0.1, host, port, _event(b"{" * 5000)),
        _again(1.0, host, port, _event(b"x" * 1_000_000)),
        _unbounded(host, port),
    )


def _event(body: bytes) -> bytes:
    head = "POST /aircall/webhook HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


async def _again(pause_seconds: float, host: str, port: int, request: bytes) -> None:
    while True:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(request)
                await reader.read(65_536)
                writer.transport.abort()
        await asyncio.sleep(pause_seconds)


async def _half_body(host: str, port: int) -> None:
    """Half of an event, and the rest never."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_event(b"x" * 200_000)[:-100_000])
            await reader.read()
            writer.transport.abort()
        await asyncio.sleep(1)


async def _unbounded(host: str, port: int) -> None:
    """A chunked body without a key, until it is refused."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            answered = asyncio.ensure_future(reader.read(1))
            writer.write(b"POST /v1/claims HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n")
            writer.write(b"content-type: application/json\r\n\r\n")
            for _ in range(UNBOUNDED_PIECES):
                if answered.done():
                    break
                writer.write(PIECE)
                await writer.drain()
            answered.cancel()
            writer.transport.abort()
        await asyncio.sleep(10)


async def main(port: int, service_url: str) -> None:
    parts = urlsplit(service_url)
    assert parts.hostname
    assert parts.port
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        await attack(parts.hostname, parts.port)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
