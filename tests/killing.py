"""Kills a worker at any step of a chore: all that it says to PostgreSQL and to Aircall passes a gate, which counts.

A step is what leaves a trace outside the process: a statement that changes something and commits by itself, the COMMIT
of a transaction that changed something, a request that is more than a GET. In between lie reads, and statements that
are undone with their transaction; a process killed there leaves what one leaves that is killed right before its next
step. For the same reason a process killed right after a step (done out there, its answer lost) is one that is killed
right before the next one. So killed before each step is killed anywhere. What is drawn from a company's budget is no
step: whoever is killed has drawn for nothing, and draws again.
"""

import asyncio
import copy
import os
import re
import signal
import socket
import struct
import sys
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import uvicorn
from starlette.types import Receive, Scope, Send

from aircall_oauth import log
from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.aircall import PretendAircall
from aircall_oauth.sandbox.aircall import create_app as create_aircall_app
from aircall_oauth.settings import Settings
from aircall_oauth.worker import CHORES
from tests.fakes import AIRCALL_URL, CLIENT_ID, CLIENT_SECRET, settings_for, until
from tests.forked import fork
from tests.processes import eventually

START_SECONDS = 30.0
RUN_SECONDS = 60.0
LENGTH = struct.Struct("!I")
# The letters of PostgreSQL's messages: developers call them Parse, Bind, Query, Sync, Flush, Terminate, ReadyForQuery.
PARSE, BIND, QUERY, SYNC, FLUSH, TERMINATE, READY = b"PBQSHXZ"
IDLE = ord("I")
ALONE = """
    SELECT count(*) = 1 FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
"""
READS_ONLY = re.compile(r"\W*(SELECT|SHOW|BEGIN|ROLLBACK|SAVEPOINT|RELEASE)\b", re.IGNORECASE)
COMMIT = re.compile(r"\W*COMMIT\b", re.IGNORECASE)
DRAW = re.compile(r"\s*INSERT INTO budget\b")


@dataclass
class Gate:
    """Counts the steps of one process, kills it before one of them, and lets nothing more of it through then."""

    kill_before: int | None = None
    counts_reads: bool = False
    victim: int | None = None  # nothing is counted before it is known: a process that starts has no chore yet
    steps: list[str] = field(default_factory=list)
    is_shut: bool = False

    def lets_through(self, step: str) -> bool:
        if self.victim is None or self.is_shut:
            return not self.is_shut
        self.steps.append(" ".join(step.split())[:100])
        if len(self.steps) == self.kill_before:
            self.is_shut = True
            os.kill(self.victim, signal.SIGKILL)
        return not self.is_shut


class Conversation:
    """One connection to PostgreSQL, as far as it tells which statement leaves a trace."""

    def __init__(self) -> None:
        self.is_idle = True  # outside of a transaction
        self._changes = False
        self._prepared: dict[bytes, str] = {}
        self._said = ""

    def hear(self, kind: int, body: bytes) -> None:
        """A message from the driver; the batch that it is part of may run a statement."""
        match kind:
            case _ if kind == PARSE:
                name, text, _ = body.split(b"\0", 2)
                self._prepared[name] = text.decode()
            case _ if kind == BIND:
                _, name, _ = body.split(b"\0", 2)
                self._said = self._prepared[name]
            case _ if kind == QUERY:
                self._said = body.rstrip(b"\0").decode()

    def step(self, *, counts_reads: bool) -> str | None:
        """The statement that the batch runs, if it leaves a trace."""
        said, self._said = self._said, ""
        if counts_reads:
            return said or None
        if COMMIT.match(said):
            changes, self._changes = self._changes, False
            return said if changes else None
        if not said or READS_ONLY.match(said) or DRAW.match(said):
            return None
        self._changes = not self.is_idle
        return said if self.is_idle else None


@dataclass
class Stage:
    """A database and a pretend Aircall with a scene in them, and processes that do chores there."""

    database_url: str  # PostgreSQL's own address
    folder: Path
    settings: Mapping[str, str]
    aircall: PretendAircall
    doors: dict[str, str] = field(default_factory=dict)  # where processes find PostgreSQL and Aircall
    gate: Gate = field(default_factory=Gate)

    async def perform(
        self, chore: str, *, kill_before: int | None = None, once_open: str = "", counts_reads: bool = False
    ) -> Gate:
        """A process of its own does this chore once, and is killed before its n-th step, if it gets there.

        `once_open` happens to the database between its start and the chore.
        """
        self.gate = gate = Gate(kill_before, counts_reads)
        output = self.folder / "worker.log"
        ours, theirs = Pipe()
        with ours, theirs:
            process = fork(_perform, theirs, dict(self.doors), chore, str(output))
            theirs.close()
            try:
                await until(lambda: ours.poll() or not process.is_alive(), START_SECONDS)
                assert process.is_alive(), output.read_text()
                ours.recv_bytes()
                await self.sql(once_open)
                gate.victim = process.pid
                ours.send_bytes(b"go")
                await until(lambda: not process.is_alive(), RUN_SECONDS)
                assert process.exitcode == (-signal.SIGKILL if gate.is_shut else 0), output.read_text()
            finally:
                process.kill()
                process.join()
        await self._gone()
        return gate

    async def sql(self, script: str) -> None:
        """Time goes by, or something happens: statements without an answer."""
        if script:
            connection = await asyncpg.connect(self.database_url)
            try:
                await connection.execute(script)
            finally:
                await connection.close()

    async def ask(self, question: str) -> Any:
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    async def _gone(self) -> None:
        """PostgreSQL, too, has noticed that the process is no more."""
        connection = await asyncpg.connect(self.database_url)
        try:
            await eventually(lambda: connection.fetchval(ALONE), RUN_SECONDS)
        finally:
            await connection.close()


@asynccontextmanager
async def stage(database_url: str, folder: Path, aircall: PretendAircall, **changes: str) -> AsyncIterator[Stage]:
    """Both with doors that a process must go through."""
    it = Stage(database_url, folder, changes, aircall)
    async with _database_door(it) as database_port, _aircall_door(it) as aircall_port:
        name = urlsplit(database_url).path.removeprefix("/")
        it.doors = {
            "database_url": f"postgresql://postgres@127.0.0.1:{database_port}/{name}?sslmode=disable",
            "API_URL": f"http://127.0.0.1:{aircall_port}/v1",
            **changes,
        }
        yield it


def same_again(aircall: PretendAircall, settings: Settings) -> PretendAircall:
    """Another Aircall that stands as this one does, and goes its own way from here."""
    again = PretendAircall(
        client_id=CLIENT_ID, client_secret=CLIENT_SECRET, redirect_uris=[settings.redirect_uri], base_url=AIRCALL_URL
    )
    again.companies, again.grants, again.webhooks = copy.deepcopy((aircall.companies, aircall.grants, aircall.webhooks))
    return again


@asynccontextmanager
async def _database_door(it: Stage) -> AsyncIterator[int]:
    socket_path = f"{parse_qs(urlsplit(it.database_url).query)['host'][0]}/.s.PGSQL.5432"
    connections: set[asyncio.Task[None]] = set()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        connections.add(task)
        task.add_done_callback(connections.discard)
        server_reader, server_writer = await asyncio.open_unix_connection(socket_path)
        conversation = Conversation()
        back = asyncio.create_task(_answers(server_reader, writer, conversation))
        try:
            await _questions(reader, server_writer, conversation, it.gate)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            for end in (server_writer, writer):
                end.close()
            await asyncio.gather(back, return_exceptions=True)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _questions(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation, gate: Gate
) -> None:
    """From the driver to PostgreSQL, batch by batch, until the gate is shut."""
    start = await reader.readexactly(LENGTH.size)
    writer.write(start + await reader.readexactly(LENGTH.unpack(start)[0] - LENGTH.size))
    batch = bytearray()
    while True:
        head = await reader.readexactly(1 + LENGTH.size)
        body = await reader.readexactly(LENGTH.unpack(head[1:])[0] - LENGTH.size)
        batch += head + body
        conversation.hear(head[0], body)
        if head[0] not in {QUERY, SYNC, FLUSH, TERMINATE}:
            continue
        step = conversation.step(counts_reads=gate.counts_reads)
        if gate.is_shut or (step is not None and not gate.lets_through(step)):
            return
        writer.write(batch)
        batch.clear()


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation) -> None:
    """From PostgreSQL to the driver; each answer's end tells whether a transaction is open."""
    try:
        while True:
            head = await reader.readexactly(1 + LENGTH.size)
            body = await reader.readexactly(LENGTH.unpack(head[1:])[0] - LENGTH.size)
            if head[0] == READY:
                conversation.is_idle = body[0] == IDLE
            writer.write(head + body)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


@asynccontextmanager
async def _aircall_door(it: Stage) -> AsyncIterator[int]:
    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        asked = f"{scope['method']} {scope['path']}"
        if it.gate.is_shut or (scope["method"] != "GET" and not it.gate.lets_through(asked)):
            while (await receive())["type"] != "http.disconnect":
                pass
        else:
            await create_aircall_app(it.aircall)(scope, receive, send)

    server = uvicorn.Server(
        uvicorn.Config(door, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def _perform(stage: Connection, doors: dict[str, str], chore: str, output: str) -> None:
    """What the process does: it opens what a worker opens, says so, and does the chore when told."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    log.configure("info", "json")
    try:
        asyncio.run(_do(stage, settings_for(**doors), chore))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


async def _do(stage: Connection, settings: Settings, name: str) -> None:
    (chore,) = [chore for chore in CHORES if chore.name == name]
    # Reading the machine's certificates takes longer than most chores, and this Aircall needs none.
    without_certificates = httpx.AsyncHTTPTransport(verify=False)
    async with open_resources(settings, aircall_transport=without_certificates) as resources:
        await resources.require_ready()
        stage.send_bytes(b"open")
        stage.recv_bytes()
        await chore.work(resources)
