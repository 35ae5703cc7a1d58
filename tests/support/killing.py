"""Workers that are really killed, each a process of its own, before the n-th step of a chore."""

import asyncio
import copy
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.aircall import PretendAircall
from aircall_oauth.sandbox.aircall import create_app as create_aircall_app
from aircall_oauth.server.chores import Chore, Look
from aircall_oauth.server.worker import CHORES
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log
from tests.support.databases import looking
from tests.support.forked import fork
from tests.support.gates import Gate, aircall_door, through
from tests.support.processes import eventually
from tests.support.service import AIRCALL_URL, CLIENT_ID, CLIENT_SECRET, ToAircall, settings_for, tcp_door, until

START_SECONDS = 60.0
RUN_SECONDS = 60.0
NOBODY_ELSE = """
    SELECT count(*) = 1 FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
"""


@dataclass
class Stage:
    """A database and a pretend Aircall, and the doors through which workers reach them."""

    database_url: str  # PostgreSQL's own address
    aircall: PretendAircall
    folder: Path
    changes: dict[str, str]
    doors: dict[str, str] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)

    async def perform(
        self, chore: str, *, kill_before: int | None = None, once_open: str = "", counts_reads: bool = False
    ) -> Gate:
        """A worker does this chore once, and is killed before its n-th step, if it gets there.

        `once_open` happens to the database between the worker's start and the chore.
        """
        self.gate = gate = Gate(kill_before, counts_reads)
        output = self.folder / "worker.log"
        ours, theirs = Pipe()
        with ours, theirs:
            worker = fork(_work, theirs, self.doors, chore, str(output))
            try:
                await until(lambda: ours.poll() or not worker.is_alive(), START_SECONDS)
                assert worker.is_alive(), output.read_text()
                ours.recv_bytes()
                await self.sql(once_open)
                gate.victim = worker.pid
                ours.send_bytes(b"go")
                await until(lambda: not worker.is_alive(), RUN_SECONDS)
                assert worker.exitcode == (-signal.SIGKILL if gate.is_shut else 0), output.read_text()
            finally:
                worker.kill()
                worker.join()
        await self._left_alone()
        return gate

    async def go_on(self, chore: str) -> None:
        """A worker that nothing happens to does this chore once, if it finds work; in this process: that is quicker."""
        settings = settings_for(self.database_url, **self.changes)
        to_aircall = ToAircall(create_aircall_app(self.aircall))
        async with open_resources(settings, aircall_transport=to_aircall) as resources:
            await resources.require_ready()
            it = _chore(chore)
            if it.has_work is None or await Look([it]).with_work(resources, [chore]):
                await it.work(resources)

    async def sql(self, script: str) -> None:
        """Time goes by, or something happens."""
        async with looking(self.database_url) as connection:
            # The driver chokes on a script with nothing in it.
            await connection.execute(script or "SELECT")

    async def ask(self, question: str) -> Any:
        async with looking(self.database_url) as connection:
            return await connection.fetchval(question)

    async def _left_alone(self) -> None:
        """PostgreSQL has noticed, too, that the worker is no more."""
        async with looking(self.database_url) as connection:
            await eventually(lambda: connection.fetchval(NOBODY_ELSE), RUN_SECONDS)


@asynccontextmanager
async def stage(database_url: str, aircall: PretendAircall, folder: Path, **changes: str) -> AsyncIterator[Stage]:
    """A stage over this database, which may be another one of this name for each performance."""
    it = Stage(database_url, aircall, folder, changes)
    name = urlsplit(database_url).path.removeprefix("/")
    async with (
        tcp_door(database_url, between=through(lambda: it.gate)) as database_port,
        aircall_door(lambda: create_aircall_app(it.aircall), lambda: it.gate) as aircall_port,
    ):
        it.doors = {
            "database_url": f"postgresql://postgres@127.0.0.1:{database_port}/{name}?sslmode=disable",
            "API_URL": f"http://127.0.0.1:{aircall_port}/v1",
            **changes,
        }
        yield it


def same_again(aircall: PretendAircall, settings: Settings) -> PretendAircall:
    """Another Aircall that stands as this one does, with nothing asked of it yet."""
    again = PretendAircall(
        client_id=CLIENT_ID, client_secret=CLIENT_SECRET, redirect_uris=[settings.redirect_uri], base_url=AIRCALL_URL
    )
    again.companies, again.grants, again.webhooks = copy.deepcopy((aircall.companies, aircall.grants, aircall.webhooks))
    return again


def _work(stage: Connection, doors: dict[str, str], chore: str, output: str) -> None:
    """The worker: it opens what a worker opens, says so, and does the chore when told."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    log.configure("info", "json")
    try:
        asyncio.run(_do(stage, settings_for(**doors), chore))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


async def _do(stage: Connection, settings: Settings, name: str) -> None:
    # To read the machine's certificates takes longer than most chores, and this Aircall has none.
    plain = httpx.AsyncHTTPTransport(verify=False)
    async with open_resources(settings, aircall_transport=plain) as resources:
        await resources.require_ready()
        stage.send_bytes(b"open")
        stage.recv_bytes()
        await _chore(name).work(resources)


def _chore(name: str) -> Chore:
    (chore,) = [chore for chore in CHORES if chore.name == name]
    return chore
