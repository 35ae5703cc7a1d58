"""The log: one JSON line per request, the path's template instead of the path, and nothing secret."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.telemetry import log
from tests.support.service import Service, command_environment, run_command, start_command

CANARY = "c4n4ry"
# Method, path, status, and what the line says instead of the path.
REQUESTS = [
    ("GET", "/livez", 200, "/livez"),
    ("GET", f"/livez?code={CANARY}&state={CANARY}", 200, "/livez"),
    ("POST", f"/livez?{CANARY}", 405, "/livez"),
    ("GET", f"/{CANARY}", 404, "(no door)"),
    ("GET", f"/v1/{CANARY}?{CANARY}", 404, "(no door)"),
    ("GET", f"/v1/installations/{CANARY}", 401, "/v1/installations/{installation_id}"),
    ("GET", f"/v1/installations/{CANARY}/token", 401, "/v1/installations/{installation_id}/token"),
    ("GET", f"/v1/events?after={CANARY}", 401, "/v1/events"),
    ("GET", f"/aircall/oauth/install?return_to={CANARY}", 400, "/aircall/oauth/install"),
    ("GET", f"/aircall/oauth/callback?code={CANARY}&state={CANARY}", 400, "/aircall/oauth/callback"),
    ("HEAD", f"/aircall/oauth/callback?code={CANARY}&state={CANARY}", 405, "/aircall/oauth/callback"),
    ("POST", f"/aircall/webhook?token={CANARY}", 400, "/aircall/webhook"),
]

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged from here on, at the most talkative level."""
    stream = io.StringIO()
    with monkeypatch.context() as changes:
        changes.setattr(sys, "stderr", stream)
        log.configure("debug", "json")
    yield stream
    log.configure("error", "json")


@pytest.fixture
def lines(stderr: io.StringIO) -> Lines:
    """The lines since the last look."""

    def look() -> list[dict[str, Any]]:
        written = stderr.getvalue()
        stderr.seek(0)
        stderr.truncate()
        return [json.loads(line) for line in written.splitlines()]

    return look


async def requested(lines: Lines, answer: httpx.Response) -> dict[str, Any]:
    await asyncio.sleep(0)  # lines are written at the end of a turn of the event loop
    (line,) = [line for line in lines() if line["event"] == "request"]
    assert (line["level"], line["logger"]) == ("info", "aircall_oauth.edge")
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["method"], line["status"]) == (answer.request.method, answer.status_code)
    assert isinstance(line["ms"], float)
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
    assert CANARY not in json.dumps(line)
    return line


async def test_a_request_is_one_line_with_the_paths_template(service: Service, lines: Lines) -> None:
    for method, path, status, template in REQUESTS:
        answer = await service.browser.request(method, path, headers={"authorization": f"Bearer {CANARY}"})

        assert (path, answer.status_code) == (path, status)
        assert (path, (await requested(lines, answer))["path"]) == (path, template)


async def test_the_callers_request_id_is_kept_where_it_is_a_plain_word(service: Service, lines: Lines) -> None:
    kept = await service.browser.get("/livez", headers={"x-request-id": "abc-123.X_y"})
    assert (await requested(lines, kept))["request_id"] == "abc-123.X_y"

    for bad in ("two words", "x" * 65, "", 'quote"', "new\\nline"):
        made = await service.browser.get("/livez", headers={"x-request-id": bad})
        assert (await requested(lines, made))["request_id"].startswith("req_")


async def test_a_line_of_a_request_carries_its_id(service: Service, lines: Lines) -> None:
    await service.sql("DROP TABLE event")
    partner = await service.partner(Scope.EVENTS_READ)
    lines()

    answer = await partner.get(f"/v1/events?after=0&type={CANARY}")
    await asyncio.sleep(0)  # lines are written at the end of a turn of the event loop

    assert (answer.status_code, answer.json()["code"]) == (500, "app_error")
    failed, line = lines()
    assert failed["event"] == "request failed"
    assert "UndefinedTableError" in failed["exception"]
    assert failed["request_id"] == line["request_id"] == answer.headers["x-request-id"]
    assert (line["path"], line["status"]) == ("/v1/events", 500)
    shown = json.dumps(failed) + answer.text
    assert CANARY not in shown
    assert partner.headers["authorization"].removeprefix("Bearer ") not in shown


async def test_the_next_request_has_nothing_of_the_last_one(service: Service, lines: Lines) -> None:
    first = await service.browser.get("/livez")
    one = await requested(lines, first)
    second = await service.browser.get("/livez")

    assert (await requested(lines, second))["request_id"] != one["request_id"]


@pytest.mark.parametrize("name", [*sorted(log.SECRET_NAMES), "Authorization", "TOKEN"])
def test_a_value_under_a_secrets_name_is_hidden(lines: Lines, name: str) -> None:
    log.get("aircall_oauth.test").info("looked", **{name: CANARY, "harmless": "shown"})

    (line,) = lines()
    assert (line[name], line["harmless"], line["event"]) == ("(hidden)", "shown", "looked")


def test_a_secret_value_is_hidden_under_any_name(lines: Lines) -> None:
    log.get("aircall_oauth.test").warning("looked", whatever=SecretStr(CANARY), nested=[SecretStr(CANARY)])

    (line,) = lines()
    assert line["whatever"] == "(hidden)"
    assert CANARY not in json.dumps(line)


def test_libraries_say_only_warnings_and_in_the_same_form(lines: Lines) -> None:
    logging.getLogger("httpx").info("GET https://api.example.com/?code=%s", CANARY)
    logging.getLogger("sqlalchemy.engine").debug(CANARY)
    logging.getLogger("uvicorn.access").info(CANARY)
    logging.getLogger("anything").warning("watch %s", "out")

    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("watch out", "warning", "anything")


def test_an_exception_is_part_of_its_line(lines: Lines) -> None:
    try:
        raise ValueError("it broke")
    except ValueError:
        log.get("aircall_oauth.test").exception("failed")

    (line,) = lines()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: it broke")


def test_the_console_form_is_text_without_secrets(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    log.configure("warning", "console")

    log.get("aircall_oauth.test").info("too quiet")
    log.get("aircall_oauth.test").warning("looked", code=CANARY, harmless="shown")

    (line,) = stderr.getvalue().splitlines()
    assert "looked" in line
    assert "harmless=shown" in line
    assert CANARY not in line
    assert capsys.readouterr().out == ""


async def test_a_real_process_writes_json_lines_and_no_query(database_url: str) -> None:
    port = free_port()
    environment = command_environment(database_url, LOG_LEVEL="debug")
    process = await start_command("serve", "--port", str(port), environment=environment)
    assert process.stderr
    lines = [json.loads(await process.stderr.readline())]

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        await client.get("/aircall/oauth/callback", params={"code": CANARY, "state": CANARY})
        await client.get(f"/{CANARY}", headers={"authorization": f"Bearer {CANARY}", "cookie": f"x={CANARY}"})
    process.terminate()
    stdout, stderr = await process.communicate()
    lines += map(json.loads, stderr.splitlines())

    assert stdout == b""
    assert [(line["event"], line.get("path")) for line in lines] == [
        ("serving", None),
        ("request", "/aircall/oauth/callback"),
        ("request", "(no door)"),
    ]
    assert CANARY not in json.dumps(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "level", "logged"),
    [
        ("secrets wrap --setting fingerprint-key --by vault:transit/k", "info", set()),
        ("keys list", "info", set()),
        ("doctor --json", "info", set()),
        ("keys list", "debug", {"debug"}),
        ("serve --port 1", "info", {"warning"}),
        ("work", "info", {"warning"}),
    ],
)
async def test_a_retry_is_a_line_of_a_servers_log_and_none_for_who_runs_a_command(
    command: str, level: str, logged: set[str], database_url: str
) -> None:
    away = {"VAULT_ADDR": "http://localhost:1", "VAULT_TOKEN": CANARY, "KEY_SERVICE_TIMEOUT": "1s", "LOG_LEVEL": level}
    wrapped = "k1:vault:transit/k:vault:v1:AAAA"

    ended = await run_command(
        *command.split(), environment=command_environment(database_url, SECRET_KEYS=wrapped, **away)
    )

    *before, last = ended.stderr.splitlines() or [ended.stdout]
    lines = [json.loads(line) for line in before]
    assert ended.exit_code == 1
    assert "Vault at http://localhost:1 can't be reached (ConnectError)" in ended.stdout + last
    assert {(line["level"], line["event"]) for line in lines} == {(each, "trying again") for each in logged}
    assert all(line["reason"].startswith("Vault at http://localhost:1 can't be reached") for line in lines)
    assert CANARY not in ended.stdout + ended.stderr


@pytest.mark.usefixtures("stderr")
def test_control_characters_are_escapes_in_text_form(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("debug", "console")
    try:
        raise ValueError("\x1b[2Jgone")
    except ValueError:
        log.get("aircall_oauth.test").exception("connected", company="\x1b]0;owned\x07", other="a\u009b31mred")

    written = stream.getvalue()
    assert {char for char in written if not char.isprintable()} == {"\n"}
    for escaped in ("\\x1b]0;owned\\x07", "a\\x9b31mred", "ValueError: \\x1b[2Jgone"):
        assert escaped in written
