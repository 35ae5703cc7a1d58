"""Data keys: a customer's is erased with it, a rotation seals them anew, and no event is lost meanwhile."""

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.operations import doctor, rotation
from aircall_oauth.privacy import erasing
from aircall_oauth.storage import data_keys
from aircall_oauth.storage.sealed import DATA_KEY_COLUMN
from aircall_oauth.storage.vault import SealedAt
from tests.operations.test_rotation import BOTH, NEW, silently
from tests.privacy.test_encrypted_events import (
    HELD,
    NAME,
    NUMBER,
    damage_key,
    event,
    events_of,
    is_in,
    page_of,
    tell,
)
from tests.privacy.test_encrypted_events import service as service  # noqa: PLC0414 - one that encrypts
from tests.privacy.test_erasures import carry_out, dump, erase
from tests.support.service import SECRET_KEY, Service, run_service, settings_for

KEYS = "SELECT id, installation_id, owner, key_sealed, erased_at FROM data_key ORDER BY id"


@pytest.fixture(autouse=True)
def _soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "SETTLED_AFTER", timedelta(0))


async def erase_customer(service: Service, installation_id: str, owner: str | None = None) -> dict[str, Any]:
    """Disconnect a customer and erase its events; the erasure as it is answered."""
    partner = await service.partner(*Scope, owner=owner)
    answer = await partner.delete(f"/v1/installations/{installation_id}", params={"events": "erase"})
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_a_person_is_found_and_erased_in_encrypted_events(service: Service) -> None:
    token = service.webhook_token()
    await tell(service, token, 0, 1)
    other = json.dumps({"id": 9, "n": 9, "raw_digits": "+33 1 99 00 56 78"})
    body = event(token, 9)
    await service.post_event(body[: body.index(b'"data": ') + 8] + other.encode() + b"}")

    done = await erase(service, phone=NUMBER)

    rows = await service.sql(HELD)
    assert (done["status"], done["erased"]) == ("done", 2)
    assert [(row["sealed"] is None, row["data_key"] is None) for row in rows] == [
        (True, True),
        (True, True),
        (False, False),
    ]
    assert [e.get("erased", False) for e in await events_of(service)] == [True, True, False]
    assert (await events_of(service))[2]["data"] == json.loads(other)


async def test_an_erased_customer_cannot_be_read_in_a_copy_of_the_log_either(service: Service) -> None:
    (ours,) = await service.sql("SELECT id FROM installation")
    other = await service.install(service.aircall.companies[1])
    others = service.aircall.webhooks.of(service.aircall.companies[1].id)[0].token
    await tell(service, service.webhook_token(), *range(3))
    await tell(service, others, 3)
    await service.sql("CREATE TABLE backup AS SELECT position, data, sealed, data_key, subject, erased_at FROM event")
    before = {row["installation_id"]: row["key_sealed"] for row in await service.sql(KEYS)}

    await erase_customer(service, ours["id"])
    at_once = await events_of(service)
    await carry_out(service)
    gone = await dump(service)
    await service.sql(
        "UPDATE event e SET (data, sealed, data_key, subject, erased_at) = "
        "(b.data, b.sealed, b.data_key, b.subject, b.erased_at) FROM backup b WHERE b.position = e.position"
    )
    restored = await events_of(service)

    keys = {row["installation_id"]: row for row in await service.sql(KEYS)}
    assert keys[ours["id"]]["key_sealed"] is None
    assert keys[ours["id"]]["erased_at"] is not None
    assert keys[other]["key_sealed"] == before[other]
    assert before[ours["id"]] not in gone
    assert not any(is_in(word, gone) for word in (NAME, NUMBER))
    for log in (at_once, restored):
        assert [(e.get("erased", False), e["data"] is None) for e in log] == [(True, True)] * 3 + [(False, False)]
        assert log[0]["subject"] is None


async def test_what_comes_in_while_a_key_is_erased_is_encrypted_under_the_next_one(service: Service) -> None:
    (ours,) = await service.sql("SELECT id FROM installation")
    token = service.webhook_token()
    await tell(service, token, 0)

    connection = await asyncpg.connect(service.settings.database_url.get_secret_value())
    async with connection.transaction():
        await data_keys.erase(connection, ours["id"], None)
        waiting = asyncio.create_task(tell(service, token, 1))
        await connection.execute("SELECT pg_sleep(0.3)")
        before = (waiting.done(), await connection.fetchval("SELECT count(*) FROM event WHERE type = 'call.ended'"))
    await connection.close()
    service.resources.data_keys.forget([row["id"] for row in await service.sql(KEYS)])
    after = await waiting

    log = await events_of(service)
    first, second = await service.sql(KEYS)
    assert (before, after) == ((False, 1), [200])
    assert (first["key_sealed"], second["key_sealed"] is None) == (None, False)
    assert [e.get("erased", False) for e in log] == [True, False]


async def test_no_event_is_lost_between_a_customers_end_and_its_coming_back(service: Service) -> None:
    (ours,) = await service.sql("SELECT id FROM installation")
    taken: list[int] = []

    async def sender() -> None:
        for n in range(10_000):
            with suppress(ValueError):  # no webhook right now
                taken.extend([n] if await tell(service, service.webhook_token(), n) == [200] else [])

    sending = asyncio.create_task(sender())
    for _ in range(3):
        await asyncio.sleep(0.1)
        erasure = await erase_customer(service, ours["id"])
        await service.install()
    await asyncio.sleep(0.1)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    log = await events_of(service)

    assert len(taken) > 3
    assert len(log) in (len(taken), len(taken) + 1), "one may have been under way"
    for e in log:
        assert e.get("erased", False) == (e["position"] <= erasure["last_position"])


async def test_an_owners_erasure_leaves_what_another_owner_had_before(service: Service) -> None:
    (ours,) = await service.sql("SELECT id FROM installation")
    await service.sql("UPDATE installation SET owner = 'first'")
    await tell(service, service.webhook_token(), 0)
    await service.sql("UPDATE installation SET owner = 'second'")
    await tell(service, service.webhook_token(), 1)

    await erase_customer(service, ours["id"], owner="second")

    log = await events_of(service)
    assert [row["owner"] for row in await service.sql(KEYS) if row["key_sealed"] is not None] == ["first"]
    assert [(e["owner"], e.get("erased", False)) for e in log] == [("first", False), ("second", True)]


async def test_keys_are_sealed_anew_while_events_come_in(service: Service) -> None:
    token, url = service.webhook_token(), service.settings.database_url.get_secret_value()
    knowing = settings_for(url, SECRET_KEYS=f"k1:{SECRET_KEY},{NEW}", ENCRYPT_EVENTS="true")
    newest = settings_for(url, SECRET_KEYS=BOTH, ENCRYPT_EVENTS="true")
    async with run_service(knowing) as older, run_service(newest) as newer:
        sending = asyncio.gather(tell(older, token, *range(20)), tell(newer, token, *range(20, 40)))
        await rotation.rotate(newer.resources, silently)
        answers = await sending
        await rotation.rotate(newer.resources, silently)
        in_use = await rotation.keys_in_use(newer.resources)
    async with run_service(settings_for(url, SECRET_KEYS=NEW, ENCRYPT_EVENTS="true")) as last:
        log = await events_of(last)

    assert [*answers[0], *answers[1]] == [200] * 40
    assert set(in_use) == {"k2"}
    assert sorted(e["data"]["n"] for e in log) == list(range(40))
    (row,) = await service.sql(KEYS)
    assert row["key_sealed"].startswith("v1.k2.")


async def test_a_backup_from_before_a_rotation_opens_with_no_key_that_is_left(service: Service) -> None:
    await tell(service, service.webhook_token(), 0)
    (row,) = await service.sql(KEYS)
    url = service.settings.database_url.get_secret_value()
    async with run_service(settings_for(url, SECRET_KEYS=BOTH)) as newer:
        await rotation.rotate(newer.resources, silently)
    async with run_service(settings_for(url, SECRET_KEYS=NEW)) as last:
        with pytest.raises(Exception, match="k1"):
            last.resources.vault.open(row["key_sealed"], SealedAt(DATA_KEY_COLUMN, row["id"]))
        assert (await page_of(last)).status_code == 200


async def test_the_doctor_names_the_customer_whose_key_does_not_open(service: Service) -> None:
    await tell(service, service.webhook_token(), 0)
    well = await doctor.data_key_findings(service.resources)
    await damage_key(service)

    (finding,) = await doctor.data_key_findings(service.resources)

    (ours,) = await service.sql("SELECT id FROM installation")
    assert well == []
    assert (finding.level, finding.installation_id) == (doctor.Level.PROBLEM, ours["id"])
    assert finding.advice
