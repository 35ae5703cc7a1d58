"""Clients that generators make of the document compile strictly, and list, PATCH and ask Aircall on the real service.

`CI=true` installs the generators, which takes a minute; elsewhere these tests run where they are installed.
"""

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import Reachable
from tests.clients.test_typescript_client import node
from tests.support.receivers import subscription_body
from tests.support.tools import miss, run, tool

HERE = Path(__file__).parent / "generated"
DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
SECONDS = 120


def installed(stamp: Path, lock: Path, *commands: list[str | Path]) -> None:
    """Install a generator by its lock, once, where it may be."""
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return
    if os.environ.get("CI") != "true":
        miss("the generators of clients are not installed: CI=true installs them")
    for command in commands:
        done = subprocess.run(
            [str(part) for part in command], cwd=HERE, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    stamp.touch()


@pytest.fixture(scope="module")
def typescript() -> Path:
    """The folder of the compiled users of the clients that were generated in TypeScript."""
    found, modules = node(), HERE / "node_modules"
    with (HERE / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        installed(modules / ".installed", HERE / "package-lock.json", [tool("npm"), "ci"])
        run(found, modules / "openapi-typescript" / "bin" / "cli.js", DOCUMENT, "-o", HERE / "made" / "types.d.ts")
        hey = modules / "@hey-api" / "openapi-ts" / "bin" / "index.cjs"
        run(found, hey, "-i", DOCUMENT, "-o", HERE / "made" / "hey", "-c", "@hey-api/client-fetch", "-s")
        run(found, modules / "typescript" / "bin" / "tsc", "-p", HERE)
    return HERE / "dist"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the user of the client that was generated in Python, checked strictly."""
    folder, venv = tmp_path_factory.mktemp("generated"), HERE / ".venv"
    with (HERE / "requirements.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        lock = HERE / "requirements.lock"
        pip: list[str | Path] = [venv / "bin" / "pip", "install", "-q", "--require-hashes", "-r", lock]
        installed(venv / ".installed", lock, [sys.executable, "-m", "venv", venv], pip)
    generate: list[str | Path] = [
        venv / "bin" / "openapi-python-client",
        "generate",
        "--path",
        DOCUMENT,
        "--meta",
        "none",
    ]
    made = run(*generate, "--output-path", folder / "made", "--config", HERE / "openapi-python-client.yaml")
    assert "Warning" not in made
    (folder / "use_generated.py").write_text((HERE / "use_generated.py").read_text())
    checked = subprocess.run(
        [tool("mypy"), "--strict", "--config-file", os.devnull, "use_generated.py", "made"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    return folder


async def uses(it: Reachable, *command: str | Path, cwd: Path | None = None) -> None:
    """Run the user of a generated client, with a subscription and an installation that it may use."""
    installation = await it.service.installed()
    partner = await it.service.partner()
    made = await partner.post("/v1/subscriptions", json=subscription_body("https://203.0.114.7/", name="crm"))
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "SERVICE_URL": it.url,
            "API_KEY": it.api_key,
            "INSTALLATION": installation,
            "SUBSCRIPTION": made.json()["id"],
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, said.decode()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["hey.js", "fetch.js"])
async def test_a_generated_typescript_client(typescript: Path, reachable: Reachable, script: str) -> None:
    await uses(reachable, node(), typescript / script)


@pytest.mark.slow
async def test_a_generated_python_client(python: Path, reachable: Reachable) -> None:
    await uses(reachable, sys.executable, "use_generated.py", cwd=python)
