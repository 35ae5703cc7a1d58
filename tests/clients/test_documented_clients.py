"""Every block of `docs/clients.md` does what the page says, with the real service."""

import ast
import asyncio
import inspect
import json
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aircall_oauth_client import AircallError, Event
from fastapi import FastAPI, Request
from pydantic import SecretStr

from aircall_oauth.deliveries.destinations import signatures
from tests.clients.conftest import HOME, Reachable, event_body
from tests.clients.test_typescript_client import CLIENT, compiled, node
from tests.support.documented import DOCS, Block, blocks
from tests.support.tools import CI_GROUP, miss, run

__all__ = ["compiled"]

PAGE = blocks(DOCS / "clients.md")
APP_URL = HOME.removesuffix("/aircall/connected")
SECRET = signatures.new_secret().get_secret_value()
LANGUAGES = ["sh", *["python"] * 7, "sh", "typescript", "typescript"]


class Enough(Exception):
    """Ends what would go on for ever."""


def of(heading: str, language: str = "python") -> list[Block]:
    return [block for block in PAGE if (block.heading, block.language) == (heading, language)]


async def execute(block: Block, names: dict[str, Any]) -> None:
    """Run a block whose names are given, as in a function that may await."""
    told = eval(compile(block.text, "clients.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(told):
        await told


def signed(installation: str, number: int) -> tuple[dict[str, str], bytes]:
    event_id = f"evt_{number}"
    event = {"id": event_id, "type": "call.ended", "installation_id": installation, "data": {"id": number}}
    body = json.dumps(event).encode()
    key = signatures.key_of(SecretStr(SECRET))
    return signatures.headers([key], event_id=event_id, timestamp=int(time.time()), body=body), body


def test_every_block_of_the_page_is_run_here() -> None:
    assert [block.language for block in PAGE] == LANGUAGES


async def test_the_python_blocks_connect_take_ask_and_read(
    reachable: Reachable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken: list[int] = []

    def on_call_ended(event: Event) -> None:
        taken.append(event["data"]["id"])

    def logged_in_owner(_request: Request) -> str:
        return "acme"

    names: dict[str, Any] = {
        "app": FastAPI(),
        "SERVICE_URL": reachable.url,
        "API_KEY": reachable.api_key,
        "APP_URL": APP_URL,
        "SECRET": SECRET,
        "logged_in_owner": logged_in_owner,
        "on_call_ended": on_call_ended,
    }
    routes, _flask, _django, ensuring, keeping = of("Connect a customer, take events")
    await execute(routes, names)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(names["app"]), base_url=APP_URL) as browser:
        assert (await browser.get("/aircall/connect")).headers["location"].startswith("http://localhost:8000/aircall/")
        for headers, body in (signed("ins_1", 7), signed("ins_1", 7), ({}, b"{}")):
            await browser.post("/aircall/events", content=body, headers=headers)
    assert taken == [7]

    await execute(ensuring, names)
    assert names["made"]["secret"].startswith("whsec_")
    await execute(keeping, names)
    assert list(json.loads((tmp_path / "secret.json").read_text()).values()) == [names["secret"]]

    claim = await reachable.service.install_by_link("acme")
    names["installation"] = await names["service"].claims.claim(claim, "acme")
    with pytest.raises(AircallError, match="404"):  # the pretend Aircall has no call 42: it was asked
        await execute(of("Ask Aircall")[0], names)
    assert any(asked.path == "/v1/calls/42/comments" for asked in reachable.service.aircall.requests)

    for number in (1, 2):
        body = json.dumps(event_body(reachable.service, id=number)).encode()
        assert (await reachable.service.post_event(body)).status_code == 200
    read: list[str] = []
    kept: list[int] = []

    def handle(event: Event) -> None:
        read.append(event["type"])
        if read.count("call.ended") == 2:
            raise Enough

    names |= {"after": 0, "epoch": None, "handle": handle, "keep": lambda position, _epoch: kept.append(position)}
    with pytest.raises(Enough):
        await execute(of("Read the log")[0], names)
    assert len(kept) == len(read) - 1, "what was not finished is not kept"
    await names["service"].aclose()


async def test_the_blocks_of_flask_and_django_make_the_same_routes(reachable: Reachable) -> None:
    try:
        import django
        import flask
        from django.conf import settings
    except ImportError:
        miss(f"flask or django is not installed (they are in {CI_GROUP})")
    if not settings.configured:
        settings.configure(ROOT_URLCONF="partner_urls", ALLOWED_HOSTS=["*"], SECRET_KEY="test")
        django.setup()
    app = flask.Flask("partner")
    names: dict[str, Any] = {
        "app": app,
        "SERVICE_URL": reachable.url,
        "API_KEY": reachable.api_key,
        "APP_URL": APP_URL,
        "SECRET": SECRET,
        "logged_in_owner": lambda _request: "acme",
        "on_call_ended": lambda _event: None,
    }
    _routes, of_flask, of_django, *_ = of("Connect a customer, take events")

    await execute(of_flask, names)
    names["service"].close()
    await execute(of_django, names)
    names["service"].close()

    paths = {"/aircall/connect", "/aircall/connected", "/aircall/events"}
    assert paths <= {str(rule) for rule in app.url_map.iter_rules()}
    assert paths == {f"/{each.pattern}" for each in names["urlpatterns"]}


BEFORE = """
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import express from "express";
import pg from "pg";
import type { CallEndedEvent } from "aircall-oauth-client";

const { SERVICE_URL = "", API_KEY = "", APP_URL = "", SECRET = "", PG_HOST = "", PG_DATABASE = "" } = process.env;
const pool = new pg.Pool({ host: PG_HOST, database: PG_DATABASE, user: "postgres" });
const app = express();
const taken: unknown[] = [];
const loggedInOwner = (): string => "acme";
const onCallEnded = (event: CallEndedEvent): unknown => taken.push(event.data.id);
"""
AFTER = """
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const gone = await fetch(`${url}/aircall/connect`, { redirect: "manual" });
const statuses: number[] = [];
for (const [headers, body] of JSON.parse(process.env["DELIVERIES"] ?? "") as Array<[Record<string, string>, string]>) {
  statuses.push((await fetch(`${url}/aircall/events`, { method: "POST", headers, body })).status);
}
console.log(JSON.stringify({ location: gone.headers.get("location"), statuses, taken }));
server.closeAllConnections();
server.close();
await pool.end();
"""


BEFORE_FETCH = """
import type { CallEndedEvent } from "aircall-oauth-client";

const { SERVICE_URL = "", API_KEY = "", APP_URL = "", SECRET = "" } = process.env;
const taken: unknown[] = [];
const onCallEnded = (event: CallEndedEvent): unknown => taken.push(event.data.id);
"""
AFTER_FETCH = """
const gone = await connect(new Request("https://app.example.com/aircall/connect"));
const unknown = await connected(new Request("https://app.example.com/aircall/connected?error=declined"));
const statuses: number[] = [];
for (const [headers, body] of JSON.parse(process.env["DELIVERIES"] ?? "") as Array<[Record<string, string>, string]>) {
  statuses.push((await events(new Request("https://app.example.com/", { method: "POST", headers, body }))).status);
}
console.log(JSON.stringify({ location: gone.headers.get("location"), statuses, taken, unknown: unknown.status }));
"""


@pytest.fixture(scope="module")
def typescript(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the TypeScript blocks, compiled strictly."""
    folder = tmp_path_factory.mktemp("typescript")
    block, of_fetch = of("TypeScript", "typescript")
    modules = folder / "node_modules"
    modules.mkdir()
    (modules / "aircall-oauth-client").symlink_to(CLIENT)
    for name in ("express", "pg", "@types"):
        (modules / name).symlink_to(CLIENT / "node_modules" / name)
    (folder / "package.json").write_text('{"type": "module"}')
    files = [folder / "documented.ts", folder / "fetch.ts"]
    files[0].write_text(BEFORE + block.text + AFTER)
    files[1].write_text(BEFORE_FETCH + of_fetch.text + AFTER_FETCH)
    options = ["--strict", "--module", "nodenext", "--target", "es2022", "--skipLibCheck"]
    options += ["--typeRoots", str(modules / "@types"), "--types", "node"]
    compiler = CLIENT / "node_modules" / "typescript" / "bin" / "tsc"
    run(node(), compiler, *options, *files, seconds=120)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", ["documented", "fetch"])
async def test_the_typescript_block_compiles_strictly_connects_and_takes(
    typescript: Path, reachable: Reachable, empty_database: str, file: str
) -> None:
    url = urlsplit(empty_database)
    deliveries = [(headers, body.decode()) for headers, body in (signed("ins_1", 7), signed("ins_1", 7), ({}, b"{}"))]

    process = await asyncio.create_subprocess_exec(
        *(node(), str(typescript / f"{file}.js")),
        cwd=typescript,
        env={
            "PATH": os.environ["PATH"],
            "SERVICE_URL": reachable.url,
            "API_KEY": reachable.api_key,
            "APP_URL": APP_URL,
            "SECRET": SECRET,
            "PG_HOST": parse_qs(url.query)["host"][0],
            "PG_DATABASE": url.path.removeprefix("/"),
            "DELIVERIES": json.dumps(deliveries),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 0, wrong.decode()
    told = json.loads(said)
    assert (told["statuses"], told["taken"]) == ([204, 204, 401], [7])
    assert "/aircall/oauth/install?link=" in told["location"]


def test_the_clients_are_installed_as_on_the_page_that_is_tried() -> None:
    """`tests/sandbox/test_documented_path.py` runs that page's blocks, with registries, and an app with each client."""
    tried = "\n".join(block.text for block in blocks(DOCS / "your-app.md")).replace('"', "").replace("$CLONE/", "./")
    pip = r"pip install (?:\S+ )*\./clients/python\n"
    npm = [r"npm --prefix (?:\./)?clients/typescript ci\b", r"npm --prefix (?:\./)?clients/typescript run build\b"]
    npm.append(r"npm install (?:\S+ )*\./clients/typescript\n")

    for language, commands in (("Python", [pip]), ("TypeScript", npm)):
        (block,) = of(language, "sh")
        shown = f"{block.text}\n"
        assert len(re.findall(r"\b(?:pip|npm)\b", shown)) == len(commands)
        for command in commands:
            assert re.search(command, shown), command
            assert re.search(command, f"{tried}\n"), command
