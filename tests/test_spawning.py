"""A process that is forked off one that has imported everything is like one that was started by itself."""

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aircall_oauth.sandbox.ports import free_port
from tests.support.service import Ended, command_environment, start_command
from tests.support.spawning import Forked, spawn

NOWHERE = command_environment("postgresql://user@127.0.0.1:1/nowhere")
# Read when an interpreter starts, so one is.
FRESH = {"PYTHONSAFEPATH": ""}


async def ended(*arguments: str, environment: Mapping[str, str], folder: Path | None = None) -> tuple[Ended, int]:
    process = await spawn(*arguments, environment=environment, folder=folder)
    assert isinstance(process, Forked) is (FRESH.keys().isdisjoint(environment))
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode()), process.pid


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["nonsense"], ["keys", "create", "--name", "é"], ["doctor"]], ids=str
)
async def test_a_forked_command_says_what_a_fresh_one_says(arguments: list[str]) -> None:
    forked, _ = await ended("aircall_oauth", *arguments, environment=NOWHERE)
    fresh, _ = await ended("aircall_oauth", *arguments, environment=NOWHERE | FRESH)

    assert forked == fresh


async def test_a_forked_process_has_what_it_was_given_and_draws_its_own_numbers(tmp_path: Path) -> None:
    async def portrait(environment: Mapping[str, str], folder: Path) -> dict[str, Any]:
        told, pid = await ended("tests.support.self_portrait", "é", environment=environment, folder=folder)
        assert (told.exit_code, told.stderr) == (3, "")
        seen: dict[str, Any] = json.loads(told.stdout)
        assert seen.pop("pid") == pid != os.getpid()
        return seen

    fresh = await portrait({"PATH": os.environ["PATH"]} | FRESH, Path.cwd())
    one, other = [await portrait({"PATH": os.environ["PATH"], "A": "b"}, tmp_path) for _ in range(2)]

    assert [one["environment"], one["folder"]] == [{"PATH": os.environ["PATH"], "A": "b"}, str(tmp_path)]
    assert [one[name] for name in ("arguments", "stdin", "streams")] == [["é"], "", fresh["streams"]]
    drawn = [tuple(each["drawn"]) for each in (fresh, one, other)]
    assert [len(set(column)) for column in zip(*drawn, strict=True)] == [3, 3]


# Before `serve` asks for signals itself, and after.
@pytest.mark.parametrize(
    ("number", "codes"),
    [(signal.SIGKILL, {-signal.SIGKILL}), (signal.SIGTERM, {128 + signal.SIGTERM, 0}), (signal.SIGINT, {130, 0})],
)
async def test_a_forked_process_is_ended_by_signals(number: signal.Signals, codes: set[int]) -> None:
    process = await start_command("serve", "--port", str(free_port()), environment=NOWHERE)
    assert process.stderr
    assert await process.stderr.readline()
    process.send_signal(number)

    async with asyncio.timeout(30):
        await process.communicate()
    assert process.returncode in codes
