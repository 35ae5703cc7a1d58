"""Servers a database URL may lead to that are not quite PostgreSQL: one refuses, one speaks TLS, one is silent."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit

from tests.support.brokers import Certificate
from tests.support.relay import pass_both_ways

SSL_REQUEST = 80877103


@asynccontextmanager
async def refusing_postgres(sqlstate: str, words: str) -> AsyncIterator[int]:
    """Refuses every session with an error of PostgreSQL's; the port."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while await _first_number(reader) == SSL_REQUEST:
                writer.write(b"N")
            fields = b"".join(
                name + text.encode() + b"\0" for name, text in ((b"S", "FATAL"), (b"C", sqlstate), (b"M", words))
            )
            writer.write(b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def tls_door(database_url: str, certificate: Certificate) -> AsyncIterator[int]:
    """Lets TLS in to the test's PostgreSQL, which speaks none; the port."""
    socket_path = f"{parse_qs(urlsplit(database_url).query)['host'][0]}/.s.PGSQL.5432"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            assert await _first_number(reader) == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(context)
            await pass_both_ways(reader, writer, *await asyncio.open_unix_connection(socket_path))

    async with await asyncio.start_server(join, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def silent_postgres() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Accept connections and never answer; yields the port, and an event that is set by the first connection."""
    came, done = asyncio.Event(), asyncio.Event()

    async def listen(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await done.wait()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], came
        done.set()


async def _first_number(reader: asyncio.StreamReader) -> int:
    """What a client begins with: a request for TLS, or the version and all that belongs to a session."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    (number,) = struct.unpack_from("!I", await reader.readexactly(length - 4))
    return int(number)
