"""Replays and resends at the command line."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from aircall_oauth.deliveries.replays.runner import replaying
from tests.support.receivers import LOOPBACK, answer_with, receiver, subscribe, tell
from tests.support.service import Service, command_environment, run_command, run_service, settings_for


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine, with an installation."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        await running.installed()
        yield running


@pytest.mark.slow
async def test_an_operator_counts_replays_lists_and_resends(service: Service) -> None:
    environment = command_environment(service.settings.database_url.get_secret_value(), ALLOWED_PRIVATE_RANGES=LOOPBACK)
    async with receiver() as to, replaying(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        window = ("--from", "1", "--to", "100", "--type", "call.*")

        listed = await run_command("subscriptions", "list", environment=environment)
        counted = await run_command(
            "subscriptions", "replay", partner.id, *window, "--dry-run", environment=environment
        )
        open_ended = await run_command("subscriptions", "replay", partner.id, "--from", "1", environment=environment)
        async with asyncio.timeout(60):
            done = await run_command("subscriptions", "replay", partner.id, *window, "--yes", environment=environment)
        replays = await run_command("subscriptions", "replays", partner.id, environment=environment)
        replay_id = done.stderr.splitlines()[-1].split(":")[0]
        late = await run_command("subscriptions", "stop-replay", partner.id, replay_id, environment=environment)
        event_id = to.received[0].event_id
        sent = await run_command("events", "resend", event_id, "--to", partner.id, environment=environment)
        to.answer = answer_with(500)
        refused = await run_command("events", "resend", event_id, "--to", partner.id, environment=environment)
        unknown = await run_command("subscriptions", "replays", "sub_" + "0" * 32, environment=environment)

    assert (listed.exit_code, partner.id in listed.stdout) == (0, True)
    assert (counted.exit_code, counted.stderr) == (0, "3 events of 1 customers.\n")
    assert (open_ended.exit_code, "needs an end" in open_ended.stderr) == (2, True)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (0, f"{replay_id}: done, 3 delivered, 0 failed.")
    assert replay_id in replays.stdout
    assert (late.exit_code, late.stderr) == (1, "aircall-oauth: It had ended before: done.\n")
    assert (sent.exit_code, refused.exit_code, "http_500" in refused.stderr) == (0, 1, True)
    assert (unknown.exit_code, unknown.stderr) == (1, "aircall-oauth: There is no such subscription.\n")
    assert len(to.received) == 5
