"""Reading the log: filters, waiting, and the stream."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from aircall_oauth.events import feed, notify
from tests.support.processes import eventually
from tests.support.service import Service

NAMES = ("call.created", "call.ended", "ai_voice_agent.ended", "aiXvoice.ended", "user.created")


async def tell(service: Service, *names: str) -> None:
    for number, name in enumerate(names):
        event = {
            "event": name,
            "token": service.webhook_token(),
            "timestamp": 1767261600 + number,
            "data": {"n": number},
        }
        assert (await service.post_event(json.dumps(event).encode())).status_code == 200


def types(page: Any) -> list[str]:
    return [event["type"] for event in page.json()["events"]]


async def test_types_are_told_by_name_or_by_how_they_begin(service: Service) -> None:
    await service.installed()
    await tell(service, *NAMES)
    partner = await service.partner()

    async def read(*wanted: str) -> list[str]:
        return types(await partner.get("/v1/events", params=[("type", each) for each in wanted]))

    assert await read("call.*") == ["call.created", "call.ended"]
    assert await read("call.ended", "user.created") == ["call.ended", "user.created"]
    assert await read("call.ended,user.created") == ["call.ended", "user.created"]
    assert await read("ai_voice*") == ["ai_voice_agent.ended"]
    assert await read("%") == []


async def test_types_are_bounded_however_they_are_separated(shared_service: Service) -> None:
    partner = await shared_service.partner()
    lists = [",".join(f"t{ten}{one}*" for one in range(10)) for ten in range(11)]

    for door in ("/v1/events", "/v1/events/stream"):
        refused = await partner.get(door, params={"type": lists})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), door
    assert (await partner.get("/v1/events", params={"type": lists[:10]})).status_code == 200
    assert (await partner.get("/v1/events", params={"type": [*lists[:10], *lists[:10]]})).status_code == 200


async def test_a_page_that_looks_for_long_goes_as_it_is_and_the_next_one_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WINDOW", 2)
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0)
    await service.installed()
    await tell(service, *NAMES)
    partner = await service.partner()

    pages, after = list[Any](), 0
    while not pages or pages[-1]["more"]:
        pages.append((await partner.get("/v1/events", params={"after": after, "type": "user.*"})).json())
        after = pages[-1]["next"]

    assert [page["next"] for page in pages] == [2, 4, 6]
    assert [event["type"] for page in pages for event in page["events"]] == ["user.created"]


async def test_next_goes_on_past_what_a_filter_leaves_out(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "WINDOW", 2)
    await service.installed()
    await tell(service, *NAMES)
    partner = await service.partner()

    page = (await partner.get("/v1/events", params={"type": "nothing.*"})).json()

    assert page == {"events": [], "next": 1 + len(NAMES), "more": False, "epoch": page["epoch"]}


@pytest.mark.parametrize("filtered", [{}, {"type": "user.*"}])
async def test_a_page_of_large_events_is_shorter_and_nothing_is_left_out(
    service: Service, monkeypatch: pytest.MonkeyPatch, filtered: dict[str, str]
) -> None:
    monkeypatch.setattr(feed, "MOST_BYTES", 300_000)
    await service.installed()
    sizes = [10, 200_000, 200_000, 10, 400_000, 10, 10]
    for timestamp, size in enumerate(sizes, start=1767261600):
        event = {"event": "user.x", "token": service.webhook_token(), "timestamp": timestamp, "data": "x" * size}
        assert (await service.post_event(json.dumps(event).encode())).status_code == 200
    partner = await service.partner()

    pages, after = list[Any](), 1
    while not pages or pages[-1]["more"]:
        pages.append((await partner.get("/v1/events", params={"after": after, **filtered})).json())
        after = pages[-1]["next"]

    assert [[len(event["data"]) for event in page["events"]] for page in pages] == [sizes[:3], sizes[3:5], sizes[5:]]
    assert after == 1 + len(sizes)


async def test_events_of_one_installation_or_owner(service: Service) -> None:
    one = await service.installed()
    other = await service.install(service.aircall.companies[1])
    partner = await service.partner()

    page = await partner.get("/v1/events", params={"installation": other})
    none = await partner.get("/v1/events", params={"installation": one, "owner": "acme"})

    assert [event["installation_id"] for event in page.json()["events"]] == [other]
    assert types(none) == []


async def test_a_reader_that_waits_is_woken_by_the_next_event(service: Service) -> None:
    await service.installed()
    partner = await service.partner()
    waiting = asyncio.create_task(partner.get("/v1/events", params={"after": 1, "wait": 30}))
    while not waiting.done():
        await tell(service, "call.created")

    assert types(await waiting)[0] == "call.created"


async def test_readers_that_wait_for_their_turn_hold_up_no_other_request(service: Service) -> None:
    await service.installed()
    await tell(service, "call.created")
    partner, notifier = await service.partner(), service.app.state.notifier

    async with AsyncExitStack() as turns:
        for _ in range(notify.READ_AT_ONCE):
            await turns.enter_async_context(notifier.turn(0))
        waiting = asyncio.create_task(partner.get("/v1/events", params={"after": 0, "wait": 30}))
        at_once = await partner.get("/v1/events", params={"after": 0})
        assert (types(at_once)[-1], waiting.done()) == ("call.created", False)

    assert types(await waiting)[-1] == "call.created"


async def test_a_reader_whose_turn_does_not_come_is_told_to_try_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "TURN_SECONDS", 0)
    partner, notifier = await service.partner(), service.app.state.notifier

    async with AsyncExitStack() as turns:
        for _ in range(notify.READ_AT_ONCE):
            await turns.enter_async_context(notifier.turn(0))
        refused = await partner.get("/v1/events", params={"after": 0, "wait": 0.01})

    assert (refused.status_code, refused.json()["code"]) == (503, "database_away")
    assert (await partner.get("/v1/events", params={"after": 0, "wait": 0.01})).status_code == 200


async def test_a_reader_that_waits_in_vain_gets_an_empty_page(service: Service) -> None:
    await service.installed()
    partner = await service.partner()

    page = (await partner.get("/v1/events", params={"after": 1, "wait": 0.1})).json()

    assert page == {"events": [], "next": 1, "more": False, "epoch": page["epoch"]}


ENDINGS = ["revoked_at = now()", "expires_at = now()"]


async def waiting_with_a_key_that_ends(service: Service, ending: str, door: str, **query: int) -> httpx.Response:
    """Return what a waiting reader gets whose key ends meanwhile, if an event comes after that."""
    await service.installed()
    partner, other = await service.partner(), await service.partner()
    waiting = asyncio.create_task(partner.get(door, params={"after": 1, **query}))
    # Later requests read later: when these have their answers, the first has read the log, and waits.
    await eventually(lambda: service.sql("SELECT 1 FROM api_key WHERE last_used_at IS NOT NULL"))
    await asyncio.gather(*(other.get("/v1/events") for _ in range(10)))
    await service.sql(f"UPDATE api_key SET {ending} WHERE id = (SELECT min(id) FROM api_key)")
    await tell(service, "call.created")
    return await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_who_waits_is_told_nothing_once_his_key_has_ended(service: Service, ending: str) -> None:
    got = await waiting_with_a_key_that_ends(service, ending, "/v1/events", wait=30)

    assert (got.status_code, got.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_stream_ends_with_its_key(service: Service, ending: str) -> None:
    got = await waiting_with_a_key_that_ends(service, ending, "/v1/events/stream")

    assert (got.status_code, got.text) == (200, ": connected\n\n")


async def test_who_waits_is_sent_home_before_the_process_stops(service: Service) -> None:
    await service.installed()
    partner = await service.partner()
    service.app.state.notifier.stop()

    page = await partner.get("/v1/events", params={"after": 1, "wait": 30})

    assert types(page) == []


async def test_one_event_by_its_id(service: Service) -> None:
    await service.installed()
    partner, stranger = await service.partner(), await service.partner(owner="acme")
    (event,) = (await partner.get("/v1/events")).json()["events"]

    assert (await partner.get(f"/v1/events/{event['id']}")).json() == event | {"deliveries": []}
    assert (await stranger.get(f"/v1/events/{event['id']}")).json()["code"] == "event_not_found"


async def test_the_stream_goes_on_where_the_reader_was(service: Service) -> None:
    await service.installed()
    await tell(service, *NAMES)
    partner = await service.partner()
    service.app.state.notifier.stop()  # so that the stream ends with what is there

    whole = await partner.get("/v1/events/stream")
    rest = await partner.get("/v1/events/stream", headers={"last-event-id": "4"})

    assert whole.headers["content-type"].startswith("text/event-stream")
    assert [line for line in whole.text.splitlines() if line.startswith("id:")] == [f"id: {n}" for n in range(1, 7)]
    assert [line for line in rest.text.splitlines() if line.startswith("id:")] == ["id: 5", "id: 6"]
    page = await partner.get("/v1/events")
    told = [json.loads(line.removeprefix("data: ")) for line in whole.text.splitlines() if line.startswith("data:")]
    assert page.json()["events"] == told


async def test_line_breaks_between_the_parts_of_data_survive_the_stream(service: Service) -> None:
    await service.installed()
    body = b'{"event": "call.created", "token": "%s", "data": {\r\n"a":\n\r1}}' % service.webhook_token().encode()
    assert (await service.post_event(body)).status_code == 200
    service.app.state.notifier.stop()

    stream = await (await service.partner()).get("/v1/events/stream", params={"after": 1})

    lines = [line.removeprefix("data: ") for line in stream.text.split("\n") if line.startswith("data: ")]
    assert json.loads("\n".join(lines))["data"] == {"a": 1}
