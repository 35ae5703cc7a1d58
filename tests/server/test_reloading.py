"""Secrets that change in their files count without a restart: on SIGHUP, and the database's for each new connection."""

import asyncio
import base64
import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.processes import Process, World, eventually, world
from tests.support.service import CLIENT_SECRET, SECRET_KEY, run_command

NEW_KEY = base64.b64encode(b"n" * 32).decode()


def in_files(it: World, **secrets: str) -> None:
    """Have these settings in files of their own, instead of the environment."""
    for name, value in secrets.items():
        (it.folder / name).write_text(f"{value}\n")
        it.environment.pop(f"AIRCALL_OAUTH_{name}")
        it.environment[f"AIRCALL_OAUTH_{name}_FILE"] = str(it.folder / name)


def lines(process: Process, event: str) -> list[dict[str, Any]]:
    said = [json.loads(line) for line in process.said().splitlines() if line.startswith("{")]
    return [line for line in said if line["event"] == event]


async def reloaded(process: Process, event: str = "settings read again") -> dict[str, Any]:
    """Send SIGHUP; what the process says of it."""
    before = len(lines(process, event))
    process.tell(signal.SIGHUP)

    async def told() -> bool:
        assert process.running, process.said()
        return len(lines(process, event)) > before

    await eventually(told)
    return lines(process, event)[-1]


async def status_of_install(it: World) -> int:
    return (await it.browser.get(await it.consent())).status_code


async def test_a_client_secret_changes_without_a_restart(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        in_files(it, CLIENT_SECRET="of-last-year")
        process = await it.start_service()
        refused = await status_of_install(it)

        (tmp_path / "CLIENT_SECRET").write_text(CLIENT_SECRET)
        told = await reloaded(process)
        installed = await status_of_install(it)

    assert (refused, installed) == (502, 303)
    assert (told["taken"], told["need_a_restart"]) == (["client_secret"], [])
    assert CLIENT_SECRET not in process.said()


async def test_two_client_secrets_count_while_aircall_changes_from_one_to_the_other(
    tmp_path: Path, database_url: str
) -> None:
    async with world(tmp_path, database_url) as it:
        in_files(it, CLIENT_SECRET=f"not-known-to-aircall-yet\n{CLIENT_SECRET}")
        await it.start_service()
        installs = [await status_of_install(it) for _ in range(2)]
        asked = await it.asked("POST", "/v1/oauth/token")
        doctor = await run_command("doctor", "--json", environment=it.environment)

    assert installs == [303, 303]
    assert [401, 200, 200] == [row["status"] for row in asked]
    (app,) = (finding for finding in json.loads(doctor.stdout) if finding["check"] == "app")
    assert app["seen"] == "Aircall knows this app, by client secret 2 of 2"


async def test_a_sealing_key_is_taken_over_only_if_what_is_stored_still_opens(
    tmp_path: Path, database_url: str
) -> None:
    async with world(tmp_path, database_url) as it:
        in_files(it, SECRET_KEYS=f"k1:{SECRET_KEY}")
        process = await it.start_service()
        assert await status_of_install(it) == 303

        (tmp_path / "SECRET_KEYS").write_text(f"k2:{NEW_KEY}")
        refused = await reloaded(process, "settings not taken")
        (tmp_path / "SECRET_KEYS").write_text("k2:non-sense")
        wrong = await reloaded(process, "settings not taken")
        (tmp_path / "SECRET_KEYS").write_text(f"k2:{NEW_KEY},k1:{SECRET_KEY}")
        told = await reloaded(process)
        assert await status_of_install(it) == 303
        sealed = {row["k"] for row in await it.sql("SELECT split_part(token_sealed, '.', 2) AS k FROM installation")}

    assert "'k1'" in refused["problems"][0]
    assert wrong["problems"] == ["AIRCALL_OAUTH_SECRET_KEYS entry 1: is not base64"]
    assert told["taken"] == ["secret_keys"]
    assert "k2" in sealed
    assert NEW_KEY not in process.said()


async def test_a_database_user_is_replaced_without_a_restart_or_a_signal(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        url = urlsplit(database_url)
        for role in ("lease_1", "lease_2"):
            await it.sql(f"CREATE ROLE {role} SUPERUSER LOGIN")
        in_files(it, DATABASE_URL=url._replace(netloc="lease_1@").geturl())
        process = await it.start_service("--with-worker")

        (tmp_path / "DATABASE_URL").write_text("of a secret manager that is not done yet")
        await it.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'lease_1'")
        await it.answering(process, f"{it.service_url}/readyz")
        (tmp_path / "DATABASE_URL").write_text(url._replace(netloc="lease_2@").geturl())
        await it.sql("ALTER ROLE lease_1 NOLOGIN")
        await it.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'lease_1'")
        installed = await eventually(lambda: _installs(it))

    assert installed


async def _installs(it: World) -> bool:
    return await status_of_install(it) == 303


async def test_a_setting_that_needs_a_restart_is_named(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        (tmp_path / "mounted").mkdir()
        it.environment["AIRCALL_OAUTH_SECRETS_DIR"] = str(tmp_path / "mounted")
        process = await it.run("work")
        await eventually(lambda: _said(process, "working"))

        (tmp_path / "mounted" / "AIRCALL_OAUTH_WEBHOOK_NAME").write_text("another")
        told = await reloaded(process)
        process.tell(signal.SIGTERM)
        ended = await process.ended()

    assert (told["taken"], told["need_a_restart"], ended) == ([], ["webhook_name"], 0)


async def _said(process: Process, event: str) -> bool:
    await asyncio.sleep(0)
    return bool(lines(process, event))
