"""The service and the pretend Aircall as real processes over real HTTP, so that they can really be killed."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import asyncpg
import httpx
from aiohttp import web

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres
from tests.support.databases import looking
from tests.support.service import CLIENT_ID, CLIENT_SECRET, command_environment, run_command
from tests.support.spawning import Running, spawn

START_SECONDS = 20.0
STOP_SECONDS = 15.0
LOOK_AGAIN_SECONDS = 0.02
NONE_OF = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY ($1::int[]))"


async def eventually(question: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Ask until the answer is true; `TimeoutError` where it never is. Connection errors count as no."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if answer := await question():
                    return answer
            except httpx.TransportError:
                pass
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def until_closed(database_url: str, backends: Sequence[int]) -> None:
    """Wait until PostgreSQL has none of these connections any more."""
    async with looking(database_url) as connection:
        await eventually(lambda: connection.fetchval(NONE_OF, list(backends)))


class Process:
    """One process, all it says in a file."""

    def __init__(self, name: str, process: Running, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @classmethod
    async def start(
        cls, name: str, module: str, *arguments: str, environment: Mapping[str, str], log: Path
    ) -> "Process":
        with log.open("ab") as output:
            process = await spawn(
                module, *arguments, environment=environment, stdout=output.fileno(), stderr=output.fileno()
            )
        return cls(name, process, log)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self) -> str:
        return self._log.read_text()

    def tell(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    async def ended(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code, once it has one; negative for the signal that ended it."""
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    async def kill(self) -> None:
        """As the kernel does when memory is short: nothing is closed, nothing is finished."""
        self.tell(signal.SIGKILL)
        assert await self.ended() == -signal.SIGKILL

    async def close(self) -> None:
        if not self.running:
            return
        self._process.terminate()
        try:
            await self.ended()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@dataclass
class World:
    """The service, Aircall, a browser and the database, each where it really is."""

    folder: Path
    database_url: str
    environment: dict[str, str]
    service_url: str
    aircall: httpx.AsyncClient
    browser: httpx.AsyncClient
    processes: list[Process] = field(default_factory=list)

    async def start_service(self, *options: str) -> Process:
        """`aircall-oauth serve`, ready."""
        port = self.service_url.rpartition(":")[2]
        process = await self.run("serve", "--port", port, *options)
        await self.answering(process, f"{self.service_url}/readyz")
        return process

    async def run(self, *arguments: str) -> Process:
        """`aircall-oauth …` as a process that stays."""
        log = self.folder / "service.log"
        process = await Process.start(arguments[0], "aircall_oauth", *arguments, environment=self.environment, log=log)
        self.processes.append(process)
        return process

    async def start_aircall(self, *options: str) -> Process:
        url, redirect_uri = str(self.aircall.base_url), f"{self.service_url}/aircall/oauth/callback"
        process = await Process.start(
            "aircall",
            "aircall_oauth.sandbox.aircall",
            *("--client-id", CLIENT_ID, "--redirect-uri", redirect_uri),
            *("--port", url.rpartition(":")[2].strip("/"), "--base-url", url, "--attempt-pause", "0.2"),
            *options,
            environment={"PATH": os.environ["PATH"], "SANDBOX_CLIENT_SECRET": CLIENT_SECRET},
            log=self.folder / "aircall.log",
        )
        self.processes.append(process)
        await self.answering(process, f"{url}/control/state")
        return process

    async def answering(self, process: Process, url: str) -> None:
        async def answers() -> bool:
            assert process.running, process.said()
            return (await self.browser.get(url)).status_code == 200

        await eventually(answers, START_SECONDS)

    async def control(self, order: str, **details: Any) -> dict[str, Any]:
        """Make something happen at Aircall."""
        answer = await self.aircall.post(f"/control/{order}", json=details)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def asked(self, method: str, path: str) -> list[dict[str, Any]]:
        """The requests of this kind that Aircall was sent, answered or not."""
        rows = (await self.aircall.get("/control/ledger")).json()["requests"]
        return [row for row in rows if (row["method"], row["path"]) == (method, path)]

    async def webhooks(self) -> list[dict[str, Any]]:
        """The webhooks of the first company at Aircall, their tokens shortened."""
        companies = (await self.aircall.get("/control/state")).json()["companies"]
        webhooks: list[dict[str, Any]] = companies[0]["webhooks"]
        return webhooks

    async def consent(self, decision: str = "authorize", *, by: str = "") -> str:
        """Walk from the install door to Aircall's page and press a button; the way back, not yet gone.

        The door is that of the process at `by`, if not of any.
        """
        departure = await self.browser.get(f"{by or self.service_url}/aircall/oauth/install")
        assert departure.status_code == 303
        page = await self.browser.get(departure.headers["location"])
        form = re.search(r'<form [^>]*method="post" action="([^"]+)"', page.text)
        assert form, page.text
        target = urljoin(str(page.url), form[1].replace("&amp;", "&"))
        back: str = (await self.browser.post(target, data={"decision": decision})).headers["location"]
        assert back.startswith(f"{self.service_url}/aircall/oauth/callback?")
        return back

    async def partner(self, scopes: str = "installations:read,events:read,tokens:read") -> httpx.AsyncClient:
        """One of the partner's systems, with an API key from the command line; to be closed by whoever asks for it."""
        created = await run_command(
            *("keys", "create", "--name", "test", "--scopes", scopes), environment=self.environment
        )
        assert created.exit_code == 0, created.stderr
        key = created.stdout.splitlines()[-1]
        return a_client(self.service_url, headers={"authorization": f"Bearer {key}"})

    async def webhook_token(self) -> str:
        """The token of our webhook, asked of Aircall with an access token of our app's."""
        exchange = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "redirect_uri": f"{self.service_url}/aircall/oauth/callback",
            "grant_type": "authorization_code",
            "code": (await self.control("grant"))["code"],
        }
        access_token = (await self.aircall.post("/v1/oauth/token", json=exchange)).json()["access_token"]
        headers = {"authorization": f"Bearer {access_token}"}
        webhooks = (await self.aircall.get("/v1/webhooks", headers=headers)).json()["webhooks"]
        token: str = webhooks[0]["token"]
        return token

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()


@asynccontextmanager
async def world(
    folder: Path, database_url: str, *, more_companies: int = 0, service_url: str = "", **changes: str
) -> AsyncIterator[World]:
    """Aircall runs, the service is yet to be started; in the end all that was started is stopped."""
    service_url, aircall_url = service_url or f"http://localhost:{free_port()}", f"http://localhost:{free_port()}"
    addresses = {
        "PUBLIC_URL": service_url,
        "AUTHORIZE_URL": f"{aircall_url}/oauth/authorize",
        "API_URL": f"{aircall_url}/v1",
        "SUCCESS_URL": f"{aircall_url}/oauth/success",
    }
    environment = command_environment(database_url, **(addresses | changes))
    async with a_client(aircall_url) as aircall, a_client(service_url) as browser:
        it = World(folder, database_url, environment, service_url, aircall, browser)
        try:
            await it.start_aircall("--more-companies", str(more_companies))
            yield it
        finally:
            for process in reversed(it.processes):
                await process.close()


def a_client(url: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=httpx.Timeout(30.0), **options)


@asynccontextmanager
async def durable_postgres(folder: Path) -> AsyncIterator[Postgres]:
    """A PostgreSQL of the test's own that keeps what it committed, whatever happens to it."""
    server = await asyncio.to_thread(Postgres.start, folder, durable=True)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[bytes]]]:
    """What OpenTelemetry exports to: its address, and every body it was sent."""
    received: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/{signal:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}", received
    finally:
        await runner.cleanup()
