"""All that is held about one customer, as lines of JSON."""

import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.privacy import export
from aircall_oauth.storage.stamps import new_id
from tests.deliveries.test_replays import service as service  # noqa: PLC0414 - one that may deliver to this machine
from tests.events.test_feed import tell
from tests.support.receivers import receiver, subscribe
from tests.support.service import Service, command_environment, run_command


async def exported(partner: httpx.AsyncClient, installation_id: str) -> list[dict[str, Any]]:
    answer = await partner.get(f"/v1/installations/{installation_id}/export")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def of(kind: str, lines: list[dict[str, Any]]) -> list[Any]:
    return [line[kind] for line in lines if line["kind"] == kind]


async def test_an_export_has_the_installation_its_events_their_deliveries_and_the_audit(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 2)
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    theirs = await service.install(service.aircall.companies[1])
    await tell(service, *["call.created", "call.ended"] * 3)
    log = (await (await service.partner()).get("/v1/events", params={"installation_id": ours})).json()["events"]
    async with receiver() as to:
        subscription_id = (await subscribe(service, to.url)).id
    for event in log[:3]:
        await service.sql(
            "INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds) "
            "VALUES ($1, $2, $3, now(), 'http_500', 7)",
            subscription_id,
            event["id"],
            event["position"],
        )
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason) "
        "SELECT $1, position, received_at, id, installation_id, 1, 'http_500' FROM event WHERE installation_id = $2",
        subscription_id,
        ours,
    )

    lines = await exported(await service.partner(Scope.PRIVACY_EXPORT), ours)

    assert lines[0]["kind"] == "export"
    assert lines[-1] == {"kind": "end", "end": {"events": len(log), "attempts": 3}}
    assert of("event", lines) == log
    assert [one["event_id"] for one in of("attempt", lines)] == [event["id"] for event in log[:3]]
    assert [one["position"] for one in of("parked", lines)] == [event["position"] for event in log]
    assert [one["id"] for one in of("installation", lines)] == [ours]
    assert [one["status"] for one in of("webhook", lines)] == ["active"]
    assert "installation.exported" in [one["action"] for one in of("audit", lines)]
    assert theirs not in json.dumps(lines)


async def test_an_export_holds_no_secret_and_no_fingerprint(service: Service) -> None:
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    (row,) = await service.sql("SELECT token_sealed, token_fingerprint FROM installation")

    text = json.dumps(await exported(await service.partner(), ours))

    assert "sealed" not in text
    assert "fingerprint" not in text
    assert row["token_sealed"] not in text
    assert row["token_fingerprint"].hex() not in text


async def test_a_key_of_an_owner_exports_that_owners_part_only(service: Service) -> None:
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    await tell(service, "call.created")
    await service.sql("UPDATE event SET owner = 'before'")
    await service.sql("UPDATE installation SET owner = 'acme'")
    await tell(service, "call.ended")

    lines = await exported(await service.partner(owner="acme"), ours)
    foreign = await (await service.partner(owner="before")).get(f"/v1/installations/{ours}/export")

    assert [event["type"] for event in of("event", lines)] == ["call.ended"]
    assert {line["owner"] for line in of("audit", lines)} == {"acme"}
    assert (foreign.status_code, foreign.json()["code"]) == (404, "installation_not_found")


async def test_an_export_needs_its_scope_and_an_installation_and_is_audited(service: Service) -> None:
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    others = await service.partner(*(scope for scope in Scope if scope != Scope.PRIVACY_EXPORT))

    refused = await others.get(f"/v1/installations/{ours}/export")
    missing = await (await service.partner()).get(f"/v1/installations/{new_id('ins')}/export")

    assert (refused.status_code, missing.status_code) == (403, 404)
    assert await service.sql("SELECT 1 FROM audit WHERE action = 'installation.exported'") == []


@pytest.mark.slow
async def test_an_operator_exports_to_a_new_file_that_only_its_user_reads(service: Service, tmp_path: Path) -> None:
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    await tell(service, "call.created")
    environment = command_environment(service.settings.database_url.get_secret_value())
    to = tmp_path / "held.ndjson"

    done = await run_command("export", ours, "--to", str(to), environment=environment)
    again = await run_command("export", ours, "--to", str(to), environment=environment)
    shown = await run_command("export", ours, environment=environment)

    assert (done.exit_code, again.exit_code, shown.exit_code) == (0, 2, 0), (done.stderr, again.stderr, shown.stderr)
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in to.read_text().splitlines()]
    assert [lines[0]["kind"], lines[-1]["kind"]] == ["export", "end"]
    assert f"{len(lines)} lines" in done.stderr
    assert json.loads(shown.stdout.splitlines()[-1])["kind"] == "end"
