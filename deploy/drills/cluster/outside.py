"""What the service needs and a cluster does not have: outside of it: PostgreSQL, an Aircall, a destination."""

import asyncio
import base64
import json
import os
import re
import secrets
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from tests.support.authority import Authority
from tests.support.relay import pass_both_ways

from aircall_oauth.sandbox.postgres import Postgres
from cluster.network import HOST, RANGE
from cluster.sink import Sink

SERVICE_PORT, AIRCALL_PORT, SINK_PORT, POSTGRES_PORT = 8080, 8100, 8200, 5432
PUBLIC_URL = f"http://localhost:{SERVICE_PORT}"
AIRCALL_URL = f"http://localhost:{AIRCALL_PORT}"
SINK_URL = f"https://{HOST}:{SINK_PORT}/hook"
WEBHOOK_URL = f"{PUBLIC_URL}/aircall/webhook"
CLIENT_ID = "drill-app"
DATABASE, OWNER = "service", "owner"
NUMBERS = """SELECT DISTINCT substring(data FROM '"drill": ?([0-9]+)')::bigint FROM event WHERE type = 'call.created'"""
START_SECONDS = 30


@dataclass(frozen=True)
class Outside:
    """Where it is, and the secrets that the service is given."""

    sink: Sink
    secrets: dict[str, str]
    authority: Authority
    _aircall_state: Path
    postgres: Postgres

    def settings(self) -> dict[str, str]:
        """The settings beside those of the example values."""
        return {
            "PUBLIC_URL": PUBLIC_URL,
            "CLIENT_ID": CLIENT_ID,
            "AUTHORIZE_URL": f"{AIRCALL_URL}/oauth/authorize",
            "API_URL": f"{AIRCALL_URL}/v1",
            "SUCCESS_URL": f"{AIRCALL_URL}/oauth/success",
            "ALLOWED_PRIVATE_RANGES": RANGE,
        }

    def connect(self) -> int:
        """Walk a company's admin through the install flow, as a browser does. Returns the company's id."""
        with httpx.Client(timeout=30, trust_env=False, follow_redirects=False) as browser:
            company: int = browser.get(f"{AIRCALL_URL}/control/state").json()["companies"][0]["id"]
            consent = browser.get(_location(browser.get(f"{PUBLIC_URL}/aircall/oauth/install")))
            action = re.search(r'<form[^>]+action="([^"]+)"', consent.text)
            target = consent.url.join(action[1].replace("&amp;", "&") if action else "")
            agreed = browser.post(target, data={"decision": "authorize", "company": company})
            _location(browser.get(_location(agreed)))
            return company

    def webhook_token(self) -> str:
        """The token that Aircall signs its events with."""
        saved = json.loads(self._aircall_state.read_bytes())
        token: str = next(each["token"] for each in saved["webhooks"] if each["url"] == WEBHOOK_URL)
        return token

    async def make_role(self, name: str) -> str:
        """Make a role with a password; returns its URL."""
        return await _make_role(self.postgres, name)

    async def stored(self) -> set[int]:
        """Return the numbers of the drill's events that are in the log."""
        return {number for number in await self._ask(NUMBERS) if number is not None}

    async def schema(self) -> str:
        """Return the version that the database was migrated to."""
        return str((await self._ask("SELECT version_num FROM alembic_version"))[0])

    async def _ask(self, query: str) -> list[Any]:
        connection = await asyncpg.connect(self.postgres.dsn(DATABASE))
        try:
            return [row[0] for row in await connection.fetch(query)]
        finally:
            await connection.close()


@asynccontextmanager
async def running(folder: Path, authority: Authority) -> AsyncIterator[Outside]:
    """Run all of it until the end."""
    async with AsyncExitStack() as stack:
        postgres = await asyncio.to_thread(
            Postgres.start, folder / "postgres", durable=True, port=POSTGRES_PORT, host=HOST
        )
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        database_url = await _make_database(postgres)
        client_secret = secrets.token_urlsafe(24)
        state = await stack.enter_async_context(_aircall(folder, client_secret))
        sink = Sink()
        stack.callback((await sink.listen(HOST, SINK_PORT, _tls(authority))).close)
        given = {
            "AIRCALL_OAUTH_CLIENT_SECRET": client_secret,
            "AIRCALL_OAUTH_DATABASE_URL": database_url,
            "AIRCALL_OAUTH_SECRET_KEYS": f"k1:{_key()}",
            "AIRCALL_OAUTH_FINGERPRINT_KEY": _key(),
        }
        yield Outside(sink, given, authority, state, postgres)


async def _make_database(postgres: Postgres) -> str:
    """Let the pods in, with a password; returns the URL of the owner."""
    with (postgres.cluster / "pg_hba.conf").open("a") as rules:
        print(f"host all all {RANGE} scram-sha-256", file=rules)
    url = await _make_role(postgres, OWNER)
    await _tell(postgres, f"CREATE DATABASE {DATABASE} OWNER {OWNER}", "SELECT pg_reload_conf()")
    return url


async def _make_role(postgres: Postgres, name: str) -> str:
    password = secrets.token_urlsafe(18)
    await _tell(postgres, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    return f"postgresql://{name}:{password}@{HOST}:{POSTGRES_PORT}/{DATABASE}"


async def _tell(postgres: Postgres, *statements: str) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    for each in statements:
        await connection.execute(each)
    await connection.close()


@asynccontextmanager
async def _aircall(folder: Path, client_secret: str) -> AsyncIterator[Path]:
    state = folder / "aircall.json"
    words = ["--client-id", CLIENT_ID, "--redirect-uri", f"{PUBLIC_URL}/aircall/oauth/callback"]
    words += ["--port", str(AIRCALL_PORT), "--base-url", AIRCALL_URL, "--state", str(state)]
    with (folder / "aircall.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aircall_oauth.sandbox.aircall", *words),
            env={**os.environ, "SANDBOX_CLIENT_SECRET": client_secret},
            stdout=log,
            stderr=log,
        )
    try:
        await _wait_for(AIRCALL_PORT)
        yield state
    finally:
        process.kill()
        await process.wait()


async def _wait_for(port: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


def _tls(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("destination", [HOST]))
    return context


async def serve_aircall(listener: socket.socket) -> asyncio.Server:
    """Serve the pretend Aircall on a socket of a pod's: it speaks http, which settings allow on localhost only."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await pass_both_ways(reader, writer, *await asyncio.open_connection("127.0.0.1", AIRCALL_PORT))

    return await asyncio.start_server(pass_on, sock=listener)


def _location(answer: httpx.Response) -> str:
    if answer.status_code != 303:
        raise AssertionError(f"{answer.url.path} answered {answer.status_code}, not a redirect: {answer.text[:300]}")
    return str(answer.url.join(answer.headers["location"]))


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()
