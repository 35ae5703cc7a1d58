"""The log at the command line."""

import asyncio
import json

import pytest

from tests.events.test_feed import tell
from tests.support.service import Service, command_environment, run_command, start_command


@pytest.mark.slow
async def test_an_operator_lists_events_newest_first_and_sees_no_payload_unless_asked(service: Service) -> None:
    installation_id = await service.installed()
    await tell(service, "call.created", "call.ended", "user.created")
    environment = command_environment(service.settings.database_url.get_secret_value())

    async def listed(*options: str) -> str:
        ended = await run_command("events", "list", *options, environment=environment)
        assert ended.exit_code == 0, ended.stderr
        return ended.stdout

    plain = await listed("--type", "call.*")
    shown = json.loads(await listed("--json", "--limit", "2"))
    with_data = json.loads(await listed("--json", "--data", "--installation-id", installation_id))
    nothing = await listed("--owner", "acme", "--since", "2020-01-01T00:00Z")
    wrong = await run_command("events", "list", "--since", "yesterday", environment=environment)

    assert [line.split()[5] for line in plain.splitlines()[1:]] == ["call.ended", "call.created"]
    assert installation_id in plain
    assert '"n"' not in plain
    assert [(event["position"], "data" in event) for event in shown] == [(4, False), (3, False)]
    assert [event["data"] for event in with_data[:3]] == [{"n": 2}, {"n": 1}, {"n": 0}]
    assert len(nothing.splitlines()) == 1
    assert (wrong.exit_code, "2026-01-31T08:00Z" in wrong.stderr) == (2, True)


async def test_an_operator_follows_the_log(service: Service) -> None:
    await service.install()
    environment = command_environment(service.settings.database_url.get_secret_value())
    following = await start_command("events", "follow", "--json", "--type", "call.*", environment=environment)
    assert following.stdout is not None
    assert following.stderr is not None

    async with asyncio.timeout(60):
        said = await following.stderr.readline()
        await tell(service, "user.created", "call.ended")
        event = json.loads(await following.stdout.readline())
    following.terminate()
    await following.wait()

    assert b"Following the log" in said
    assert (event["type"], "data" in event) == ("call.ended", False)
