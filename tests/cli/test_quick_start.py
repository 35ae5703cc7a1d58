"""What a command imports: a few modules for a help text, and nothing that it does not use."""

import json
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from http.client import HTTPConnection

import pytest

from aircall_oauth.sandbox.ports import free_port
from tests.support.service import command_environment

# Run `aircall-oauth` in this interpreter and prints the modules that it loaded.
PROBE = """
import atexit, json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
told = sys.stdout
atexit.register(lambda: told.write(json.dumps(sorted({name.partition(".")[0] for name in sys.modules}))))
from aircall_oauth.cli.main import main
with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
    main()
"""
SLOW = {
    *("aiohttp", "alembic", "asyncio", "asyncpg", "cryptography", "fastapi", "httpx", "jinja2", "opentelemetry"),
    *("prometheus_client", "pydantic_settings", "sqlalchemy", "sqlmodel", "starlette", "structlog"),
    *("uvicorn", "uvloop"),
}
NOWHERE = "postgresql://user@127.0.0.1:1/nowhere"


def modules_after(*arguments: str, database_url: str = NOWHERE) -> tuple[int, set[str]]:
    """The exit code of a command, and the top-level modules that were loaded when it ended."""
    probe = [sys.executable, "-c", PROBE, *arguments]
    ended = subprocess.run(probe, env=command_environment(database_url), capture_output=True, text=True, check=False)
    return ended.returncode, set(json.loads(ended.stdout))


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["--help"], 0),
        (["keys", "--help"], 0),
        (["keys", "create", "--help"], 0),
        (["nonsense"], 2),
        (["keys", "create", "--name", "bi"], 2),
        (["serve", "--port", "seventy"], 2),
    ],
)
def test_a_help_text_and_a_usage_error_load_none_of_the_large_libraries(arguments: list[str], exit_code: int) -> None:
    code, modules = modules_after(*arguments)

    assert exit_code == code
    assert set() == modules & SLOW


@pytest.mark.parametrize("arguments", [["--help"], ["nonsense"], ["keys", "nope"], ["keys", "list", "--nope"]])
def test_pydantic_is_loaded_only_where_an_argument_has_to_be_read(arguments: list[str]) -> None:
    _, modules = modules_after(*arguments)

    assert "pydantic" not in modules


@pytest.mark.slow
@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_command_that_lists_keys_loads_no_web_framework_no_tables_and_no_migrations(
    exit_code: int, database_url: str
) -> None:
    code, modules = modules_after("keys", "list", database_url=NOWHERE if exit_code else database_url)

    assert exit_code == code
    assert "asyncpg" in modules
    assert set() == modules & {
        *("alembic", "fastapi", "jinja2", "opentelemetry", "sqlalchemy", "sqlmodel", "starlette", "uvicorn"),
    }


# Run `serve`; when it gets SIGUSR1, prints the modules, and how often all objects were searched for garbage.
SERVE = """
import gc, json, os, signal, sys
def tell(*_):
    loaded = [name for name, module in list(sys.modules.items()) if module]
    sys.stdout.write(json.dumps([loaded, gc.get_stats()[2]["collections"]]))
    sys.stdout.flush()
    os._exit(0)
signal.signal(signal.SIGUSR1, tell)
from aircall_oauth.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_process_imports_no_web_framework_no_tables_and_no_client_for_http_before_it_takes_events_in() -> None:
    look = "import json, sys, aircall_oauth.server.processes; print(json.dumps(sorted(sys.modules)))"
    looked = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)

    assert set() == set(json.loads(looked.stdout)) & {
        *("aiohttp", "fastapi", "httpx", "pygments", "rich", "sqlalchemy", "sqlmodel", "starlette", "yarl"),
    }


@pytest.mark.slow
def test_serve_is_loaded_without_what_only_some_requests_need(database_url: str) -> None:
    modules, full_collections = until_loaded(database_url)

    assert set() == modules & {
        *("aircall_oauth.console.pages", "aircall_oauth.server.openapi"),
        *("alembic", "jinja2", "pygments", "rich"),
    }
    assert full_collections == 0


def until_loaded(database_url: str) -> tuple[set[str], int]:
    """The modules that `serve` has loaded when the API answers, and how often all objects were searched for garbage."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, "serve", "--port", str(port)]
    settings = command_environment(database_url)
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE) as server:
        while server.poll() is None and not is_answered(port):
            time.sleep(0.05)
        server.send_signal(signal.SIGUSR1)
        assert server.stdout is not None
        modules, full_collections = json.loads(server.stdout.read())
    return set(modules), full_collections


def is_answered(port: int) -> bool:
    with suppress(OSError), closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/v1/installations")
        return connection.getresponse().status == 401
    return False
