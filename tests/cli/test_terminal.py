"""The command line's output: ids are never cut, foreign text is escaped, and a key that was not seen is revoked."""

import asyncio
import json
import os
import pty
import struct
import sys
import termios
from contextlib import suppress
from fcntl import ioctl

import pytest

from tests.support.service import Ended, Service, command_environment, run_command
from tests.support.spawning import spawn

NAMES = [
    "ACME [/] Ltd",
    "[eu] Acme",
    "[bold]Acme",
    "\x1b]0;owned\x07\x1b[2Jgone",
    "a\u009b31mred",
    "\u202egpj.exe",
    "会社",
]
CONTROL = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x202E)]
CREATE = ("keys", "create", "--name", "unseen", "--scopes", "events:read")


def environment_of(service: Service, **changes: str) -> dict[str, str]:
    return {**command_environment(service.settings.database_url.get_secret_value()), **changes}


async def on_a_terminal(*arguments: str, environment: dict[str, str], columns: int = 80) -> str:
    """What the command prints on a terminal so wide."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = await spawn("aircall_oauth", *arguments, environment=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = await asyncio.to_thread(_read_to_the_end, ours)
    assert await process.wait() == 0, shown
    return shown


def _read_to_the_end(descriptor: int) -> str:
    said = b""
    # Reading from a terminal is an error once no process writes to it any more.
    with suppress(OSError):
        while piece := os.read(descriptor, 65536):
            said += piece
    os.close(descriptor)
    return said.decode().replace("\r\n", "\n")


async def run_in_shell(line: str, *arguments: str, environment: dict[str, str]) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", line, sys.executable, "-m", "aircall_oauth", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())


@pytest.fixture
async def companies(service: Service) -> list[str]:
    """One installation whose company's name changes below, and keys with odd names; what is never cut."""
    await service.installed()
    for number, name in enumerate(NAMES):
        await service.sql(
            "INSERT INTO api_key (id, name, fingerprint, scopes, created_at) "
            "VALUES ($1, $2, $3, '{events:read}', now())",
            f"key_{number:032}",
            name,
            number.to_bytes(32, "big"),
        )
    return [row["id"] for row in await service.sql("SELECT id FROM installation UNION ALL SELECT id FROM api_key")]


LATIN_1 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "iso-8859-1"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:4])
async def test_a_companys_name_is_shown_as_text_beside_its_id(service: Service, name: str) -> None:
    await service.installed()
    await service.sql("UPDATE installation SET company_name = $1", name)
    (row,) = await service.sql("SELECT id, company_id FROM installation")

    shown = await run_command("installations", "list", environment=environment_of(service))

    assert shown.exit_code == 0, shown.stderr
    escaped = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    assert f"{escaped} ({row['company_id']})" in shown.stdout
    assert row["id"] in shown.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("companies")
@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        (("installations", "list"), LATIN_1),
        (("installations", "list", "--json"), ASCII),
        (("installations", "list", "--json"), {}),
        (("keys", "list"), ASCII),
        (("doctor",), LATIN_1),
    ],
)
async def test_no_name_reaches_a_terminal_raw_or_ends_a_command(
    service: Service, command: tuple[str, ...], encoding: dict[str, str]
) -> None:
    await service.sql("UPDATE installation SET company_name = $1", "".join(NAMES))

    shown = await run_command(*command, environment=environment_of(service, **encoding))

    assert "Traceback" not in shown.stderr
    assert not set(CONTROL) & set(shown.stdout + shown.stderr)
    if "--json" in command:
        assert json.loads(shown.stdout)[0]["company_name"] == "".join(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 500])
async def test_an_id_is_never_cut(service: Service, companies: list[str], columns: int) -> None:
    environment = environment_of(service)

    shown = [
        await on_a_terminal(*command, environment=environment, columns=columns)
        for command in (("installations", "list"), ("keys", "list"))
    ]

    assert [id_ for id_ in companies if not any(id_ in text for text in shown)] == []


@pytest.mark.slow
async def test_no_id_is_cut_beside_plain_names(service: Service, companies: list[str]) -> None:
    await service.sql("UPDATE api_key SET name = 'crm ' || right(id, 1)")
    environment = environment_of(service)

    shown = [
        await on_a_terminal(*command, environment=environment, columns=80)
        for command in (("installations", "list"), ("keys", "list"))
    ]

    assert [id_ for id_ in companies if not any(id_ in text for text in shown)] == []


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ['"$0" "$@" >/dev/full', '"$0" "$@" >&-', '"$0" "$@" | sleep 0'])
async def test_a_key_that_could_not_be_printed_is_revoked(service: Service, redirected: str) -> None:
    ended = await run_in_shell(redirected, *CREATE, environment=environment_of(service))

    rows = await service.sql("SELECT revoked_at FROM api_key WHERE name = 'unseen'")
    assert [row for row in rows if row["revoked_at"] is None] == []
    assert "revoked" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "redirected"),
    [
        (("secrets", "new-key"), '"$0" "$@" >/dev/full'),
        (("keys", "list"), '"$0" "$@" >&-'),
        (("installations", "list", "--json"), '"$0" "$@" 2>&- >/dev/full'),
    ],
)
async def test_output_that_cannot_be_written_is_a_failure_in_one_line(
    service: Service, command: tuple[str, ...], redirected: str
) -> None:
    ended = await run_in_shell(redirected, *command, environment=environment_of(service))

    assert ended.exit_code == 1
    assert "Traceback" not in ended.stderr
    if "2>&-" not in redirected:
        assert ended.stderr.splitlines()[-1] == "aircall-oauth: The output could not be written."


@pytest.mark.slow
async def test_a_command_works_without_a_stderr(service: Service) -> None:
    ended = await run_in_shell('"$0" "$@" 2>&-', *CREATE, environment=environment_of(service))

    assert ended.exit_code == 0
    assert len(ended.stdout.splitlines()) == 1
