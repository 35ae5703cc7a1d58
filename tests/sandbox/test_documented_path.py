"""A newcomer's path, done block by block: `docs/your-first-event.md`, then `docs/your-app.md` in both languages."""

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from pydantic import SecretStr

from aircall_oauth.deliveries.destinations import signatures
from aircall_oauth.sandbox.ports import free_port
from tests.support.documented import DOCS, Shell, blocks, shell
from tests.support.tools import miss, tool

ROOT = Path(__file__).parents[2]
FIRST_EVENT, APP = blocks(DOCS / "your-first-event.md"), blocks(DOCS / "your-app.md")
LINES_OF_AN_APP = 25
# What this machine needs to reach package registries.
OF_THE_NETWORK = (
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
)
UP_SECONDS = 120
INSTALL_SECONDS = 400
UNREACHABLE = re.compile(r"No matching distribution|ConnectionError|ENOTFOUND|ECONNREFUSED|EAI_AGAIN")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Clone:
    """A fresh clone in which `make run` is running, on free ports."""

    folder: Path
    environment: dict[str, str]
    aircall: str


@pytest.fixture(scope="module")
async def clone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clone]:
    tmp_path = tmp_path_factory.mktemp("path")
    folder, home, programs = (tmp_path / name for name in ("my clone", "home", "programs"))
    shutil.copytree(ROOT / "clients", folder / "clients", ignore=shutil.ignore_patterns("node_modules", "dist"))
    home.mkdir()
    programs.mkdir()
    ports = [free_port() for _ in range(4)]
    options = zip(("port", "aircall-port", "receiver-port", "console-port"), ports, strict=True)
    told = " ".join(f"--{name}={port}" for name, port in options)
    make = programs / "make"
    make.write_text(f'#!/bin/sh\n[ "$*" = run ] && exec {sys.executable} -m aircall_oauth dev {told}\n')
    make.chmod(0o755)
    path = f"{programs}:{Path(tool('node')).parent}:{os.environ['PATH']}" if shutil.which("node") else programs
    environment = {"PATH": str(path), "HOME": str(home), "PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"}
    environment |= {name: os.environ[name] for name in OF_THE_NETWORK if name in os.environ}
    # What was downloaded before need not be again.
    caches = {"PIP_CACHE_DIR": Path.home() / ".cache" / "pip", "npm_config_cache": Path.home() / ".npm"}
    caches["npm_config_userconfig"] = Path.home() / ".npmrc"
    environment |= {name: str(cache) for name, cache in caches.items()} | {"PIP_NO_COMPILE": "1"}
    environment |= {f"npm_config_{name}": "false" for name in ("audit", "fund", "progress", "update_notifier")}
    async with shell(folder, environment) as terminal:
        await terminal.read(FIRST_EVENT[:1])
        await says(terminal, "Ctrl-C stops everything.")
        yield Clone(folder, environment, f"http://localhost:{ports[1]}")


async def says(terminal: Shell, wanted: str) -> str:
    async def said() -> bool:
        return wanted in await terminal.log()

    await eventually(said, UP_SECONDS)
    return await terminal.log()


async def eventually(it: Callable[[], Awaitable[bool]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await it():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def place_call(clone: Clone, company: int) -> int:
    """What the button of the pretend Aircall's page does."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as browser:
        order = {"company": company, "pause": 0.05}
        placed = await browser.post(f"{clone.aircall}/control/place-call", json=order)
    call: int = placed.raise_for_status().json()["call_id"]
    return call


async def connect(clone: Clone, app: str) -> int:
    """Go from the app's page to consent and home again; returns the company."""
    async with httpx.AsyncClient(trust_env=False, timeout=30, follow_redirects=True) as browser:
        companies = (await browser.get(f"{clone.aircall}/control/state")).json()["companies"]
        consent = await browser.get(f"{app}/aircall/connect")
        action = re.search(r'<form[^>]+action="([^"]+)"', consent.text)
        assert action, consent.text
        form = {"decision": "authorize", "company": str(companies[0]["id"])}
        home = await browser.post(urljoin(str(consent.url), action[1].replace("&amp;", "&")), data=form)
    assert "Northwind Demo Ltd is connected to Aircall." in home.text
    assert str(home.url) == f"{app}/aircall/connected", "the claim is out of the address bar"
    company: int = companies[0]["id"]
    return company


async def test_the_first_event_is_read_as_the_page_says(clone: Clone) -> None:
    async with shell(clone.folder, clone.environment) as terminal:
        *looking, asking, shown = FIRST_EVENT[1:]
        await terminal.read(looking)
        call = await place_call(clone, 70077)

        async def came() -> bool:
            await terminal.read([asking])
            return str(call) in terminal.said

        await eventually(came, UP_SECONDS)
        await terminal.read([shown])


@pytest.mark.parametrize("language", ["Python", "TypeScript"])
async def test_the_app_of_the_page_connects_takes_each_event_once_and_asks_aircall(clone: Clone, language: str) -> None:
    setting_up, app, running = (block for block in APP if block.heading == language)
    if language == "TypeScript":
        tool("npm")
    assert len(app.text.splitlines()) <= LINES_OF_AN_APP
    port = free_port()
    url = f"http://localhost:{port}"
    async with shell(clone.folder, clone.environment, {"3000": str(port), "3001": str(port)}) as terminal:
        await installed(terminal.read([setting_up], seconds=INSTALL_SECONDS))
        await terminal.read([app, running])
        await says(terminal, f":{port}")

        company = await connect(clone, url)
        call = await place_call(clone, company)
        line = f"acme: call {call} took 120 seconds"
        await says(terminal, line)

        (secret,) = json.loads(await terminal.ask("cat secret.json")).values()
        event = json.loads((DOCS.parent / "clients" / "vectors.json").read_text())["signatures"][0]["body"]
        statuses = [await deliver(url, key, event, call, clone) for key in (secret, secret, signatures_of_another())]
        assert statuses == [204, 204, 401]
        assert (await says(terminal, "was refused")).count(line) == 2, "the call's own event, and ours once"
        assert "claim=" not in await terminal.log()

        await terminal.read([block for block in APP if block.heading == "When you are done"])
        left = json.loads(await terminal.ask("aircall-oauth subscriptions list --json"))
        assert [one["name"] for one in left] == ["sample receiver"]


def signatures_of_another() -> str:
    return signatures.new_secret().get_secret_value()


async def deliver(url: str, secret: str, event: str, call: int, clone: Clone) -> int:
    """Send an event about this call as the service does."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as sender:
        key = re.search(r"API_KEY=(\S+)", (clone.folder / ".dev" / "env").read_text())
        service = re.search(r"SERVICE=(\S+)", (clone.folder / ".dev" / "env").read_text())
        assert key
        assert service
        asked = await sender.get(f"{service[1]}/v1/installations", headers={"authorization": f"Bearer {key[1]}"})
        (installation,) = asked.json()["items"]
        told = json.loads(event) | {"installation_id": installation["id"], "owner": "acme", "data": {"id": call}}
        body = json.dumps(told).encode()
        signed = signatures.headers(
            [signatures.key_of(SecretStr(secret))], event_id=told["id"], timestamp=int(time.time()), body=body
        )
        answer = await sender.post(f"{url}/aircall/events", content=body, headers=signed)
    return answer.status_code


async def installed(reading: Awaitable[None]) -> None:
    try:
        await reading
    except AssertionError as error:
        if UNREACHABLE.search(str(error)):
            miss("packages cannot be installed here")
        raise


def test_every_block_of_the_path_is_done() -> None:
    assert [block.note for block in FIRST_EVENT] == ["stays up", "", "shows", "", "shows"]
    assert [block.heading for block in APP] == ["Python"] * 3 + ["TypeScript"] * 3 + ["When you are done"]
