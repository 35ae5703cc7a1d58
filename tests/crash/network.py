"""The network between the processes and PostgreSQL, which can be slow or go silent; and the balancer before the webs.

Silence is what a lost node, a paused machine or a firewall that forgot leaves behind: bytes go nowhere, and neither
side is told, not even of the other's end. So what went silent stays so until the campaign is over.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

CHUNK = 65_536
READY_SECONDS = 1.0
LOOK_SECONDS = 0.4
READY = b"HTTP/1.1 200"
# uvloop says it so where the other side's end came first.
BROKEN = (OSError, RuntimeError)


class Side(Protocol):
    """Where the bytes of one direction come from and go to."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


class Gate:
    """One process's way to PostgreSQL, which listens on a socket."""

    def __init__(self, name: str, socket_path: str) -> None:
        self.name = name
        self.port = 0
        self.delay_seconds = 0.0
        self._socket_path = socket_path
        self._connections: set[_Connection] = set()
        self._is_silent = False

    def go_silent(self, chance: random.Random, most_bytes: int, *, newcomers: bool) -> None:
        """Each connection there is passes on some more bytes, and then none ever again; newcomers none from now on."""
        self._is_silent = newcomers
        for connection in self._connections:
            connection.bytes_left = chance.randrange(most_bytes)

    def let_in(self) -> None:
        """New connections work again. Those that went silent stay so."""
        self._is_silent = False

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self)
        if self._is_silent:
            connection.bytes_left = 0
        self._connections.add(connection)
        try:
            await connection.run(reader, writer, self._socket_path)
        finally:
            self._connections.discard(connection)


class _Connection:
    def __init__(self, gate: Gate) -> None:
        self.bytes_left: int | None = None  # until it goes silent; None is for ever
        self._gate = gate

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket_path: str) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(socket_path)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(self._pass_on(reader, server_writer), self._pass_on(server_reader, writer))
        finally:
            for end in (writer, server_writer):
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(*BROKEN):
            while chunk := await reader.read(CHUNK):
                if self._gate.delay_seconds:
                    await asyncio.sleep(self._gate.delay_seconds)
                writer.write(self._what_passes(chunk))
                await writer.drain()
        if self.bytes_left == 0:
            # The other side does not hear of the end of what is silent.
            await asyncio.get_running_loop().create_future()
        writer.close()

    def _what_passes(self, chunk: bytes) -> bytes:
        if self.bytes_left is None:
            return chunk
        passes, self.bytes_left = chunk[: self.bytes_left], max(self.bytes_left - len(chunk), 0)
        return passes


class Balancer:
    """The address that browsers and Aircall know: each connection goes to a web that says it is ready."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.port = 0
        self._ports = list(ports)
        self._ready: set[int] = set()
        self._turn = 0

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._next())
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_pass_on(reader, server_writer), _pass_on(server_reader, writer))
        finally:
            for end in (writer, server_writer):
                end.transport.abort()

    def _next(self) -> int:
        self._turn += 1
        choice = sorted(self._ready) or self._ports
        return choice[self._turn % len(choice)]

    async def keep_looking(self) -> None:
        """As a platform's readiness probe does, until cancelled."""
        await asyncio.gather(*(self._look(port) for port in self._ports))

    async def _look(self, port: int) -> None:
        while True:
            if await _is_ready(port):
                self._ready.add(port)
            else:
                self._ready.discard(port)
            await asyncio.sleep(LOOK_SECONDS)


async def _is_ready(port: int) -> bool:
    try:
        async with asyncio.timeout(READY_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                return (await reader.readline()).startswith(READY)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(*BROKEN):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def listening(*doors: Gate | Balancer) -> AsyncIterator[None]:
    """Let TCP in at these, each on a port of its own."""
    tasks: set[asyncio.Task[None]] = set()
    servers = [await asyncio.start_server(_noted(door.join, tasks), "127.0.0.1", 0) for door in doors]
    for door, server in zip(doors, servers, strict=True):
        door.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _noted(
    join: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object], tasks: set[asyncio.Task[None]]
) -> Side:
    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            await join(reader, writer)  # type: ignore[misc]

    return joined
