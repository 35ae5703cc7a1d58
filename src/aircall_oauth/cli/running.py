"""Running a command: its settings, its resources, and its errors in one line."""

from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.errors import AppError, DatabaseAway, SettingsInvalid
from aircall_oauth.imports import uncollected

if TYPE_CHECKING:
    from aircall_oauth.settings import Settings

T = TypeVar("T")
Given = TypeVar("Given")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for a program.")]


def run(command: "Callable[[Settings], Coroutine[Any, Any, T]]") -> T:
    """Run a command with the environment's settings; a failure is one line on stderr and exit code 1."""
    from aircall_oauth.settings import Settings

    return _run(Settings.load, command)


def run_some(names: list[str], command: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run a command that needs these settings only: the others may be missing yet."""
    from aircall_oauth.settings import Settings

    return _run(lambda: Settings.load_some([*names, "log_level", "log_format"]), command)


def _run(load: Callable[[], Any], command: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    import asyncio
    import logging

    import uvloop

    from aircall_oauth.telemetry import log, retries

    try:
        settings = load()
        log.configure(settings.log_level, settings.log_format)
        retries.log_at(logging.DEBUG)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(command(settings))
    except SettingsInvalid as error:
        fail(f"{error.detail}{_sandbox_here()}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except Exception as error:
        fail(_in_one_line(error))


def _sandbox_here() -> str:
    """Return how to take the settings of a sandbox that ran in this directory; empty where none did."""
    from pathlib import Path

    return "\nFor the sandbox of this directory, run `. .dev/env` first." if Path(".dev/env").is_file() else ""


def with_resources(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    with uncollected():
        from aircall_oauth.resources import open_resources

    async def command(settings: "Settings") -> T:
        async with open_resources(settings) as resources:
            return await work(resources)

    return run(command)


def _in_one_line(error: Exception) -> str:
    """Explain one of our errors or the database's: what is wrong and what to do. Any other is a bug, and raised."""
    from aircall_oauth.storage.faults import DRIVER_ERRORS, explain, root
    from aircall_oauth.telemetry import log

    cause = error.__cause__ if isinstance(error, DatabaseAway) else error
    if isinstance(error, AppError) and (cause is None or cause is error):
        return error.detail.splitlines()[0]
    if not isinstance(root(error), (DatabaseAway, *DRIVER_ERRORS)):
        raise error
    log.get(__name__).debug("the database's error", exc_info=error)
    fault = explain(cause)
    if isinstance(error, DatabaseAway) and not fault.lasting:
        return f"{error.detail} ({fault.words})"
    return f"The database cannot be used: {fault.words}. {fault.advice}"


async def collect(found: AsyncIterator[T]) -> list[T]:
    return [one async for one in found]


def usage(read: Callable[[Given], T], text: Given, option: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def duration(text: str, option: str) -> timedelta:
    """Read an option's duration, such as `30d`."""
    from aircall_oauth.settings import parse_duration

    return usage(parse_duration, text, option)


def say(line: str) -> None:
    terminal.say(line)


def fail(reason: str) -> NoReturn:
    say(f"aircall-oauth: {reason}")
    raise typer.Exit(1)


def moment(text: str) -> datetime:
    """Parse a point in time, of UTC where it names no zone; raises `ValueError`."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must look like 2026-01-31T08:00Z") from None
    try:
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None
