"""What a command imports: a few modules for a help text, and nothing that it does not use."""

import json
import subprocess
import sys

import pytest

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
# Not pydantic: Typer reads arguments with it.
SLOW = {
    *("aiohttp", "alembic", "asyncio", "asyncpg", "cryptography", "fastapi", "httpx", "jinja2", "opentelemetry"),
    *("prometheus_client", "pydantic_settings", "sqlalchemy", "sqlmodel", "starlette", "structlog"),
    *("uvicorn", "uvloop"),
}
NOWHERE = "postgresql://user@127.0.0.1:1/nowhere"


def modules_after(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command, and the top-level modules that were loaded when it ended."""
    probe = [sys.executable, "-c", PROBE, *arguments]
    ended = subprocess.run(probe, env=command_environment(NOWHERE), capture_output=True, text=True, check=False)
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


@pytest.mark.slow
def test_a_command_that_reads_the_database_loads_no_web_framework_and_no_migrations() -> None:
    code, modules = modules_after("keys", "list")

    assert code == 1
    assert "asyncpg" in modules
    assert set() == modules & {"alembic", "fastapi", "jinja2", "opentelemetry", "starlette", "uvicorn"}


@pytest.mark.slow
def test_serve_loads_no_page_of_the_console_before_there_is_a_port_for_it() -> None:
    look = "import sys, aircall_oauth.server.processes; sys.exit('aircall_oauth.console.pages' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
