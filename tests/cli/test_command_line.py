"""The command line as an operator meets it: real processes, their exit codes, and one line that says why."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from aircall_oauth.access import keys, known_keys
from aircall_oauth.access.keys import API_KEY_PREFIX
from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.settings import Settings
from aircall_oauth.storage.secret_files import environment_name
from tests.support.service import Service, command_environment, run_command, start_command
from tests.support.spawning import Running

NOWHERE = "postgresql://user:c4n4ry@127.0.0.1:1/nowhere"


def environment_of(service: Service) -> dict[str, str]:
    return command_environment(service.settings.database_url.get_secret_value())


async def events_door(service: Service, key: str) -> int:
    answer = await service.browser.get("/v1/events", headers={"authorization": f"Bearer {key}"})
    return answer.status_code


@pytest.mark.slow
async def test_keys_of_one_name_are_revoked_together_and_counted(service: Service) -> None:
    for name in ("bi", "bi", "crm"):
        await keys.create(service.resources, name=name, scopes=[Scope.EVENTS_READ])

    revoked = await run_command("keys", "revoke", "bi", environment=environment_of(service))

    assert (revoked.exit_code, revoked.stdout, revoked.stderr) == (0, "", "Revoked: 2.\n")
    assert [key.name for key in await known_keys.list_all(service.resources) if key.revoked_at is None] == ["crm"]


@pytest.mark.slow
async def test_a_key_is_made_listed_and_revoked(service: Service) -> None:
    environment = environment_of(service)

    made = await run_command(
        *("keys", "create", "--name", "bi", "--scopes", "tokens:read,events:read,tokens:read"),
        *("--owner", "acme", "--expires", "90d"),
        environment=environment,
    )
    key = made.stdout.splitlines()[-1]
    assert (made.exit_code, made.stderr) == (0, "")
    assert key.startswith(API_KEY_PREFIX)
    assert key.split() == [key]
    assert await events_door(service, key) == 200
    (stored,) = await service.sql("SELECT scopes, owner, expires_at - created_at AS lifetime FROM api_key")
    assert tuple(stored) == (["tokens:read", "events:read"], "acme", timedelta(days=90))

    listing, revoked = await asyncio.gather(
        run_command("keys", "list", environment=environment),
        run_command("keys", "revoke", "bi", environment=environment),
    )
    assert (listing.exit_code, listing.stderr) == (0, "")
    (line,) = listing.stdout.splitlines()[1:]
    assert [word in line for word in ("bi", "acme", "tokens:read events:read")] == [True, True, True]
    assert (revoked.exit_code, revoked.stdout, revoked.stderr) == (0, "", "Revoked: 1.\n")
    assert await events_door(service, key) == 401

    again, listing_after = await asyncio.gather(
        run_command("keys", "revoke", "bi", environment=environment),
        run_command("keys", "list", environment=environment),
    )
    nothing_to_do = "aircall-oauth: There is no active API key with this id or name.\n"
    assert (again.exit_code, again.stderr) == (1, nothing_to_do)
    assert "revoked" in listing_after.stdout
    said_later = "".join(ended.stdout + ended.stderr for ended in (listing, revoked, again, listing_after))
    assert key.removeprefix(API_KEY_PREFIX)[:8] not in said_later


async def test_a_key_is_limited_to_parts_of_aircalls_api(service: Service) -> None:
    environment = environment_of(service)
    rules = ("--aircall", "GET /calls/*", "--aircall", "POST,PUT /contacts/**")

    made = await run_command(
        *("keys", "create", "--name", "narrow", "--scopes", "aircall:call", *rules), environment=environment
    )
    listing = await run_command("keys", "list", environment=environment)

    assert made.exit_code == 0, made.stderr
    (stored,) = await service.sql("SELECT aircall_rules FROM api_key")
    assert stored["aircall_rules"] == ["GET /calls/*", "POST,PUT /contacts/**"]
    assert "GET /calls/*; POST,PUT /contacts/**" in listing.stdout


async def test_wrong_usage_ends_with_2_before_anything_is_done() -> None:
    commands = [
        ("keys", "create", "--name", "x", "--scopes", "events:read,everything"),
        ("keys", "create", "--name", "x", "--scopes", "events:read", "--expires", "tomorrow"),
        ("keys", "create", "--name", "x", "--scopes", "aircall:call", "--aircall", "GET calls"),
        ("keys", "create", "--name", "x", "--scopes", "events:read", "--aircall", "GET /calls"),
        ("no-such-command",),
    ]

    all_ended = await asyncio.gather(*(run_command(*c, environment=command_environment(NOWHERE)) for c in commands))

    assert [(ended.exit_code, ended.stdout) for ended in all_ended] == [(2, "")] * len(commands)
    assert "events:read" in all_ended[0].stderr
    assert "90s" in all_ended[1].stderr
    assert "Traceback" not in "".join(ended.stderr for ended in all_ended)


async def test_missing_and_wrong_settings_are_all_listed() -> None:
    environment = {"PATH": os.environ["PATH"], "AIRCALL_OAUTH_TYPO": "c4n4ry", "AIRCALL_OAUTH_CLAIM": "c4n4ry"}

    ended = await run_command("serve", environment=environment)

    required = [environment_name(name) for name, field in Settings.model_fields.items() if field.is_required()]
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        "aircall-oauth: The settings are not right:",
        *sorted(
            [
                *(f"  - {name} is missing" for name in required),
                "  - AIRCALL_OAUTH_CLAIM must be 'optional' or 'required'",
                "  - AIRCALL_OAUTH_TYPO is not a setting of this service",
            ]
        ),
    ]


async def test_a_database_that_cannot_be_used_is_one_line(empty_database: str) -> None:
    missing = empty_database.replace("/empty?", "/missing?")
    commands = [
        (("migrate",), NOWHERE, "refused"),
        (("migrate",), missing, 'database "missing" does not exist'),
        (("keys", "list"), empty_database, "schema is at nothing"),
    ]

    all_ended = await asyncio.gather(
        *(run_command(*command, environment=command_environment(url)) for command, url, _ in commands)
    )

    for ended, (_, _, why) in zip(all_ended, commands, strict=True):
        assert (ended.exit_code, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert line.startswith("aircall-oauth: The database")
        assert why in line
        assert "c4n4ry" not in line


async def test_serving_on_a_port_in_use_is_one_line(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await run_command("serve", "--port", str(port), environment=command_environment(database_url))

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == f"aircall-oauth: Cannot listen on 127.0.0.1, port {port}: Address already in use.\n"


@asynccontextmanager
async def serving(database_url: str, *options: str) -> AsyncIterator[tuple[Running, str]]:
    port = free_port()
    environment = command_environment(database_url)
    process = await start_command("serve", "--port", str(port), *options, environment=environment)
    try:
        assert process.stderr
        assert b'"serving"' in await process.stderr.readline()
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serving_ends_cleanly_when_told_to(service: Service, number: signal.Signals) -> None:
    url = service.settings.database_url.get_secret_value()
    async with serving(url, "--with-worker") as (process, address):
        async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
            assert (await client.get("/readyz")).json() == {"status": "ok"}

        process.send_signal(number)
        stdout, stderr = await process.communicate()

    assert process.returncode == 0
    assert stdout == b""
    assert b"Traceback" not in stderr
    assert b"Exception" not in stderr


async def test_the_installed_script_is_the_same_command() -> None:
    script = Path(sys.executable).with_name("aircall-oauth")
    process = await asyncio.create_subprocess_exec(
        script, "keys", "--help", env=command_environment(NOWHERE), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()

    assert process.returncode == 0
    assert [word in said.decode() for word in ("create", "list", "revoke")] == [True, True, True]
