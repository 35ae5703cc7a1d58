"""What tests share: settings, the service in this process, and an admin's browser."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from aircall_oauth.access.keys import new_api_key
from aircall_oauth.access.scopes import Scope
from aircall_oauth.events.receiver.endpoint import Receiver
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.sandbox.aircall import PretendAircall
from aircall_oauth.sandbox.aircall import create_app as create_aircall_app
from aircall_oauth.server.app import create_app
from aircall_oauth.server.receiving import open_receiver
from aircall_oauth.settings import Settings
from aircall_oauth.storage.models.access import ApiKey
from aircall_oauth.storage.sealed import API_KEY_PURPOSE
from aircall_oauth.storage.stamps import new_id, now
from tests.support import databases
from tests.support.kept import use_of
from tests.support.relay import pass_both_ways
from tests.support.spawning import Running, spawn

PUBLIC_URL = "http://localhost:8000"
AIRCALL_URL = "http://localhost:8100"
CLIENT_ID = "test-client-id"
CLIENT_SECRET = "test-client-secret"
SECRET_KEY = base64.b64encode(b"k" * 32).decode()
FINGERPRINT_KEY = base64.b64encode(b"f" * 32).decode()

# Of a client, then of the server.
Between = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]


def environment_for(database_url: str, **changes: str) -> dict[str, str]:
    """The environment of a working service; `changes` by setting name, such as `PUBLIC_URL`."""
    names = {
        "CLIENT_ID": CLIENT_ID,
        "CLIENT_SECRET": CLIENT_SECRET,
        "PUBLIC_URL": PUBLIC_URL,
        "DATABASE_URL": database_url,
        "SECRET_KEYS": f"k1:{SECRET_KEY}",
        "FINGERPRINT_KEY": FINGERPRINT_KEY,
        "AUTHORIZE_URL": f"{AIRCALL_URL}/oauth/authorize",
        "API_URL": f"{AIRCALL_URL}/v1",
        "SUCCESS_URL": f"{AIRCALL_URL}/oauth/success",
        # As much as the pretend Aircall allows: only a test of the budget meets its end.
        "AIRCALL_RATE_PER_MINUTE": "120",
        "METRICS_PORT": "0",
        "DRAIN": "0s",
    }
    return {f"AIRCALL_OAUTH_{name}": value for name, value in (names | changes).items()}


def settings_for(database_url: str, **changes: str) -> Settings:
    exported = tuple(pair for pair in os.environ.items() if pair[0].startswith("AIRCALL_OAUTH_"))
    return _validated(tuple(environment_for(database_url, **changes).items()), exported)


@lru_cache
def _validated(given: tuple[tuple[str, str], ...], _exported: tuple[tuple[str, str], ...]) -> Settings:
    """Validate settings once for many tests: they can't be changed."""
    return Settings.model_validate({name.removeprefix("AIRCALL_OAUTH_").lower(): value for name, value in given})


@dataclass
class Service:
    """The service as its three visitors meet it: a browser, Aircall, and the partner's systems."""

    app: FastAPI
    resources: Resources
    aircall: PretendAircall
    browser: httpx.AsyncClient
    to_app: "ToApp"

    @property
    def settings(self) -> Settings:
        return self.resources.settings

    def new_browser(self) -> httpx.AsyncClient:
        """Another browser: no cookie of the first."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=self.settings.public_url)

    async def begin(self, browser: httpx.AsyncClient | None = None, **query: str) -> str:
        """Open the install door; the state that goes to Aircall."""
        answer = await (browser or self.browser).get("/aircall/oauth/install", params=query)
        assert answer.status_code == 303
        return parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]

    async def return_with(self, browser: httpx.AsyncClient | None = None, **query: str) -> httpx.Response:
        """Come back from Aircall."""
        return await (browser or self.browser).get("/aircall/oauth/callback", params=query)

    async def install(self, company: Any = None) -> str:
        """A whole installation; its id."""
        state = await self.begin()
        answer = await self.return_with(state=state, code=self.aircall.grant(company, state=state))
        assert answer.status_code in {200, 303}, answer.text
        rows = await self.sql("SELECT id FROM installation ORDER BY connected_at DESC LIMIT 1")
        installation_id: str = rows[0]["id"]
        return installation_id

    async def installed(self) -> str:
        """The first installation, as a flow leaves it, for a test that is about what comes after; its id."""
        # Here, as it looks at databases as other helpers do, which know this module.
        from tests.support.installed import first_installation

        return await first_installation(self)

    async def link(self, owner: str = "acme", **more: str) -> str:
        """An install link for an owner: its address."""
        partner = await self.partner(Scope.INSTALLATIONS_WRITE)
        answer = await partner.post("/v1/install-links", json={"owner": owner, **more})
        assert answer.status_code == 201, answer.text
        url: str = answer.json()["url"]
        return url

    async def install_by_link(
        self, owner: str = "acme", company: Any = None, browser: httpx.AsyncClient | None = None
    ) -> str:
        """A whole flow that began with a link for an owner; the claim that the browser brings home."""
        visitor = browser or self.new_browser()
        departure = await visitor.get(await self.link(owner))
        state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
        answer = await self.return_with(visitor, state=state, code=self.aircall.grant(company, state=state))
        assert answer.status_code == 303, answer.text
        return parse_qs(urlsplit(answer.headers["location"]).query)["claim"][0]

    async def claim(self, claim: str, owner: str = "acme", partner: httpx.AsyncClient | None = None) -> httpx.Response:
        """What the partner's page does with a claim."""
        system = partner or await self.partner(Scope.INSTALLATIONS_WRITE)
        return await system.post("/v1/claims", json={"claim": claim, "owner": owner})

    async def partner(self, *scopes: Scope, owner: str | None = None) -> httpx.AsyncClient:
        """One of the partner's systems, with an API key made long ago; all scopes where none are named."""
        secret = new_api_key()
        key = ApiKey(
            id=new_id("key"),
            name="test",
            fingerprint=self.resources.vault.fingerprint(secret, API_KEY_PURPOSE),
            scopes=[str(scope) for scope in scopes or Scope],
            owner=owner,
            created_at=now(),
        )
        async with self.resources.database.session() as session:
            session.add(key)
        client = self.new_browser()
        client.headers["authorization"] = f"Bearer {secret}"
        return client

    async def post_event(self, body: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """What Aircall does with an event, or anybody with anything."""
        sent = {"content-type": "application/json", **(headers or {})}
        return await self.browser.post("/aircall/webhook", content=body, headers=sent)

    async def decide(self, authorize_url: str, decision: str = "authorize") -> str:
        """Press a button of Aircall's consent page; where that sends the browser."""
        aircall = httpx.ASGITransport(create_aircall_app(self.aircall))
        async with httpx.AsyncClient(transport=aircall) as visitor:
            assert (await visitor.get(authorize_url)).status_code == 200
            answer = await visitor.post(authorize_url, data={"decision": decision})
        location: str = answer.headers["location"]
        return location

    def database_away(self) -> AbstractAsyncContextManager[None]:
        return database_away(self.settings.database_url.get_secret_value())

    def webhook_token(self) -> str:
        """The token of the first company's only webhook at Aircall."""
        (webhook,) = self.aircall.webhooks.of(self.aircall.companies[0].id)
        return webhook.token

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        """Look at the database, or make a row due; several at a time may."""
        async with self.looking() as looker:
            return list(await looker.fetch(statement, *values))

    def looking(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """A connection to the database that is kept for the next look."""
        return databases.looking(self.settings.database_url.get_secret_value())

    async def let_pass(self, function: str) -> None:
        """Let a trigger's function change nothing from now on.

        Dropping the trigger locks a table's partitions before the table, a writer the table before its partitions.
        """
        await self.sql(
            f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
        )


@asynccontextmanager
async def run_service(settings: Settings, span_exporter: Any = None) -> AsyncIterator[Service]:
    """The service and its pretend Aircall, each reaching the other's doors without a network."""
    to_app = ToApp()
    aircall = PretendAircall(
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        redirect_uris=[settings.redirect_uri],
        base_url=AIRCALL_URL,
        webhook_attempt_pause=0.01,
        transport=to_app,
    )
    to_aircall = ToAircall(create_aircall_app(aircall))
    with use_of(settings.database_url.get_secret_value()) as use:
        async with open_resources(settings, aircall_transport=to_aircall, span_exporter=span_exporter) as resources:
            app = create_app(Receiver())
            to_app.app = app
            browser = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=settings.public_url)
            async with open_receiver(resources, app.receiver) as inbox, app.opened(resources, inbox), browser:
                with use.at_work():
                    yield Service(app, resources, aircall, browser, to_app)
    await aircall.close()


@asynccontextmanager
async def database_away(database_url: str) -> AsyncIterator[None]:
    """PostgreSQL hangs up on everybody and takes nobody in, while the block lasts."""
    url = urlsplit(database_url)
    name = url.path.removeprefix("/")
    admin = await asyncpg.connect(url._replace(path="/postgres").geturl())
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()


class ToAircall(httpx.ASGITransport):
    """As a transport over the network does, it puts the extension `target` into the request line."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if target := request.extensions.get("target"):
            request.url = request.url.copy_with(raw_path=target)
        return await super().handle_async_request(request)


class ToApp(httpx.AsyncBaseTransport):
    """The pretend Aircall is made before the service it sends events to."""

    app: ASGIApp

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await httpx.ASGITransport(self.app).handle_async_request(request)


@asynccontextmanager
async def tcp_door(database_url: str, port: int = 0, *, between: Between = pass_both_ways) -> AsyncIterator[int]:
    """Lets TCP in to the test's PostgreSQL, which listens on a socket only; the port.

    `between` passes on what is said over one connection.
    """
    socket_path = f"{parse_qs(urlsplit(database_url).query)['host'][0]}/.s.PGSQL.5432"
    connections: set[asyncio.Task[None]] = set()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        connections.add(task)
        task.add_done_callback(connections.discard)
        with suppress(OSError, asyncio.CancelledError):
            await between(reader, writer, *await asyncio.open_unix_connection(socket_path))

    server = await asyncio.start_server(join, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def until(question: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what another task or process is about to do; `TimeoutError` where it does not."""
    async with asyncio.timeout(seconds):
        while True:
            if question():
                return
            await asyncio.sleep(0.01)


async def loop_turns() -> None:
    """Wait until what was sent over loopback is read, where both ends are in this process."""
    for _ in range(20):
        await asyncio.sleep(0)


def command_environment(database_url: str, **changes: str) -> dict[str, str]:
    """The environment of a real process of the service: nothing of this one's but the way to its programs."""
    return {"PATH": os.environ["PATH"], **environment_for(database_url, **changes)}


@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    exit_code: int
    stdout: str
    stderr: str


async def run_command(*arguments: str, environment: Mapping[str, str]) -> Ended:
    """`aircall-oauth …` as a process of its own, waited for."""
    process = await start_command(*arguments, environment=environment)
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())


async def start_command(*arguments: str, environment: Mapping[str, str]) -> Running:
    """`aircall-oauth …` as a process of its own."""
    return await spawn("aircall_oauth", *arguments, environment=environment)
