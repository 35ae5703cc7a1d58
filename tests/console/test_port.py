"""The console has a port of its own, apart from the public one; commands open it and end its sessions."""

import json
from pathlib import Path

import httpx
import pytest

from aircall_oauth.sandbox.ports import free_port
from tests.support.processes import world
from tests.support.service import run_command


async def test_serve_has_the_console_on_its_own_port_only(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    async with (
        world(tmp_path, database_url, CONSOLE_PORT=str(port)) as it,
        httpx.AsyncClient(trust_env=False) as browser,
    ):
        process = await it.start_service()
        assert '"event": "console"' in process.said()

        there = await browser.get(f"http://localhost:{port}/sign-in")
        here = await browser.get(f"{it.service_url}/sign-in")
        head = await browser.head(f"http://localhost:{port}/sign-in")
        hooks = await browser.post(f"http://localhost:{port}/aircall/webhook", json={})

    assert there.status_code == 200
    assert "Sign in" in there.text
    assert (head.status_code, head.content, head.headers["content-length"]) == (
        *(200, b""),
        str(len(there.content)),
    )
    assert here.status_code == 404
    assert here.headers["content-type"] == "application/problem+json"
    assert hooks.status_code == 401, "a page that asks to sign in, not the receiver"


async def test_without_its_setting_there_is_no_console(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        process = await it.start_service()
        assert '"event": "console"' not in process.said()
        told = await run_command("console", "open", environment=it.environment)

    assert told.exit_code == 0
    assert "AIRCALL_OAUTH_CONSOLE_PORT" in told.stderr


@pytest.mark.slow
async def test_a_port_in_use_is_one_line_and_no_start(database_url: str, tmp_path: Path) -> None:
    async with world(tmp_path, database_url, CONSOLE_PORT=str(free_port())) as it:
        await it.start_service()
        other = it.environment | {"AIRCALL_OAUTH_METRICS_PORT": "0"}
        ended = await run_command("serve", "--port", str(free_port()), environment=other)

    assert ended.exit_code == 1
    assert ended.stderr.startswith("aircall-oauth: AIRCALL_OAUTH_CONSOLE_PORT: Cannot listen on ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
async def test_sessions_are_opened_listed_and_ended_by_commands(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    async with world(tmp_path, database_url, CONSOLE_PORT=str(port)) as it:
        await it.start_service()
        made = await run_command("console", "open", "--as", "anna b", "--read-only", environment=it.environment)
        link = made.stdout.strip()
        assert link.startswith(f"http://localhost:{port}/sign-in/link/")
        async with httpx.AsyncClient(trust_env=False) as browser:
            answer = await browser.get(link)
            cookie = answer.headers["set-cookie"].partition(";")[0]
            seen = await browser.get(f"http://localhost:{port}/", headers={"cookie": cookie})
            assert seen.status_code == 200
            listed = json.loads((await run_command("console", "sessions", "--json", environment=it.environment)).stdout)
            assert [(each["person"], each["scopes"]) for each in listed] == [
                ("anna b", ["console:read", "payloads:read"])
            ]
            assert "fingerprint" not in listed[0]
            table = await run_command("console", "sessions", environment=it.environment)
            assert listed[0]["id"] in table.stdout

            ended = await run_command("console", "revoke", "anna b", environment=it.environment)
            assert (ended.exit_code, ended.stderr) == (0, "Ended: 1.\n")
            again = await browser.get(f"http://localhost:{port}/", headers={"cookie": cookie})
            assert again.status_code == 303
        for wrong in (["revoke"], ["revoke", "x", "--all"], ["open", "--as", "a\nb"], ["open", "--as", ""]):
            assert (await run_command("console", *wrong, environment=it.environment)).exit_code == 2, wrong
        assert (await run_command("console", "revoke", "nobody", environment=it.environment)).exit_code == 1
        assert (await run_command("console", "revoke", "--all", environment=it.environment)).exit_code == 0
