"""Every block of `docs/when-somebody-asks.md` is run against a running service, and answers its question."""

import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aircall_oauth.deliveries import telling
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.deliveries.replays.runner import replaying
from aircall_oauth.storage.models.installations import RHYTHM_HOURS
from tests.support.forked import WebProcess
from tests.support.quick_commands import quick_commands
from tests.support.receivers import LOOPBACK, answer_with, receiver, subscribe
from tests.support.service import Service, command_environment, run_service, settings_for
from tests.support.tools import miss

PAGE = Path(__file__).parents[2] / "docs" / "when-somebody-asks.md"
HOME = "https://app.example.com/aircall"
SETTINGS = {"ALLOWED_PRIVATE_RANGES": LOOPBACK, "RETURN_URLS": HOME}
CALL = 2481173905


def blocks() -> dict[str, str]:
    """The commands under each heading; those before the first are named ``."""
    told: dict[str, str] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE):
        heading = part.splitlines()[0] if told else ""
        told[heading] = "\n".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL))
    return told


@dataclass
class Desk:
    """A shell where an operator sits, and what has happened before the questions come."""

    environment: dict[str, str]

    async def run(self, script: str) -> str:
        """Run a block; a command that fails ends it."""
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", f"{blocks()['']}\n{script}"),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(100):
            output, _ = await shell.communicate()
        assert shell.returncode == 0, output.decode()
        assert '"urn:aircall-oauth:problem' not in output.decode(), "a request was refused"
        return output.decode()


async def happen(service: Service, good: str, bad: str) -> dict[str, str]:
    """A day's story: the names that the page uses, and what they stand for."""
    partner = await service.partner()
    broken_link = (await partner.post("/v1/install-links", json={"owner": "acme"})).json()
    browser = service.new_browser()
    departure = await browser.get(broken_link["url"])
    state = re.search(r"state=([^&]+)", departure.headers["location"])
    assert state
    await service.return_with(browser, state=state[1], error="access_denied")
    await service.begin()
    claimed = await service.claim(await service.install_by_link("acme"), "acme")
    installation = claimed.json()["id"]
    await service.install_by_link("globex", 70078)
    subscription = await subscribe(service, good, name="crm", types=["call.*"])
    broken = await subscribe(service, bad, name="erp", types=["call.*"])
    await partner.patch(f"/v1/subscriptions/{subscription.id}", json={"name": "crm-2"})
    for number in (CALL, CALL + 1):
        event = {"event": "call.ended", "resource": "call", "token": service.webhook_token(), "data": {"id": number}}
        assert (await service.post_event(json.dumps(event).encode())).status_code == 200
    await subscription.stands(lag=0, parked=0)
    await broken.stands(health="down")
    await telling.tell_of_destinations(service.resources)
    await partner.get(f"/v1/installations/{installation}/token")
    await partner.get(f"/v1/installations/{installation}/aircall/ping")
    silent = f"""
        INSERT INTO rhythm (installation_id, hour, spoke, silent_at) VALUES ($1, 0, 0::bit({RHYTHM_HOURS}), now())
        ON CONFLICT (installation_id) DO UPDATE SET silent_at = now()
    """
    await service.sql(silent, installation)
    (found,) = (await partner.get("/v1/events", params={"call_id": CALL, "order": "desc"})).json()["events"]
    return {
        "API_KEY": partner.headers["authorization"].removeprefix("Bearer "),
        "REFERENCE": broken_link["reference"],
        "INSTALLATION": installation,
        "SUBSCRIPTION": subscription.id,
        "BROKEN": broken.id,
        "EVENT": found["id"],
        "CALL": str(CALL),
        "AFTERNOON": f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "EVENING": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
    }


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        miss("curl and bash are not installed")
    environment = command_environment(database_url, **SETTINGS)
    process = WebProcess(environment, tmp_path)
    async with (
        run_service(settings_for(database_url, **SETTINGS)) as service,
        receiver() as good,
        receiver() as bad,
        reading(service.resources),
        replaying(service.resources),
        quick_commands(tmp_path) as programs,
    ):
        bad.answer = answer_with(503)
        names = await happen(service, good.url, bad.url)
        await process.start()
        path = f"{programs}:{Path(sys.executable).parent}:{environment['PATH']}"
        try:
            yield Desk({**environment, **names, "SERVICE": process.url, "PATH": path})
        finally:
            await process.close()


# What the answer to each question must have in it; `$NAME` is what the story made.
ANSWERS = {
    "A customer clicked install and nothing happened": ("$REFERENCE", "declined", '"ending": "declined"'),
    "Nobody can install any more; is the install endpoint under attack?": ("hour ",),
    "Which customers are connected, which are not, and which are silent?": (
        "$INSTALLATION",
        "unclaimed",
        "silent_since",
    ),
    "What became of event X?": (
        "$EVENT",
        "$SUBSCRIPTION",
        '"status":"delivered"',
        '"outcome":"http_503"|"status":"waiting"',
    ),
    "Find a call by its id": ("$EVENT", '"type":"call.ended"'),
    "What came in yesterday afternoon for one customer?": ("$EVENT", "call.ended"),
    "Replay yesterday afternoon for one customer": (
        "2 events of 1 customers",
        "done, 2 delivered, 0 failed",
        '"events":2',
    ),
    "Send one event again": ("",),
    "Why does destination Z get nothing?": (
        "$BROKEN",
        "http_503",
        "health +down",
        '"outcome":"http_503"',
        "destination: $BROKEN is down",
    ),
    "When was it down?": ("subscription.down", "$BROKEN"),
    "Who read a token?": ("token.read", "$INSTALLATION", '"action":"token.read"'),
    "Who changed this destination, and from what to what?": ("subscription.changed", '"from": "crm"', '"to": "crm-2"'),
    "What did our own systems do at Aircall on behalf of a customer?": ("aircall.read", "acme"),
}


def test_every_question_of_the_page_has_an_answer_that_is_looked_for() -> None:
    assert list(blocks())[1:] == list(ANSWERS)
    assert all(script.strip() for script in blocks().values())


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_block_answers_its_question(desk: Desk) -> None:
    missing = []
    for question, wanted in ANSWERS.items():
        output = await desk.run(blocks()[question])
        for one in wanted:
            pattern = re.sub(r"\$([A-Z]+)", lambda name: desk.environment[name[1]], one)
            if not re.search(pattern, output):
                missing.append(f"{question}: no {pattern} in\n{output}")
    assert missing == [], "\n".join(missing)
