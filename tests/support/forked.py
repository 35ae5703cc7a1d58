"""Processes that are there quickly: forked off one that has read the code already. They die like any other."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import aiohttp

from aircall_oauth.sandbox.ports import free_port
from tests.support.processes import Process
from tests.support.service import command_environment, run_service, settings_for

START_SECONDS = 20.0
STOP_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.02

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("tests.support.forked", "tests.support.killing", "aircall_oauth.server.processes"),
        # What they would import once they are forked off.
        *("aircall_oauth.aircall.clients", "aircall_oauth.aircall.relay", "anyio._backends._asyncio"),
        *("certifi", "httpcore", "importlib.readers"),
        "tests.support.frozen",
    ]
)


class WebProcess:
    """`aircall-oauth serve`, again and again on the same port."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = dict(environment)
        self._log = folder / f"{self.port}.log"

    async def start(self) -> None:
        """Start it, and return when it is ready."""
        self._process = await Process.start(
            "web", "aircall_oauth", "serve", "--port", str(self.port), environment=self._environment, log=self._log
        )
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
            while not await self._is_ready(session):
                assert self._process.running, self.said()
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self) -> str:
        return self._log.read_text()

    def tell(self, number: signal.Signals) -> None:
        self._process.tell(number)

    async def ended(self) -> int:
        return await self._process.ended(STOP_SECONDS)

    async def kill(self) -> None:
        """As the kernel does when memory is short: nothing is closed, nothing is finished."""
        await self._process.kill()

    async def close(self) -> None:
        if self._process.running:
            await self.kill()

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        with suppress(aiohttp.ClientError):
            async with session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        return False


@asynccontextmanager
async def web_processes(count: int, database_url: str, folder: Path) -> AsyncIterator[tuple[list[WebProcess], str]]:
    """So many ready web processes over one migrated database, and the token of the only webhook in it."""
    async with run_service(settings_for(database_url)) as service:
        await service.install()
        token = service.webhook_token()
    processes = [WebProcess(command_environment(database_url), folder) for _ in range(count)]
    try:
        for process in processes:
            await process.start()
        yield processes, token
    finally:
        for process in processes:
            await process.close()


def fork(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process of its own that does this, under way."""
    process = _context.Process(target=work, args=arguments)
    process.start()
    return process
