"""The TypeScript client: strictly compiled, its own tests, and every operation of the document on the real service."""

import asyncio
import fcntl
import json
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from aircall_oauth_client import verify

from tests.clients.conftest import Reachable, browsed, event_body
from tests.support.receivers import receiver
from tests.support.tools import CI_GROUP, miss, run, tool

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
OLDEST_NODE = 20
SECONDS = 120


def node() -> str:
    found = tool("node")
    version = run(found, "--version").strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        miss(f"node is {version}; {OLDEST_NODE} or newer is in {CI_GROUP}")
    return found


@pytest.fixture(scope="session")
def compiled() -> Path:
    """The folder of the compiled client and its tests; both made anew where something changed."""
    node()
    with (CLIENT / "package.json").open() as held:
        # One of the processes that run tests at once does it, and the others wait.
        fcntl.flock(held, fcntl.LOCK_EX)
        if _changed(CLIENT / "node_modules" / ".installed", [CLIENT / "package-lock.json"]):
            _install()
        sources = [CLIENT / "tsconfig.json", *CLIENT.glob("src/*.ts"), *CLIENT.glob("test/*.ts")]
        if _changed(CLIENT / "dist" / ".compiled", [CLIENT / "node_modules" / ".installed", *sources]):
            run(node(), CLIENT / "node_modules" / "typescript" / "bin" / "tsc", "-p", CLIENT, seconds=SECONDS)
            (CLIENT / "dist" / ".compiled").touch()
    return CLIENT / "dist" / "test"


def _changed(stamp: Path, files: list[Path]) -> bool:
    return not stamp.exists() or any(file.stat().st_mtime > stamp.stat().st_mtime for file in files)


def _install() -> None:
    done = subprocess.run([tool("npm"), "ci"], cwd=CLIENT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        miss(f"npm could not install what compiles the TypeScript client: {done.stderr[-300:]}")
    (CLIENT / "node_modules" / ".installed").touch()


async def _run(script: Path, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        node(),
        str(script),
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, wrong.decode()
    return said.decode()


@pytest.mark.slow
def test_its_own_tests_pass(compiled: Path) -> None:
    said = run(node(), "--test", compiled / "vectors.test.js", compiled / "client.test.js")

    passed, skipped = (re.search(rf"# {word} (\d+)", said) for word in ("pass", "skipped"))
    assert passed is not None
    assert int(passed[1]) > 70
    assert skipped is not None
    assert skipped[1] == "0"


@pytest.mark.slow
async def test_every_operation_of_the_document_is_asked_for(compiled: Path, reachable: Reachable) -> None:
    service = reachable.service
    claim = await service.install_by_link("acme")
    await service.install()
    body = json.dumps(event_body(service, id=9223372036854775807)).encode()
    assert (await service.post_event(body)).status_code == 200

    async with receiver() as crm:
        said = await _run(
            compiled / "walk.js",
            SERVICE_URL=reachable.url,
            API_KEY=reachable.api_key,
            CLAIM=claim,
            HOOK_URL=crm.url,
        )
    await browsed(reachable)

    assert reachable.missing == set(), (
        "ask for these in clients/typescript/test/walk.ts, and in the Python client's test"
    )
    assert (
        verify(crm.received[0].headers, crm.received[0].body, json.loads(said)["secret"])["type"] == "subscription.test"
    )


@pytest.mark.slow
async def test_postgresql_remembers(compiled: Path, empty_database: str) -> None:
    url = urlsplit(empty_database)

    await _run(compiled / "postgres.js", PG_HOST=parse_qs(url.query)["host"][0], PG_DATABASE=url.path.removeprefix("/"))


def test_it_needs_nothing_at_run_time_and_names_no_registry() -> None:
    package = json.loads((CLIENT / "package.json").read_text())
    lock = (CLIENT / "package-lock.json").read_text()

    assert "dependencies" not in package
    assert '"resolved"' not in lock
    for path in (CLIENT / "src").glob("*.ts"):
        for line in path.read_text().splitlines():
            if found := re.search(r'from "([^"]+)"', line):
                assert found[1].startswith(("./", "node:")), (path, line)
