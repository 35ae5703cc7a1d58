"""`aircall-oauth dev`: run everything on this machine, and go once through an install and a call."""

import asyncio
import base64
import json
import os
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
from pydantic import SecretStr

from aircall_oauth.errors import AppError
from aircall_oauth.sandbox.children import Child, DevError, wait_until
from aircall_oauth.sandbox.ports import LAST_PORT, find_taken, free_port, is_port
from aircall_oauth.sandbox.postgres import Postgres, PostgresError
from aircall_oauth.sandbox.stopping import Stop
from aircall_oauth.sandbox.story import Addresses, Story
from aircall_oauth.settings import ANY_LOCAL, Settings
from aircall_oauth.storage import migrations
from aircall_oauth.storage.secret_files import environment_name
from aircall_oauth.telemetry.text import readable

SERVICE_PORT = 8000
AIRCALL_PORT = 8100
RECEIVER_PORT = 8200
CONSOLE_PORT = 8300
READY_SECONDS = 30.0
FOLDER = Path(".dev")
# What a developer may set for this run; everything else of the service's environment is the sandbox's own.
PASSED_ON = ("AIRCALL_OAUTH_LOG_LEVEL", "AIRCALL_OAUTH_LOG_FORMAT")
# What the sandbox sets itself: another value would break it.
OWN = {
    "client_id",
    "client_secret",
    "secret_keys",
    "fingerprint_key",
    "public_url",
    "database_url",
    "authorize_url",
    "api_url",
}
OURS = "AIRCALL_OAUTH_"
LIBPQS = "PG"
DATABASE_URL = "AIRCALL_OAUTH_DATABASE_URL"
RETURN_URLS = "AIRCALL_OAUTH_RETURN_URLS"
CONSOLE_SETTING = "AIRCALL_OAUTH_CONSOLE_PORT"


@dataclass(frozen=True)
class Ports:
    """The ports that were asked for."""

    service: int
    aircall: int
    receiver: int
    console: int


@dataclass(frozen=True)
class Plan:
    """The folder and the ports of this run."""

    folder: Path
    service_port: int
    aircall_port: int
    receiver_port: int
    console_port: int

    @property
    def service_url(self) -> str:
        return f"http://localhost:{self.service_port}"

    @property
    def aircall_url(self) -> str:
        return f"http://localhost:{self.aircall_port}"

    @property
    def receiver_url(self) -> str:
        return f"http://127.0.0.1:{self.receiver_port}"


def run(
    *,
    demo: bool,
    port: int = SERVICE_PORT,
    aircall_port: int = AIRCALL_PORT,
    receiver_port: int = RECEIVER_PORT,
    console_port: int = CONSOLE_PORT,
    database_url: SecretStr | None = None,
    taken: Sequence[str] = (),
) -> int:
    """Start everything, walk one install and one call through it, and stay up; the exit code.

    The database is one of the sandbox's own, unless `database_url` says so: that one is migrated and written to.
    `taken` are names of settings, with or without their prefix, whose values the environment has for this run.
    """
    started = time.monotonic()
    stop = Stop()
    stop.listen()
    try:
        with ExitStack() as stack:
            settings = _taken(taken)
            ports = Ports(port, aircall_port, receiver_port, _console_port(settings, console_port))
            plan = _plan(stack, ports, demo=demo)
            children, environment = _start(stack, plan, database_url, settings)
            addresses = Addresses(plan.service_url, plan.aircall_url, plan.receiver_url)
            story = Story(addresses, environment, sys.stdout.isatty(), None if demo else plan.folder / "api-key")
            story.tell(seconds=time.monotonic() - started)
            if not demo:
                _write_env(plan.folder, environment, SERVICE=plan.service_url, API_KEY=story.api_key)
                story.show_around(plan.folder)
                _stay(children, stop)
        return 0
    except KeyboardInterrupt as stopped:
        by = "".join(f" by {each}" for each in stopped.args)
        sys.stdout.write(f"\nStopped{by}; nothing is left running.\n")
        return 0
    except (DevError, PostgresError, AppError) as error:
        sys.stderr.write(f"aircall-oauth dev: {error}\n")
        return 1
    except httpx.HTTPError as error:
        sys.stderr.write(f"aircall-oauth dev: no answer on the way ({type(error).__name__})\n")
        return 1


def _plan(stack: ExitStack, ports: Ports, *, demo: bool) -> Plan:
    """Choose folder and ports: a demo takes temporary ones, `make run` keeps its data and its addresses."""
    if demo:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-demo-"))
        return Plan(Path(temporary), free_port(), free_port(), free_port(), free_port())
    taken = find_taken([ports.service, ports.aircall, ports.receiver, ports.console])
    if taken:
        raise DevError(f"{taken.said}\nor\n  {taken.command}")
    folder = FOLDER.resolve()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / ".writable").touch()
    except OSError as error:
        raise DevError(f"cannot write to {folder} ({error.strerror}); run it where you may write") from None
    return Plan(folder, ports.service, ports.aircall, ports.receiver, ports.console)


def _taken(names: Sequence[str]) -> dict[str, str]:
    """Return the settings that were asked for by name; raises `DevError` for one that can't be taken."""
    taken = {}
    for name in names:
        setting = name.upper().removeprefix(OURS).lower()
        if setting not in Settings.model_fields:
            raise DevError(f"{readable(name)} is not a setting; docs/operations.md lists them")
        if setting in OWN:
            raise DevError(f"{readable(name)} is the sandbox's own, and can't be set for it")
        taken[environment_name(setting)] = os.environ.get(name, "")
    return taken


def _console_port(taken: dict[str, str], port: int) -> int:
    """Return the console's port: that of the setting, where it is taken; raises `DevError` for one that is none."""
    text = taken.pop(CONSOLE_SETTING, str(port))
    if not is_port(text):
        raise DevError(f"{CONSOLE_SETTING} must be a port, from 1 to {LAST_PORT}")
    return int(text)


def _start(
    stack: ExitStack, plan: Plan, given: SecretStr | None, taken: Mapping[str, str]
) -> tuple[list[Child], dict[str, str]]:
    for name in taken:
        os.environ.pop(name, None)
    _shut_out_the_environment(own_database=given is None)
    url = _own_postgres(stack, plan.folder) if given is None else _given_database(given)
    environment = {**_environment(plan, url), **taken}
    environment[RETURN_URLS] = ",".join(url for url in (taken.get(RETURN_URLS), ANY_LOCAL) if url)
    sys.stdout.write(f"  Links may return to any {ANY_LOCAL} address\n")
    _write_env(plan.folder, environment)
    children = [
        stack.enter_context(Child(name, arguments, os.environ | environment, plan.folder / f"{name}.log"))
        for name, arguments in _commands(plan, environment).items()
    ]
    # Meanwhile: the service waits for its tables by itself.
    with _step("Tables"):
        asyncio.run(migrations.migrate(url))
    with _step("Pretend Aircall, sample receiver and service"):
        wait_until(lambda: _answers(plan.aircall_url), children, READY_SECONDS)
        wait_until(lambda: _answers(plan.receiver_url), children, READY_SECONDS)
        wait_until(lambda: _answers(f"{plan.service_url}/readyz"), children, READY_SECONDS)
    return children, environment


def _shut_out_the_environment(*, own_database: bool) -> None:
    """Keep what is exported for another service out of this run and its processes, and say so."""
    # Settings are read in any case. libpq's variables are about another server than the sandbox's own.
    ignored = sorted(name for name in os.environ if name.upper().startswith(OURS) and name.upper() not in PASSED_ON)
    for name in [*ignored, *(name for name in os.environ if own_database and name.startswith(LIBPQS))]:
        del os.environ[name]
    if ignored:
        otherwise = "; to use another database: --database-url URL, or make run DATABASE_URL=URL"
        is_missed = own_database and DATABASE_URL in map(str.upper, ignored)
        sys.stdout.write(
            f"  Ignored, though set: {', '.join(map(readable, ignored))}{otherwise if is_missed else ''}\n"
        )


def _write_env(folder: Path, environment: Mapping[str, str], **names: str) -> None:
    """Write what a shell needs to ask the service and to run its command line, from any directory: `. .dev/env`."""
    told = {name: value for name, value in environment.items() if name.startswith(OURS)} | names
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in told.items()]
    lines.append(f'export PATH="$PATH:"{shlex.quote(str(_command_line(folder)))}\n')
    # A shell may read it at any moment: all of it, or what was there before.
    new = folder / "env.new"
    new.touch(mode=0o600)
    new.write_text("".join(lines))
    new.replace(folder / "env")


def _command_line(folder: Path) -> Path:
    """Return a directory with `aircall-oauth` and nothing else, so that a developer's own Python stays in front."""
    directory = folder / "bin"
    directory.mkdir(exist_ok=True)
    command = directory / "aircall-oauth"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m aircall_oauth "$@"\n')
    command.chmod(0o700)
    return directory


def _own_postgres(stack: ExitStack, folder: Path) -> str:
    with _step("PostgreSQL"):
        return stack.enter_context(Postgres.start(folder / "postgres", durable=True)).dsn()


def _given_database(url: SecretStr) -> str:
    text = url.get_secret_value()
    sys.stdout.write(f"  Database: {readable(_place(text))}, as you asked; its tables are brought up to date\n")
    return text


def _place(url: str) -> str:
    """Host and name of the database, without user and password."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    host = parts.netloc.rpartition("@")[2] or query.get("host") or os.environ.get("PGHOST") or "the default host"
    name = parts.path.lstrip("/") or query.get("dbname") or query.get("database") or os.environ.get("PGDATABASE")
    return f"{unquote(host)}/{unquote(name or '')}"


def _environment(plan: Plan, database_url: str) -> dict[str, str]:
    """The service's settings for the sandbox."""
    kept = _kept_secrets(plan.folder / "secrets.json")
    return {
        "AIRCALL_OAUTH_CLIENT_ID": "sandbox-app",
        "AIRCALL_OAUTH_CLIENT_SECRET": kept["client_secret"],
        "AIRCALL_OAUTH_SECRET_KEYS": f"dev:{kept['sealing_key']}",
        "AIRCALL_OAUTH_FINGERPRINT_KEY": kept["fingerprint_key"],
        "AIRCALL_OAUTH_PUBLIC_URL": plan.service_url,
        "AIRCALL_OAUTH_DATABASE_URL": database_url,
        "AIRCALL_OAUTH_AUTHORIZE_URL": f"{plan.aircall_url}/oauth/authorize",
        "AIRCALL_OAUTH_API_URL": f"{plan.aircall_url}/v1",
        "AIRCALL_OAUTH_SUCCESS_URL": f"{plan.aircall_url}/oauth/success",
        "AIRCALL_OAUTH_METRICS_PORT": "0",
        "AIRCALL_OAUTH_CONSOLE_PORT": str(plan.console_port),
        "AIRCALL_OAUTH_DRAIN": "0s",
        "AIRCALL_OAUTH_ALLOWED_PRIVATE_RANGES": "127.0.0.0/8,::1/128",
        "SANDBOX_CLIENT_SECRET": kept["client_secret"],
    }


def _kept_secrets(file: Path) -> Mapping[str, str]:
    """Made once and kept, so that the next start opens what this one sealed."""
    if not file.exists():
        made = {
            "client_secret": secrets.token_urlsafe(24),
            "sealing_key": base64.b64encode(secrets.token_bytes(32)).decode(),
            "fingerprint_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        }
        file.touch(mode=0o600)
        file.write_text(json.dumps(made))
    try:
        kept: dict[str, str] = json.loads(file.read_text())
    except ValueError:
        raise DevError(f"{file} is damaged; delete {file.parent} to start afresh") from None
    return kept


def _commands(plan: Plan, environment: Mapping[str, str]) -> dict[str, list[str]]:
    port, aircall_port = str(plan.service_port), str(plan.aircall_port)
    redirect_uri = f"{plan.service_url}/aircall/oauth/callback"
    app = ["--client-id", environment["AIRCALL_OAUTH_CLIENT_ID"], "--redirect-uri", redirect_uri]
    place = ["--port", aircall_port, "--base-url", plan.aircall_url, "--state", str(plan.folder / "aircall.json")]
    return {
        "aircall": ["aircall_oauth.sandbox.aircall", *app, *place],
        "receiver": ["aircall_oauth.sandbox.receiver", "--port", str(plan.receiver_port)],
        "service": ["aircall_oauth", "serve", "--with-worker", "--port", port],
    }


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _stay(children: list[Child], stop: Stop) -> NoReturn:
    while True:
        stop.look()
        for child in children:
            child.require_running()
        time.sleep(0.5)


@contextmanager
def _step(name: str) -> Iterator[None]:
    """One line of progress, before and after."""
    started = time.monotonic()
    sys.stdout.write(f"  {name} … ")
    sys.stdout.flush()
    try:
        yield
    except BaseException:
        sys.stdout.write("\n")
        raise
    sys.stdout.write(f"ready ({time.monotonic() - started:.1f} s)\n")
