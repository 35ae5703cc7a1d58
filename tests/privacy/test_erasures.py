"""A person is erased from the log, and from what waits beside it; every reader goes on as before."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.privacy import erasing, erasures, searching
from aircall_oauth.storage.stamps import new_id
from tests.deliveries.test_replays import replay
from tests.deliveries.test_replays import service as service  # noqa: PLC0414 - one that may deliver to this machine
from tests.support.receivers import answer_with, receiver, subscribe
from tests.support.service import Service, command_environment, run_command, until

MARA, NOAH = "+44 20 7946 0123", "+33 1 99 00 56 78"
SPELLINGS = ("+442079460123", "020 7946 0123", "00442079460123", "+44 (0)20-7946-0123")


@pytest.fixture(autouse=True)
def _soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "SETTLED_AFTER", timedelta(0))


def event(service: Service, second: int, **data: Any) -> bytes:
    resource = data.pop("resource", "call")
    type_ = {"call": "call.ended", "conversation_intelligence": "summary.created"}.get(resource, f"{resource}.created")
    body = {"resource": resource, "event": type_, "token": service.webhook_token(), "timestamp": 1767261600 + second}
    return json.dumps(body | {"data": data}).encode()


async def call(service: Service, n: int, number: str, **more: Any) -> bytes:
    """A call with a number; the bytes that Aircall may repeat."""
    body = event(service, n, id=n, n=n, raw_digits=number, **more)
    assert (await service.post_event(body)).status_code == 200
    return body


async def carry_out(service: Service) -> None:
    """Let the chore run until nothing is due."""
    async with asyncio.timeout(30):
        while await service.sql("SELECT 1 FROM erasure WHERE due_at <= clock_timestamp()"):
            await erasing.erase(service.resources)


async def erase(service: Service, **asked: Any) -> dict[str, Any]:
    partner = await service.partner()
    answer = await partner.post("/v1/erasures", json=asked)
    assert answer.status_code == 202, answer.text
    await carry_out(service)
    shown: dict[str, Any] = (await partner.get(f"/v1/erasures/{answer.json()['id']}")).json()
    return shown


async def log_of(service: Service) -> list[dict[str, Any]]:
    page = (await (await service.partner()).get("/v1/events", params={"limit": 1000})).json()
    found: list[dict[str, Any]] = page["events"]
    return found


async def dump(service: Service) -> str:
    """Every row of every table, as text."""
    tables = await service.sql(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE relkind IN ('r', 'p') AND NOT relispartition "
        "AND relnamespace = 'public'::regnamespace"
    )
    rows = [await service.sql(f"SELECT t::text AS row FROM {table['name']} t") for table in tables]
    return "\n".join(row["row"] for each in rows for row in each)


async def test_a_person_is_erased_in_every_spelling_and_the_others_stay_byte_for_byte(service: Service) -> None:
    for n, number in enumerate([*SPELLINGS, NOAH]):
        await call(service, n, number)
    before = await log_of(service)

    erasure = await erase(service, phone=MARA)

    after = await log_of(service)
    assert [e["position"] for e in after] == [e["position"] for e in before]
    stubs = [e for e in after if e.get("erased")]
    assert [(e["data"], e["subject"]) for e in stubs] == [(None, None)] * len(SPELLINGS)
    for name in ("id", "type", "received_at", "occurred_at", "installation_id"):
        assert [e[name] for e in after] == [e[name] for e in before]
    assert [e for e in after if not e.get("erased")] == [
        e for e in before if e["data"].get("raw_digits") == NOAH or e["source"] == "service"
    ]
    assert (erasure["status"], erasure["erased"]) == ("done", len(SPELLINGS))
    text = await dump(service)
    assert [spelling for spelling in SPELLINGS if spelling in text] == []
    assert NOAH in text


async def test_the_receipt_lists_positions_and_says_nothing_of_the_person(service: Service) -> None:
    for n in range(5):
        await call(service, n, MARA if n % 2 else NOAH)
    partner = await service.partner()

    erasure = await erase(service, phone=MARA)

    of = f"/v1/erasures/{erasure['id']}/positions"
    first = (await partner.get(of, params={"limit": 1})).json()
    rest = (await partner.get(of, params={"after": first["next"]})).json()
    stubs = [e["position"] for e in await log_of(service) if e.get("erased")]
    assert [*first["positions"], *rest["positions"]] == stubs
    assert rest["next"] is None
    assert [one["id"] for one in (await partner.get("/v1/erasures")).json()["items"]] == [erasure["id"]]
    told = (
        json.dumps(erasure)
        + str(await service.sql("SELECT * FROM audit"))
        + str(await service.sql("SELECT * FROM erasure"))
    )
    assert "7946" not in told
    assert (await service.sql("SELECT pattern_sealed FROM erasure"))[0]["pattern_sealed"] is None
    actions = [(row["actor"], row["action"]) for row in await service.sql("SELECT * FROM audit ORDER BY at")]
    assert [action for _, action in actions][-2:] == ["erasure.asked", "erasure.done"]
    assert actions[-1][0] == "service"


async def test_what_was_erased_does_not_come_back_with_a_repeat(service: Service) -> None:
    body = await call(service, 1, MARA)
    await erase(service, phone=MARA)
    before = await log_of(service)

    assert (await service.post_event(body)).status_code == 200

    assert await log_of(service) == before


async def test_the_rest_of_a_call_is_erased_with_it(service: Service) -> None:
    summary = event(service, 0, resource="conversation_intelligence", id=1, call_id="7", content="She asked for…")
    other = event(service, 0, resource="conversation_intelligence", id=2, call_id="8", content="He asked for…")
    assert (await service.post_event(summary)).status_code == 200
    assert (await service.post_event(other)).status_code == 200
    await call(service, 7, MARA)
    await call(service, 8, NOAH)

    erasure = await erase(service, phone=MARA)

    assert erasure["erased"] == 2
    assert [e["data"]["id"] for e in await log_of(service) if e["data"] and e["source"] == "aircall"] == [2, 8]
    assert await service.sql("SELECT 1 FROM erasure_call") == []


@pytest.mark.parametrize(
    ("asked", "erased"),
    [
        ({"email": "MARA@example.org"}, [1]),
        ({"contact_id": 704410}, [2]),
        ({"user_id": "90211"}, [3]),
        ({"call_id": 4}, [4]),
    ],
)
async def test_a_person_is_found_by_each_kind_of_pattern(service: Service, asked: Any, erased: list[int]) -> None:
    await call(service, 1, NOAH, contact={"emails": [{"value": "mara@example.org"}]})
    await call(service, 2, NOAH, contact={"id": 704410})
    await call(service, 3, NOAH, user={"id": 90211})
    await call(service, 4, NOAH)
    positions = {e["data"]["id"]: e["position"] for e in await log_of(service) if e["source"] == "aircall"}

    await erase(service, **asked)

    assert [e["position"] for e in await log_of(service) if e.get("erased")] == [positions[n] for n in erased]


@pytest.mark.parametrize("phone", ["", "1", "+", "123456", "()", "Mara"])
async def test_a_wrong_pattern_is_refused_and_nothing_is_begun(shared_service: Service, phone: str) -> None:
    answer = await (await shared_service.partner()).post("/v1/erasures", json={"phone": phone})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "Mara" not in answer.text
    assert await shared_service.sql("SELECT 1 FROM erasure") == []


async def test_a_body_must_name_one_person_and_scopes_and_owners_are_kept_to(service: Service) -> None:
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    partner, bound = await service.partner(), await service.partner(owner="acme")
    others = await service.partner(*(scope for scope in Scope if scope != Scope.PRIVACY_ERASE))

    async def status(who: httpx.AsyncClient, **body: Any) -> int:
        return (await who.post("/v1/erasures", json=body)).status_code

    assert await status(partner) == 422
    assert await status(partner, phone=MARA, email="mara@example.org") == 422
    assert await status(partner, phone=MARA, nmae="x") == 422
    assert await status(partner, phone=MARA, installation_id=new_id("ins")) == 404
    assert await status(others, phone=MARA) == 403
    assert await status(bound, phone=MARA, owner="globex") == 403
    assert await status(bound, phone=MARA, installation_id=ours) == 404
    assert await service.sql("SELECT 1 FROM erasure") == []


async def test_a_key_of_an_owner_erases_in_that_owners_events_only(service: Service) -> None:
    await call(service, 1, MARA)
    await service.sql("UPDATE installation SET owner = 'acme'")
    await call(service, 2, MARA)
    bound = await service.partner(owner="acme")

    answer = await bound.post("/v1/erasures", json={"phone": MARA})
    await carry_out(service)

    assert [e["owner"] for e in await log_of(service) if e.get("erased")] == ["acme"]
    assert (await bound.get(f"/v1/erasures/{answer.json()['id']}")).json()["erased"] == 1
    foreign = await service.partner(owner="globex")
    assert (await foreign.get(f"/v1/erasures/{answer.json()['id']}")).status_code == 404
    assert (await foreign.get(f"/v1/erasures/{answer.json()['id']}/positions")).status_code == 404
    assert (await foreign.get("/v1/erasures")).json()["items"] == []


async def test_an_erasure_goes_on_where_a_killed_worker_left_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "BATCH", 2)
    for n in range(8):
        await call(service, n, MARA if n % 2 else NOAH)
    steps = 0
    work = erasing.Job._step

    async def killed(job: erasing.Job) -> bool:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise asyncio.CancelledError
        return await work(job)

    monkeypatch.setattr(erasing.Job, "_step", killed)
    await (await service.partner()).post("/v1/erasures", json={"phone": MARA})
    with pytest.raises(asyncio.CancelledError):
        await erasing.erase(service.resources)
    half = (await service.sql("SELECT position, erased FROM erasure"))[0]
    await erasing.erase(service.resources)
    held = (await service.sql("SELECT position FROM erasure"))[0]

    await service.sql("UPDATE erasure SET due_at = now()")
    await carry_out(service)

    assert half["erased"] == 1
    assert held["position"] == half["position"], "its lease is not over"
    assert (await service.sql("SELECT status, erased FROM erasure"))[0]["erased"] == 4
    assert len([e for e in await log_of(service) if e.get("erased")]) == 4


async def test_a_worker_that_lost_its_lease_writes_nothing(service: Service) -> None:
    await call(service, 1, MARA)
    await (await service.partner()).post("/v1/erasures", json={"phone": MARA})
    async with service.resources.database.driver_connection() as connection:
        row = await connection.fetchrow(erasing.CLAIM, erasing.LEASE)
    await service.sql("UPDATE erasure SET lease_number = lease_number + 1")

    with pytest.raises(erasing.LeaseLost):
        await erasing.Job(service.resources, row).run()

    assert [e for e in await log_of(service) if e.get("erased")] == []


async def test_what_is_parked_goes_and_what_waited_behind_it_arrives(service: Service) -> None:
    async with receiver() as to, reading(service.resources):
        to.answers[1] = answer_with(500)
        partner = await subscribe(service, to.url, order="subject", types=["call.*", "contact.*"])
        for n, number in ((1, MARA), (2, NOAH)):
            body = event(service, n, resource="contact", id=5, n=n, value=number)
            assert (await service.post_event(body)).status_code == 200
        await call(service, 3, NOAH)
        await partner.stands(parked=2)
        assert to.numbers == [3]

        erasure = await erase(service, phone=MARA)

        await until(lambda: to.numbers == [3, 2])
        await partner.stands(parked=0, lag=0)
    assert erasure["parked"] == 1


async def test_a_stub_is_delivered_to_nobody_and_counts_as_settled(service: Service) -> None:
    await call(service, 1, MARA)
    await call(service, 2, NOAH)
    await erase(service, phone=MARA)
    stub = next(e for e in await log_of(service) if e.get("erased"))

    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url, None, **{"from": "beginning", "types": ["call.*"]})
        await until(lambda: to.numbers == [2])
        shown = await partner.client.get(f"/v1/events/{stub['id']}")
        resent = await partner.client.post(f"/v1/events/{stub['id']}/resend", json={"subscription_id": partner.id})
        counted = await replay(partner, **{"from": 1, "to": stub["position"], "dry_run": True, "everything": True})

    assert [json.loads(each.body)["data"]["id"] for each in to.received] == [2]
    assert (shown.json()["erased"], shown.json()["deliveries"]) == (True, [])
    assert (resent.status_code, resent.json()["code"]) == (410, "event_erased")
    assert counted.json()["events"] == 0


async def test_delivered_counts_what_is_out_of_reach(service: Service) -> None:
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url, types=["call.*"])
        await call(service, 1, MARA)
        await until(lambda: to.numbers == [1])
        await partner.stands(lag=0)
    await call(service, 2, MARA)

    erasure = await erase(service, phone=MARA)

    assert (erasure["erased"], erasure["delivered"]) == (2, 1)


@pytest.mark.slow
async def test_an_operator_counts_erases_and_reads_the_receipt(service: Service) -> None:
    await call(service, 1, MARA)
    await call(service, 2, NOAH)
    environment = command_environment(service.settings.database_url.get_secret_value())

    counted = await run_command("erasures", "create", "--phone", MARA, "--dry-run", environment=environment)
    none = await service.sql("SELECT 1 FROM erasure")
    wrong = await run_command("erasures", "create", "--phone", "+", "--yes", environment=environment)
    begun = await run_command("erasures", "create", "--phone", MARA, "--yes", environment=environment)
    await carry_out(service)
    listed = await run_command("erasures", "list", environment=environment)
    erasure_id = begun.stdout.strip()
    shown = await run_command("erasures", "show", erasure_id, environment=environment)
    positions = await run_command("erasures", "show", erasure_id, "--positions", environment=environment)

    assert "1 of 3 events would be erased" in counted.stderr
    assert none == []
    assert (wrong.exit_code, "phone number" in wrong.stderr) == (2, True)
    assert erasure_id in listed.stdout
    assert json.loads(shown.stdout)["erased"] == 1
    assert positions.stdout.split() == [str(e["position"]) for e in await log_of(service) if e.get("erased")]


async def test_a_customer_is_erased_with_its_disconnect_and_what_comes_later_stays(service: Service) -> None:
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    await call(service, 1, MARA)
    partner = await service.partner()
    weak = await service.partner(Scope.INSTALLATIONS_WRITE)

    refused = await weak.delete(f"/v1/installations/{ours}", params={"events": "erase"})
    still = (await partner.get(f"/v1/installations/{ours}")).json()["status"]
    answer = await partner.delete(f"/v1/installations/{ours}", params={"events": "erase"})
    await service.install()
    await carry_out(service)

    log = await log_of(service)
    erasure = (await partner.get(f"/v1/erasures/{answer.json()['id']}")).json()
    assert (refused.status_code, still, answer.status_code) == (403, "active", 202)
    assert [e["type"] for e in log if not e.get("erased")] == ["installation.connected"]
    assert [e["type"] for e in log if e.get("erased")] == [
        "installation.connected",
        "call.ended",
        "installation.removed",
    ]
    assert (erasure["by"], erasure["status"], erasure["erased"]) == ("installation", "done", 3)
    assert (await partner.get(f"/v1/installations/{ours}")).json()["company_name"] is not None, "it came back"


async def test_a_departed_customer_is_erased_after_the_time_that_is_set(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = (await service.sql("SELECT id FROM installation"))[0]["id"]
    await call(service, 1, MARA)
    partner = await service.partner()
    assert (await partner.delete(f"/v1/installations/{ours}")).status_code == 204

    def after(length: timedelta) -> None:
        changed = service.settings.model_copy(update={"erase_after_uninstall": length})
        monkeypatch.setattr(service.resources, "settings", changed)

    async def begun() -> int:
        await erasures.erase_departed(service.resources)
        return len(await service.sql("SELECT 1 FROM erasure"))

    off = await begun()
    after(timedelta(days=30))
    early = await begun()
    after(timedelta(0))
    due, again = await begun(), await begun()
    await carry_out(service)

    assert (off, early, due, again) == (0, 0, 1, 1)
    assert [e["type"] for e in await log_of(service) if not e.get("erased")] == []
    assert (await service.sql("SELECT company_name FROM installation"))[0]["company_name"] is None
    assert MARA not in await dump(service)
