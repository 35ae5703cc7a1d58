"""`aircall-oauth dev` as a newcomer meets it: which database it uses, and what its story shows."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urljoin

import asyncpg
import httpx
import pytest

from aircall_oauth.sandbox.ports import free_port
from tests.support.service import run_command

ROOT = Path(__file__).parents[2]
CANARY = "c4n4ry"
STORY_SECONDS = 120.0
PORTS = ("port", "aircall-port", "receiver-port", "console-port")


def surroundings(**exported: str) -> dict[str, str]:
    """A developer's shell."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **exported}


def with_password(url: str) -> str:
    return url.replace("postgres@", f"postgres:{CANARY}@", 1)


async def tables(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        return count
    finally:
        await connection.close()


@pytest.mark.slow
async def test_an_exported_database_is_left_alone_and_that_is_said(empty_database: str) -> None:
    exported = with_password(empty_database)
    named = {"AIRCALL_OAUTH_DATABASE_URL": exported, "aircall_oauth_database_url": exported}
    elsewhere = {"PGPORT": "1", "PGTARGETSESSIONATTRS": "standby"}

    ended = await run_command("dev", "--demo", environment=surroundings(**named, **elsewhere))

    assert (ended.exit_code, ended.stderr) == (0, "")
    assert await tables(empty_database) == 0
    for name in named:
        (said,) = [line for line in ended.stdout.splitlines() if name in line]
        assert said.startswith("  Ignored, though set: ")
        assert "--database-url" in said
    assert CANARY not in ended.stdout


@pytest.mark.slow
async def test_what_is_asked_for_is_used(empty_database: str) -> None:
    """A database, named without its password, and a setting, beside any local return address."""
    asked = ("--database-url", with_password(empty_database), "--take", "RETURN_URLS")
    environment = surroundings(RETURN_URLS="https://app.example.com/done")

    ended = await run_command("dev", "--demo", *asked, environment=environment)

    assert (ended.exit_code, ended.stderr) == (0, "")
    assert await tables(empty_database) > 0
    assert re.search(r"^  Database: /.*/aircall-oauth-[0-9a-f]+/empty, as you asked;", ended.stdout, re.MULTILINE)
    assert "Ignored" not in ended.stdout
    assert CANARY not in ended.stdout
    assert "http://localhost:*" in ended.stdout


@pytest.mark.slow
async def test_an_address_that_is_none_is_wrong_usage() -> None:
    for wrong in ("", "mysql://h/d", f"postgresql://u:{CANARY}/x@h/d"):
        ended = await run_command("dev", "--demo", "--database-url", wrong, environment=surroundings())

        assert ended.exit_code == 2
        assert "--database-url" in ended.stderr
        assert CANARY not in ended.stderr + ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["run", "demo"])
def test_make_takes_a_database_from_its_own_command_line_only(verb: str) -> None:
    exported = {**os.environ, "DATABASE_URL": "postgresql://h/exported"}

    def told(*arguments: str, environment: dict[str, str]) -> bool:
        shown = subprocess.run(
            ["make", "-n", verb, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return '--database-url "$DATABASE_URL"' in shown.stdout

    assert told("DATABASE_URL=postgresql://h/d", environment=exported)
    assert not told(environment=exported)


@pytest.mark.slow
def test_make_hands_every_setting_of_its_command_line_on() -> None:
    arguments = ["RETURN_URLS=https://a.example.com", "AIRCALL_OAUTH_APP_NAME=A B", "RETRUN_URLS=x", "PORT=8001"]
    shown = subprocess.run(["make", "-n", "run", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)

    taken = set(re.findall(r"--take (\S+)", shown.stdout))
    assert taken == {"RETURN_URLS", "AIRCALL_OAUTH_APP_NAME", "RETRUN_URLS"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RETRUN_URLS", "CLIENT_SECRET", "AIRCALL_OAUTH_DATABASE_URL", "aircall_oauth_x"])
async def test_what_is_no_setting_or_the_sandboxs_own_is_refused_by_name(name: str) -> None:
    ended = await run_command("dev", "--demo", "--take", name, environment=surroundings(**{name: CANARY}))

    assert ended.exit_code == 1
    assert name in ended.stderr
    assert CANARY not in ended.stderr + ended.stdout


SIGNAL_IN_A_FINALIZER = """
import signal, sys
from pathlib import Path
from aircall_oauth.sandbox import dev, story

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

story.Story.show_around = lambda self, folder: Finalized() and None
ports = dict(zip(("port", "aircall_port", "receiver_port", "console_port"), map(int, sys.argv[1:])))
sys.exit(dev.run(demo=False, **ports))
"""


@pytest.mark.slow
def test_a_stop_signal_that_python_ignored_ends_everything(tmp_path: Path) -> None:
    ports = [str(free_port()) for _ in PORTS]

    ended = subprocess.run(
        [sys.executable, "-c", SIGNAL_IN_A_FINALIZER, *ports],
        cwd=tmp_path,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=STORY_SECONDS,
        check=False,
    )

    assert "Exception ignored" in ended.stderr
    assert ended.returncode == 0
    assert ended.stdout.endswith("Stopped by SIGTERM; nothing is left running.\n")


@pytest.mark.slow
async def test_the_second_run_shows_the_company_that_it_connects(tmp_path: Path) -> None:
    ports = [free_port() for _ in PORTS]
    async with story(tmp_path, ports) as first_told:
        await install_another_company(service=ports[0], aircall=ports[1])
        first_key = (tmp_path / ".dev" / "api-key").read_text()

    async with story(tmp_path, ports) as told_again:
        assert (tmp_path / ".dev" / "api-key").read_text() == first_key, "the key survives a restart"

    shown = r"installation +ins_[0-9a-f]{32} +Northwind Demo Ltd, active"
    assert [len(re.findall(shown, told)) for told in (first_told, told_again)] == [1, 1]


@pytest.mark.slow
async def test_its_env_file_runs_the_command_line_and_a_request_from_another_directory(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "it's here", tmp_path / "else where"
    home.mkdir()
    elsewhere.mkdir()
    async with story(home, [free_port() for _ in PORTS]):
        listed = await shell(home / ".dev" / "env", elsewhere, "aircall-oauth installations list --json")
        asked = await shell(
            home / ".dev" / "env", elsewhere, 'curl -sS -H "Authorization: Bearer $API_KEY" $SERVICE/v1/installations'
        )
        found = await shell(home / ".dev" / "env", elsewhere, "command -v aircall-oauth python || true")
        link = await shell(home / ".dev" / "env", elsewhere, "aircall-oauth console open --as anna")
        async with httpx.AsyncClient(trust_env=False) as browser:
            signed_in = await browser.get(link.strip())
        command = [sys.executable, "-m", "aircall_oauth", "console", "open"]
        without = await asyncio.to_thread(
            lambda: subprocess.run(command, cwd=home, env=surroundings(), capture_output=True, text=True, check=False)
        )

    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/sign-in/kept")
    assert without.returncode == 1
    assert without.stderr.endswith("For the sandbox of this directory, run `. .dev/env` first.\n")
    assert [one["company_name"] for one in json.loads(listed)] == ["Northwind Demo Ltd"]
    assert [one["company_name"] for one in json.loads(asked)["items"]] == ["Northwind Demo Ltd"]
    assert str(home) in found
    assert found.count(str(home)) == 1, "a developer's own Python stays the one that is found"


@contextmanager
def taken_ports(count: int) -> Iterator[list[int]]:
    """Ports at which something listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
            each.listen()
        yield [each.getsockname()[1] for each in sockets]


def make_run(ports: dict[str, int]) -> str:
    """`make run` with these ports, in a form that finds the ports of its line."""
    return "make run " + " ".join(f"{name.upper().replace('-', '_')}=(\\d+)" for name in ports)


@pytest.mark.slow
def test_taken_ports_are_told_at_once_before_anything_is_installed(tmp_path: Path) -> None:
    with taken_ports(2) as (service, receiver):
        ports = {"port": service, "aircall-port": free_port(), "receiver-port": receiver, "console-port": free_port()}
        arguments = [f"{name.upper().replace('-', '_')}={port}" for name, port in ports.items()]
        command = ["make", "run", f"VENV={tmp_path / 'venv'}", *arguments]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode != 0
    assert f"make run: ports that are taken: {service} (the service), {receiver} (the sample receiver)" in ended.stderr
    found = re.search(make_run(ports), ended.stderr)
    assert found, ended.stderr
    free = dict(zip(ports, map(int, found.groups()), strict=True))
    assert [name for name in ports if free[name] != ports[name]] == ["port", "receiver-port"]
    assert not (tmp_path / "venv").exists(), "nothing is installed"


@pytest.mark.slow
@pytest.mark.parametrize("which", PORTS)
async def test_a_port_that_is_taken_is_named_with_a_line_that_has_free_ones(which: str) -> None:
    with taken_ports(1) as (taken,):
        ports = {name: free_port() for name in PORTS} | {which: taken}
        ended = await run_command(
            "dev", *(f"--{name}={port}" for name, port in ports.items()), environment=surroundings()
        )

    assert ended.exit_code == 1
    assert f"aircall-oauth dev: ports that are taken: {taken} (" in ended.stderr
    found = re.search(make_run(ports), ended.stderr)
    assert found, ended.stderr
    free = dict(zip(ports, found.groups(), strict=True))
    assert [name for name in ports if free[name] != str(ports[name])] == [which]
    options = " ".join(f"--{name} {port}" for name, port in free.items())
    assert ended.stderr.endswith(f"  aircall-oauth dev {options}\n")


async def test_one_port_for_two_is_told_before_anything_starts() -> None:
    both, *others = (free_port() for _ in range(3))
    options = [f"--{name}={port}" for name, port in zip(PORTS, (both, both, *others), strict=True)]
    ended = await run_command("dev", *options, environment=surroundings())

    assert ended.exit_code == 1
    assert f"taken: {both} (the pretend Aircall); with free ones:" in ended.stderr


@pytest.mark.slow
def test_make_refuses_a_port_that_is_none_and_names_all_four() -> None:
    wrong = subprocess.run(["make", "run", "PORT=70000"], cwd=ROOT, capture_output=True, text=True, check=False)
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "make run: PORT must be a port, from 1 to 65535\n" in wrong.stderr
    assert all(f"{name.upper().replace('-', '_')}=" in told for name in PORTS)


async def test_the_consoles_port_is_taken_from_its_setting_too() -> None:
    with taken_ports(1) as (taken,):
        setting = {"AIRCALL_OAUTH_CONSOLE_PORT": str(taken)}
        options = [f"--{name}={free_port()}" for name in PORTS]
        ended = await run_command(
            *("dev", *options, "--take", "AIRCALL_OAUTH_CONSOLE_PORT"), environment=surroundings(**setting)
        )
        wrong = await run_command(
            *("dev", *options, "--take", "CONSOLE_PORT"), environment=surroundings(CONSOLE_PORT="many")
        )

    assert f"ports that are taken: {taken} (the console);" in ended.stderr
    assert wrong.stderr == "aircall-oauth dev: AIRCALL_OAUTH_CONSOLE_PORT must be a port, from 1 to 65535\n"


async def shell(env_file: Path, directory: Path, command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", f'. "$1"; {command}', "bash", str(env_file)),
        cwd=directory,
        env=surroundings(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    return said.decode()


@asynccontextmanager
async def story(folder: Path, ports: list[int]) -> AsyncIterator[str]:
    """The sandbox with its data in this folder, up; what it said until its story was told."""
    options = [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aircall_oauth", "dev", *options),
        cwd=folder,
        env=surroundings(PYTHONUNBUFFERED="1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout
    said = ""
    try:
        async with asyncio.timeout(STORY_SECONDS):
            while "Ctrl-C stops everything." not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        yield said
    finally:
        process.terminate()
        await process.communicate()


async def install_another_company(*, service: int, aircall: int) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=30.0) as browser:
        companies = (await browser.get(f"http://localhost:{aircall}/control/state")).json()["companies"]
        asked = await browser.get(f"http://localhost:{service}/aircall/oauth/install")
        page = await browser.get(asked.headers["location"])
        action = re.search(r'<form[^>]+action="([^"]+)"', page.text)
        assert action
        form = {"decision": "authorize", "company": str(companies[1]["id"])}
        agreed = await browser.post(urljoin(str(page.url), action[1].replace("&amp;", "&")), data=form)
        ended = await browser.get(agreed.headers["location"])
        assert ended.headers["location"].endswith("/oauth/success")
