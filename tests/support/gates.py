"""Gates to PostgreSQL and to Aircall that count the steps of the process behind them, and kill it before one of them.

A step is what leaves a trace outside the process: a statement that changes something and commits by itself, the COMMIT
of a transaction that changed something, a request that is more than a GET. In between lie reads, and statements that
are undone with their transaction; a process killed there leaves what one leaves that is killed right before its next
step. For the same reason a process killed right after a step (done out there, its answer lost) is one that is killed
right before the next one. So killed before each step is killed anywhere. What is drawn from a company's budget is no
step: whoever is killed has drawn for nothing, and draws again.
"""

import asyncio
import os
import re
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.service import Between

LENGTH = struct.Struct("!I")
# The letters of PostgreSQL's messages: Parse, Bind, Query, Sync, Flush, Terminate; and ReadyForQuery with what is open.
PARSE, BIND, QUERY, SYNC, FLUSH, TERMINATE, READY = b"PBQSHXZ"
NOTHING_OPEN = ord("I")
BEGIN = re.compile(r"\W*BEGIN\b", re.IGNORECASE)
COMMIT = re.compile(r"\W*COMMIT\b", re.IGNORECASE)
READS = re.compile(r"\W*(SELECT|SHOW|ROLLBACK)\b", re.IGNORECASE)
# Functions that change something, and commit with their statement.
CALLS = re.compile(r"SELECT (make_log_days|drop_log_day)\(")
DRAWS = re.compile(r"\s*INSERT INTO budget\b")


@dataclass
class Gate:
    """Counts the steps of one process, kills it before one of them, and lets nothing more of it through then."""

    kill_before: int | None = None
    counts_reads: bool = False
    victim: int | None = None  # its process id; until it is known, nothing is counted
    steps: list[str] = field(default_factory=list)
    is_shut: bool = False

    def lets_through(self, step: str | None) -> bool:
        if step is not None and self.victim is not None and not self.is_shut:
            self.steps.append(" ".join(step.split())[:100])
            if len(self.steps) == self.kill_before:
                self.is_shut = True
                os.kill(self.victim, signal.SIGKILL)
        return not self.is_shut


class Conversation:
    """One connection to PostgreSQL, as far as it tells which statement leaves a trace."""

    def __init__(self) -> None:
        self.in_transaction = False
        self._changes = False
        self._prepared: dict[bytes, str] = {}
        self._said = ""

    def hear(self, kind: int, body: bytes) -> None:
        """A message of the driver's; a few of them together run a statement."""
        if kind == PARSE:
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = text.decode()
        elif kind == BIND:
            _, name, _ = body.split(b"\0", 2)
            self._said = self._prepared[name]
        elif kind == QUERY:
            self._said = body.rstrip(b"\0").decode()

    def step(self, *, counts_reads: bool) -> str | None:
        """The statement that is to be run now, if it leaves a trace."""
        said, self._said = self._said, ""
        if counts_reads:
            return said or None
        if BEGIN.match(said):
            self._changes = False
        elif COMMIT.match(said):
            return said if self._changes else None
        elif CALLS.match(said) or (said and not READS.match(said) and not DRAWS.match(said)):
            self._changes = True
            return None if self.in_transaction else said
        return None


def through(gate: Callable[[], Gate]) -> Between:
    """For a door to PostgreSQL: each connection goes through the gate there is when it is made."""

    async def between(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        conversation = Conversation()
        answers = asyncio.create_task(_pass_answers(server_reader, writer, conversation))
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await _pass_questions(reader, server_writer, conversation, gate())
        finally:
            server_writer.close()
            await answers

    return between


async def _pass_questions(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation, gate: Gate
) -> None:
    """From the driver to PostgreSQL, what is run together at once, until the gate is shut."""
    start = await reader.readexactly(LENGTH.size)
    writer.write(start + await reader.readexactly(LENGTH.unpack(start)[0] - LENGTH.size))
    together = bytearray()
    while True:
        kind, body, message = await _message(reader)
        together += message
        conversation.hear(kind, body)
        if kind in {QUERY, SYNC, FLUSH, TERMINATE}:
            if not gate.lets_through(conversation.step(counts_reads=gate.counts_reads)):
                return
            writer.write(together)
            together.clear()


async def _pass_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation) -> None:
    """From PostgreSQL to the driver, until PostgreSQL hangs up."""
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            kind, body, message = await _message(reader)
            if kind == READY:
                conversation.in_transaction = body[0] != NOTHING_OPEN
            writer.write(message)
    writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Its letter, its body, and the whole of it."""
    head = await reader.readexactly(1 + LENGTH.size)
    body = await reader.readexactly(LENGTH.unpack(head[1:])[0] - LENGTH.size)
    return head[0], body, head + body


@asynccontextmanager
async def aircall_door(aircall: Callable[[], ASGIApp], gate: Callable[[], Gate]) -> AsyncIterator[int]:
    """Whatever Aircall there is when a request comes, over real TCP and through the gate; the port."""

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        is_step = scope["method"] != "GET" or gate().counts_reads
        if gate().lets_through(f"{scope['method']} {scope['path']}" if is_step else None):
            await aircall()(scope, receive, send)
        else:
            while (await receive())["type"] != "http.disconnect":
                pass

    config = uvicorn.Config(door, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving
