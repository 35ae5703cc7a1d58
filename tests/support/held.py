"""A way to PostgreSQL that passes on the messages of its clients one by one, each after a hook has returned."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.gates import LENGTH
from tests.support.service import tcp_door

BACKEND_KEY = ord("K")
EXECUTE = ord("E")
START = 0  # has no letter

Hook = Callable[["Line", int, bytes], Awaitable[None]]


@dataclass
class Line:
    """One connection to PostgreSQL, by the messages of its client."""

    backend: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def appends(self) -> bool:
        """Whether a transaction on it is to add to the log."""
        return any("INSERT INTO event" in said for said in self.said)


@asynccontextmanager
async def through(database_url: str, hook: Hook) -> AsyncIterator[str]:
    """An address of the database that passes its clients' messages on one by one, each after the hook has returned."""

    async def between(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        line = Line()
        answers = asyncio.create_task(_answers(server_reader, writer, line))
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await _questions(reader, server_writer, line, hook)
        finally:
            server_writer.close()
            await answers

    async with tcp_door(database_url, between=between) as port:
        name = urlsplit(database_url).path
        yield f"postgresql://postgres@127.0.0.1:{port}{name}?sslmode=disable"


async def _questions(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line, hook: Hook) -> None:
    start = await reader.readexactly(LENGTH.size)
    start += await reader.readexactly(LENGTH.unpack(start)[0] - LENGTH.size)
    await hook(line, START, start)
    writer.write(start)
    while True:
        kind, body, message = await _message(reader)
        line.said.append(body.decode(errors="replace"))
        await hook(line, kind, body)
        writer.write(message)
        await writer.drain()


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            kind, body, message = await _message(reader)
            if kind == BACKEND_KEY:
                line.backend = LENGTH.unpack(body[:4])[0]
            writer.write(message)
    writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    head = await reader.readexactly(1 + LENGTH.size)
    body = await reader.readexactly(LENGTH.unpack(head[1:])[0] - LENGTH.size)
    return head[0], body, head + body
