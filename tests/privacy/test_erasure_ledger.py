"""A ledger of erasures: five of fifty people are erased under load, while workers are killed.

`EVENTS=200000 pytest -s tests/privacy/test_erasure_ledger.py --timeout 3600` is the full size.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.deliveries.test_replays import replay
from tests.support.receivers import LOOPBACK, receiver, subscribe
from tests.support.service import Service, command_environment, run_service, settings_for, start_command

EVENTS = int(os.environ.get("EVENTS", "3000"))
LATER = max(EVENTS // 20, 50)  # they come in while the erasures run
PEOPLE, ERASED, KILLS = 50, 5, 4
WAIT_SECONDS = 120 + EVENTS / 100
# A person's number in four spellings, and an address.
SPELLINGS = "ARRAY['+4420794600' || p, '020 7946 00' || p, '00442079460' || '0' || p, '+44 (0)20-7946-00' || p]"
MANY = f"""
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, subject, occurred_at,
                       source, data)
    SELECT nextval('event_position'), now(), 'evt_' || md5('ledger' || n), i.id, 1, 'call.ended', 'call', 'call:' || n,
           now(), 'aircall',
           json_build_object('id', n, 'n', n, 'raw_digits', ({SPELLINGS})[1 + n % 4], 'contact', json_build_object(
               'emails', json_build_array('person' || p || '@example.org'), 'information', repeat('x', 200)))::text
    FROM generate_series($1::int, $1::int + $2::int - 1) AS n
    CROSS JOIN LATERAL (SELECT 10 + n % {PEOPLE} AS p) AS person
    JOIN (SELECT id, row_number() OVER (ORDER BY id) AS number FROM ledger_installation) AS i ON i.number = 1 + n % 10
    ORDER BY n
"""


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        await running.installed()
        yield running


def spellings(person: int) -> list[str]:
    return [
        *(f"+4420794600{person}", f"020 7946 00{person}", f"004420794600{person}", f"+44 (0)20-7946-00{person}"),
        f"person{person}@example.org",
    ]


def told(service: Service, n: int) -> bytes:
    """One more event of the people, as Aircall tells it; the same bytes each time."""
    person = 10 + n % PEOPLE
    data = {"id": n, "n": n, "raw_digits": spellings(person)[n % 4], "by": spellings(person)[4]}
    body = {"resource": "call", "event": "call.ended", "token": service.webhook_token(), "timestamp": 1767261600 + n}
    return json.dumps(body | {"data": data}).encode()


async def log_of(service: Service) -> dict[int, Any]:
    rows = await service.sql("SELECT position, id, type, received_at, data, erased_at FROM event")
    return {row["position"]: row for row in rows}


async def follow(service: Service, seen: list[int], done: asyncio.Event) -> None:
    """Read the log by position, as a partner does, until it is told to stop and has read all."""
    partner, after = await service.partner(), 0
    while True:
        last = done.is_set()
        answer = await partner.get("/v1/events", params={"after": after, "limit": 500})
        if answer.status_code == 503:
            await asyncio.sleep(0.2)
            continue
        page = answer.json()
        seen += [event["position"] for event in page["events"]]
        after = page["next"]
        if last and not page["more"]:
            return
        await asyncio.sleep(0 if page["more"] else 0.1)


async def tell_more(service: Service) -> None:
    for n in range(EVENTS, EVENTS + LATER):
        answer = await service.post_event(told(service, n))
        while answer.status_code == 503:
            # As Aircall does: what is turned away is sent again.
            await asyncio.sleep(0.2)
            answer = await service.post_event(told(service, n))
        assert answer.status_code == 200
        await asyncio.sleep(0.01)


async def killed_workers(service: Service, done: asyncio.Event) -> int:
    """A worker at a time, killed after a moment, `KILLS` times; then one that lives. Returns how many were killed."""
    url = service.settings.database_url.get_secret_value()
    environment = command_environment(url, ALLOWED_PRIVATE_RANGES=LOOPBACK)
    kills = 0
    while True:
        worker = await start_command("work", environment=environment)
        try:
            async with asyncio.timeout(None if kills == KILLS else 4 + random.random() * 2):
                await done.wait()
        except TimeoutError:
            worker.kill()
            await worker.wait()
            await service.sql("UPDATE erasure SET due_at = now() WHERE due_at > now() AND status <> 'settling'")
            kills += 1
        else:
            worker.terminate()
            await worker.wait()
            return kills


async def all_done(service: Service) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if not await service.sql("SELECT 1 FROM erasure WHERE status <> 'done'"):
                return
            await asyncio.sleep(0.5)


async def bytes_of_the_database(service: Service) -> bytes:
    """The files of the database, free pages included, once each table was vacuumed and written anew."""
    tables = await service.sql(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    for table in tables:
        await service.sql(f"VACUUM FULL {table['name']}")
    await service.sql("CHECKPOINT")
    (row,) = await service.sql(
        "SELECT current_setting('data_directory') AS folder, oid::text FROM pg_database "
        "WHERE datname = current_database()"
    )
    folder = Path(row["folder"]) / "base" / row["oid"]
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())


@pytest.mark.slow
async def test_five_of_fifty_people_are_erased_under_load_and_kill_9(service: Service) -> None:
    await service.sql(
        "CREATE TABLE ledger_installation AS SELECT 'ins_' || md5(n::text) AS id FROM generate_series(1, 10) n"
    )
    await service.sql(MANY, 0, EVENTS)
    before = await log_of(service)
    erased_people = [10 + 7 * n for n in range(ERASED)]
    seen: list[int] = []
    done = asyncio.Event()
    async with receiver() as to:
        partner = await subscribe(service, to.url, None, **{"from": "beginning", "types": ["call.*"]})
        window = {"from": 1, "to": max(before), "everything": True, "per_second": 1000}
        assert (await replay(partner, **window)).status_code == 202
        following = asyncio.create_task(follow(service, seen, done))
        workers = asyncio.create_task(killed_workers(service, done))
        client, began = await service.partner(), time.monotonic()
        for person in erased_people:
            assert (await client.post("/v1/erasures", json={"phone": spellings(person)[person % 4]})).status_code == 202
        await tell_more(service)
        for person in erased_people:
            assert (await client.post("/v1/erasures", json={"phone": spellings(person)[0]})).status_code == 202
        await all_done(service)
        seconds = time.monotonic() - began
        await partner.stands(WAIT_SECONDS, lag=0, parked=0)
        done.set()
        kills = await workers
        await following

    after = await log_of(service)
    count = len(after)
    for n in range(EVENTS, EVENTS + LATER):
        assert (await service.post_event(told(service, n))).status_code == 200
    assert kills == KILLS
    assert len(await log_of(service)) == count, "a repeat was stored again"
    stubs = {position for position, row in after.items() if row["erased_at"] is not None}
    of_people = [position for position, row in before.items() if any(s in row["data"] for s in _of(erased_people))]
    assert len([p for p in stubs if p in before]) == len(of_people) == EVENTS // PEOPLE * ERASED
    assert set(before) <= set(after)
    assert [p for p, row in before.items() if p not in stubs and row["data"] != after[p]["data"]] == []
    assert [
        p for p, row in before.items() if (row["id"], row["received_at"]) != (after[p]["id"], after[p]["received_at"])
    ] == []
    assert seen == sorted(after), "the reader skipped or repeated"
    kept = {json.loads(row["data"])["n"] for p, row in after.items() if p not in stubs and row["type"] == "call.ended"}
    assert kept <= set(Counter(to.numbers)), "an event of another one did not arrive"
    text = await bytes_of_the_database(service)
    assert [s for s in _of(erased_people) if s.encode() in text] == []
    others = [s for s in spellings(11) if any(s in row["data"] for row in before.values())]
    assert len(others) == 3, "two of its spellings, and its address"
    assert all(s.encode() in text for s in others), "the search finds what is there"
    print(f"{EVENTS + LATER} events, {2 * ERASED} erasures, {kills} kills: {seconds:.0f} s; {len(stubs)} erased")


def _of(people: list[int]) -> list[str]:
    return [spelling for person in people for spelling in spellings(person)]
