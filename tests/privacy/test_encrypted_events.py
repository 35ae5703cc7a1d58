"""Events encrypted at rest: every reader has them byte for byte, and nothing that is stored tells what they hold."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aircall_oauth.access.callers import OPERATOR
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.deliveries.replays.runner import replaying
from aircall_oauth.events import feed
from aircall_oauth.events.feed import Wanted
from aircall_oauth.events.query import Filter
from aircall_oauth.installations.outages import backfill
from tests.deliveries.test_replays import ended, replay
from tests.installations.test_backfill import ago, gap_since, hours, record
from tests.privacy.test_erasures import dump
from tests.support.consoles import Console
from tests.support.receivers import LOOPBACK, answer_with, receiver, subscribe
from tests.support.service import Service, run_service, settings_for, until

NAME, NUMBER = "Mara Lindqvist", "+44 20 7946 0123"
HELD = "SELECT position, id, data, sealed, data_key FROM event WHERE type = 'call.ended' ORDER BY position"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that encrypts events, and may deliver to this machine; with an installation."""
    async with run_service(
        settings_for(database_url, ENCRYPT_EVENTS="true", ALLOWED_PRIVATE_RANGES=LOOPBACK)
    ) as running:
        await running.installed()
        yield running


@pytest.fixture
async def clear(database_url: str, service: Service) -> AsyncIterator[Service]:
    """Another process over the same database that does not encrypt."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


def text_of(n: int) -> str:
    """What Aircall says of a call, with spaces and escapes of its own."""
    return f'{{ "id": {n},"n": {n},  "raw_digits": "{NUMBER}", "name": "{NAME}", "note":"caf\\u00e9 é", "r": 1.50e2}}'


def event(token: str, n: int) -> bytes:
    head = f'"resource": "call", "event": "call.ended", "token": "{token}", "timestamp": {1767261600 + n}'
    return f'{{{head}, "data": {text_of(n)}}}'.encode()


async def tell(to: Service, token: str, *numbers: int) -> list[int]:
    """Send events one after the other; how each was answered."""
    return [(await to.post_event(event(token, n))).status_code for n in numbers]


def is_in(word: str, dumped: str) -> bool:
    """Whether a dump has a word, as text or as bytes."""
    return word in dumped or word.encode().hex() in dumped


async def page_of(service: Service, **query: Any) -> httpx.Response:
    return await (await service.partner()).get("/v1/events", params={"type": "call.ended", "limit": 1000, **query})


async def events_of(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await page_of(service)).json()["events"]
    return found


async def damage_key(service: Service) -> str:
    """Spoil the customer's data key where it is stored, and have every process read it again; what it was."""
    (row,) = await service.sql("SELECT key_sealed FROM data_key")
    await service.sql("UPDATE data_key SET key_sealed = overlay(key_sealed PLACING 'AAAA' FROM 20)")
    service.resources.data_keys._known.clear()
    kept: str = row["key_sealed"]
    return kept


async def test_every_reader_has_it_byte_for_byte_and_no_table_has_a_word_of_it(service: Service) -> None:
    token = service.webhook_token()
    async with receiver() as to, reading(service.resources), replaying(service.resources):
        partner = await subscribe(service, to.url, types=["call.ended"], order="installation")
        assert await tell(service, token, *range(5)) == [200] * 5
        await until(lambda: len(to.received) == 5)
        await partner.stands(lag=0)
        positions = [e["position"] for e in await events_of(service)]
        window = {"from": positions[0], "to": positions[-1]}
        resend = f"/v1/events/{(await events_of(service))[2]['id']}/resend"
        resent = await partner.client.post(resend, json={"subscription_id": partner.id})
        done = await ended(partner, (await replay(partner, **window, everything=True)).json()["id"])
    delivered = [received.body.decode() for received in to.received[:5]]
    page, back = (await page_of(service)).text, (await page_of(service, order="desc")).text
    ours = json.loads(page)["events"][0]
    one = (await partner.client.get(f"/v1/events/{ours['id']}")).text
    export = (await partner.client.get(f"/v1/installations/{ours['installation_id']}/export")).text
    found = (await partner.client.get("/v1/events", params={"subject": "call:3"})).text
    streamed = await streamed_by(service)
    shown = await (await Console(service).visitor()).post(f"/events/{ours['id']}/reveal")
    stored = await dump(service)

    for n, body in enumerate(delivered):
        assert f'"data":{text_of(n)}' in body
        assert all(f'"data":{text_of(n)}' in each for each in (page, back, export, streamed))
    assert f'"data":{text_of(0)}' in one
    assert f'"data":{text_of(3)}' in found
    assert NAME in shown.text
    assert (done["status"], done["delivered"]) == ("done", 5)
    assert [received.body.decode() for received in to.received[5:]] == [delivered[2], *delivered]
    assert resent.json()["delivered"]
    assert not any(is_in(word, stored) for word in (NAME, NUMBER, "raw_digits", "café"))


async def streamed_by(service: Service) -> str:
    """What a stream sends first."""
    wanted = Wanted(0, 100, Filter())
    notifier = service.app.state.notifier
    page = await feed.first_page(service.resources, OPERATOR, wanted, notifier=notifier)
    stream = feed.stream(service.resources, OPERATOR, wanted, page, notifier=notifier)
    _, first = await anext(stream), await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    return first.decode()


async def test_what_could_not_be_delivered_is_tried_again(service: Service) -> None:
    token = service.webhook_token()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url, types=["call.ended"])
        to.answers = {1: answer_with(500)}
        await tell(service, token, *range(4))
        await partner.stands(parked=1)
        to.answers = {}
        await service.sql("UPDATE parked SET due_at = now()")
        await partner.stands(parked=0)

    assert sorted(to.numbers) == [0, 1, 2, 3]


async def test_a_customer_has_one_key_however_many_processes_get_its_first_events(service: Service) -> None:
    async with run_service(settings_for(service.settings.database_url.get_secret_value(), ENCRYPT_EVENTS="1")) as other:
        token = service.webhook_token()
        posts = (tell(each, token, n) for n in range(20) for each in (service, other))
        answers = await asyncio.gather(*posts)

    rows = await service.sql(HELD)
    assert answers == [[200]] * 40
    assert len(rows) == 20
    assert len({row["data_key"] for row in rows}) == len(await service.sql("SELECT 1 FROM data_key")) == 1


async def test_a_log_that_is_encrypted_in_parts_is_read_as_one_and_repeats_are_recognised_across_the_switch(
    service: Service, clear: Service
) -> None:
    token = service.webhook_token()
    await tell(clear, token, 0)
    await tell(service, token, 1, 0)
    # A process that was started again.
    url = service.settings.database_url.get_secret_value()
    async with run_service(settings_for(url)) as switched_off:
        await tell(switched_off, token, 2, 1, 0)
        await tell(service, token, 2)
        rows = await service.sql(HELD)
        pages = [(await page_of(each)).text for each in (service, clear, switched_off)]

    assert [row["data_key"] is not None for row in rows] == [False, True, False]
    assert [row["data"] == "null" for row in rows] == [False, True, False]
    for page in pages:
        assert [e["data"]["n"] for e in json.loads(page)["events"]] == [0, 1, 2]
        assert page.count(NAME) == 3
    assert is_in(NAME, await dump(service)), "the clear ones are there: a dump shows what is in clear"


async def test_what_a_back_fill_adds_is_encrypted_too(service: Service) -> None:
    (installation,) = await service.sql("SELECT id FROM installation")
    (call_id,) = record(service, 1, since=ago(hours(2)), until=ago(hours(1)))
    await gap_since(service, installation["id"], ago(hours(3)))

    await backfill.fill_gaps(service.resources)

    (row,) = await service.sql(HELD)
    (told,) = await events_of(service)
    assert (row["data"], row["data_key"] is not None) == ("null", True)
    assert told["data"] == service.aircall.companies[0].calls[call_id]
    assert not is_in(told["data"]["direct_link"], await dump(service))


async def test_an_event_that_is_moved_to_another_row_does_not_open(service: Service) -> None:
    await tell(service, service.webhook_token(), 0, 1)
    first, second = await service.sql(HELD)

    await service.sql("UPDATE event SET sealed = $1 WHERE id = $2", second["sealed"], first["id"])
    answer = await page_of(service)

    assert (answer.status_code, answer.json()["code"]) == (503, "data_key_unusable")
    assert [e["id"] for e in (await page_of(service, after=first["position"])).json()["events"]] == [second["id"]]


async def test_a_key_that_does_not_open_stops_its_customers_readers_and_loses_nothing(service: Service) -> None:
    other = await service.install(service.aircall.companies[1])
    token, others = service.webhook_token(), service.aircall.webhooks.of(service.aircall.companies[1].id)[0].token
    await tell(service, token, 0)
    before = (await events_of(service))[0]["position"]
    kept = await damage_key(service)

    refused, taken = await tell(service, token, 1), await tell(service, others, 2)
    page, past = await page_of(service), await page_of(service, after=before)
    (first,) = await service.sql("SELECT id, installation_id FROM event WHERE position = $1", before)
    shown_to_people = await (await Console(service).visitor()).get(f"/events/{first['id']}")
    export = await (await service.partner()).get(f"/v1/installations/{first['installation_id']}/export")
    async with receiver() as to, reading(service.resources):
        stopped = await subscribe(service, to.url, types=["call.ended"], **{"from": "beginning"})
        going = await subscribe(service, to.url, name="going", installations=[other], **{"from": "beginning"})
        await going.stands(lag=0)
        shown = await stopped.stands(last_error="data_key_unusable")
        went = to.numbers
        await service.sql("UPDATE data_key SET key_sealed = $1 WHERE key_sealed LIKE '%AAAA%'", kept)
        service.resources.data_keys._known.clear()
        await service.sql("UPDATE subscription SET lease_until = now() WHERE id = $1", stopped.id)
        again = await tell(service, token, 1)
        await until(lambda: {0, 1} <= set(to.numbers), seconds=40)

    assert (refused, taken, again) == ([503], [200], [200])
    assert (page.status_code, page.json()["code"]) == (503, "data_key_unusable")
    assert [e["data"]["n"] for e in past.json()["events"]] == [2]
    assert shown_to_people.status_code == 503
    assert '"kind":"end"' not in export.text, "it says so that it is not whole"
    assert shown["position"] < before
    assert went == [2]
    assert [e["data"]["n"] for e in await events_of(service)] == [0, 2, 1]
