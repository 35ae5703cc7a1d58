"""Events, one event, a call: what came in, what became of it, and sending it again."""

import asyncio
import html
import json
import re
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.console.pages import event as event_page
from aircall_oauth.console.pages import events as events_page
from aircall_oauth.deliveries import of_event
from aircall_oauth.deliveries.reader.supervisor import reading
from tests.support.consoles import LOOKING, Console, words
from tests.support.receivers import Partner, answer_with, fill, receiver, subscribe, tell
from tests.support.service import Service

HOSTILE = '<script>alert(1)</script>\x1b[31m"\u202e' + "x" * 300


@pytest.fixture
def service(delivering: Service) -> Service:
    return delivering


@pytest.fixture(scope="module")
def shared_service(shared_delivering: Service) -> Service:
    return shared_delivering


async def tell_of(service: Service, data: dict[str, Any], type_: str = "call.created") -> str:
    """One event; its id."""
    resource = type_.partition(".")[0]
    token = service.webhook_token()
    body = {"resource": resource, "event": type_, "token": token, "timestamp": 1767261600, "data": data}
    assert (await service.post_event(json.dumps(body).encode())).status_code == 200
    return await newest_id(service)


async def newest_id(service: Service) -> str:
    (row,) = await service.sql("SELECT id FROM event ORDER BY position DESC LIMIT 1")
    event_id: str = row["id"]
    return event_id


async def tried(partner: Partner, times: int = 1) -> None:
    """Wait until so many tries are written down."""
    async with asyncio.timeout(20):
        while True:
            if len(await partner.attempts()) >= times:
                return
            await asyncio.sleep(0.02)


def ids(page: httpx.Response) -> list[str]:
    return re.findall(r'<th [^>]*scope="row"><a href="/events/(evt_\w+)"', page.text)


def link(page: httpx.Response, text: str) -> str:
    found = re.search(rf'<a[^>]*href="([^"]+)"[^>]*>{re.escape(text)}', page.text)
    assert found, f"no link {text!r}"
    return html.unescape(found[1])


async def test_events_are_listed_newest_first_page_by_page(console: Console) -> None:
    await fill(console.service, 120)
    anna = await console.visitor()
    rows = await console.service.sql("SELECT id FROM event ORDER BY position DESC")

    first = await anna.get("/events")
    second = await anna.get(link(first, "Next page"))
    third = await anna.get(link(second, "Next page"))

    assert "The newest 50 events; older ones follow." in words(first)
    assert ids(first) + ids(second) + ids(third) == [row["id"] for row in rows]
    assert "there are no more" in words(third)
    assert link(third, "To the beginning") == "/events"


async def test_events_are_found_by_type_call_owner_customer_and_time(console: Console) -> None:
    service = console.service
    (row,) = await service.sql("SELECT id FROM installation")
    await service.sql("UPDATE installation SET owner = 'acme'")
    await tell(service, 1, type_="user.created")
    call = await tell_of(service, {"id": 2**53 + 1})
    await fill(service, 3)
    anna = await console.visitor()

    for query, found in (
        ({"type": "user.*, call.ended"}, 1),
        ({"type": "call.*"}, 4),
        ({"call_id": str(2**53 + 1)}, 1),
        ({"subject": f"call:{2**53 + 1}"}, 1),
        ({"installation_id": row["id"], "type": "call.*"}, 1),
        ({"owner": "nobody"}, 0),
        ({"since": "2999-01-01T00:00"}, 0),
        ({"until": "2001-01-01T00:00"}, 0),
    ):
        page = await anna.get("/events", params=query)
        assert len(ids(page)) == found, query
    assert ids(await anna.get("/events", params={"call_id": str(2**53 + 1)})) == [call]
    curl = words(await anna.get("/events?type=user.*&since=2026-01-01T10:00"))
    shown = re.search(r"/v1/events\?([^']+)'", curl)
    assert shown, curl
    asked = {"order": "desc", "limit": "50", "type": "user.*", "since": "2026-01-01T10:00:00Z"}
    assert dict(parse_qsl(shown[1])) == asked


async def test_a_search_ends_after_so_many_positions_and_says_what_it_left(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_page, "MOST_SEARCHED", 4)
    await tell(console.service, 1, type_="user.created")
    await fill(console.service, 7)
    anna = await console.visitor()

    pages = [await anna.get("/events?type=user.*")]
    while "Search further back" in pages[-1].text:
        pages.append(await anna.get(link(pages[-1], "Search further back")))

    assert [len(ids(page)) for page in pages] == [0, 1, 0]
    assert "No event like that down to here" in words(pages[0])
    assert re.search(r"What came in before [-0-9: ]+ was not searched yet", words(pages[0]))
    assert "there are no more" not in words(pages[0])


async def test_an_owners_events_are_those_of_its_customers_until_all_are_asked_for(console: Console) -> None:
    service = console.service
    await service.sql("UPDATE installation SET owner = 'acme'")
    await tell(service, 1)
    former = await newest_id(service)
    await service.sql("UPDATE event SET installation_id = 'ins_' || repeat('0', 32) WHERE id = $1", former)
    now = await tell_of(service, {"id": 5})
    anna = await console.visitor()

    page = await anna.get("/events?owner=acme")
    everything = await anna.get(link(page, "searched for in the log itself"))

    assert ids(page) == [now]
    assert "Searched are the customers that acme has now." in words(page)
    assert ids(everything) == [now, former]
    assert "Searched are" not in words(everything)


@pytest.mark.parametrize(
    "query",
    ["typ=call.*", "call_id=-1", "call_id=1&subject=call:1", "since=yesterday", "installation_id=x", "before=x"],
)
async def test_an_address_that_is_not_right_has_a_page(shared_console: Console, query: str) -> None:
    anna = await shared_console.visitor()

    page = await anna.get(f"/events?{query}")

    assert page.status_code == 422
    assert "<nav" in page.text


@pytest.mark.slow
async def test_the_tail_answers_only_what_is_new_and_wanted(console: Console) -> None:
    await tell(console.service, 2)
    anna = await console.visitor()
    page = await anna.get("/events?type=call.*")
    follows = html.unescape(re.findall(r'hx-get="(/events[^"]*)"', page.text)[0])

    nothing = await anna.get(follows)
    await tell(console.service, 1, first=10, type_="user.created")
    new = await tell_of(console.service, {"id": 9})
    more = await anna.get(follows)
    again = await anna.get(html.unescape(re.findall(r'hx-get="([^"]+)"', more.text)[0]))

    assert ids(nothing) == []
    assert ids(more) == [new]
    assert ids(again) == []
    assert "<html" not in more.text
    assert "type=call" in link(more, "Reload")


async def test_what_is_looked_up_in_the_past_is_not_followed(console: Console) -> None:
    anna = await console.visitor()

    for query in ("until=2026-01-01T00:00", "before=1", "live=off"):
        assert 'hx-get="/events' not in (await anna.get(f"/events?{query}")).text, query


async def test_an_event_shows_what_became_of_it_for_each_destination(console: Console) -> None:
    service = console.service
    async with receiver() as well, receiver() as broken, reading(service.resources):
        broken.answer = answer_with(500)
        good = await subscribe(service, well.url, name="crm")
        bad = await subscribe(service, broken.url, name="billing")
        await subscribe(service, well.url, name="users", types=["user.*"])
        await subscribe(service, well.url, name="others", owners=["acme"], types=["user.*"])
        event = await tell_of(service, {"id": 5})
        await good.stands(lag=0)
        await tried(bad)
    # A replay's try is shown with the others, and is none of the first delivery.
    again = "INSERT INTO attempt (position, event_id, subscription_id, at, outcome, milliseconds, replay_id) SELECT"
    columns = "position, event_id, subscription_id, at + interval '1 hour', outcome, milliseconds, 'rpl_1' FROM attempt"
    await service.sql(f"{again} {columns} WHERE outcome = 'delivered'")
    anna = await console.visitor()

    page = await anna.get(f"/events/{event}")

    said = words(page)
    assert "Delivered to 1 of the 2 destinations it goes to; " in said
    assert "crm delivered Taken at the first try" in said
    assert "answered 500" in said
    assert "users filter: types user.*" in said
    assert "others filter: types, filter: owners user.*" in said
    assert page.text.count('<svg class="lane"') == 2
    assert "/calls/5" == link(page, "Everything of this call")


async def test_an_event_of_many_destinations_shows_some_at_a_time_the_undelivered_first(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_page, "LANES", 2)
    monkeypatch.setattr(event_page, "OTHERS", 1)
    service = console.service
    for name, types in (("a", []), ("b", []), ("c", []), ("x", ["user.*"]), ("y", ["user.*"])):
        await subscribe(service, "https://203.0.114.7/hook", name=name, types=types)
    told = await tell_of(service, {"id": 5})
    await service.sql(
        "INSERT INTO attempt (position, event_id, subscription_id, at, outcome, milliseconds) "
        "SELECT e.position, e.id, s.id, now(), 'delivered', 1 FROM event e, subscription s "
        "WHERE e.id = $1 AND s.name = 'a'",
        told,
    )
    anna = await console.visitor()

    first = await anna.get(f"/events/{told}")
    second = await anna.get(link(first, "Next page"))
    others = await anna.get(f"/events/{told}?skip_others=1")

    lanes = r'<h3><a href="/destinations/sub_\w+">(\w)</a>'
    assert "Delivered to 1 of the 3 destinations it goes to; waiting for b and 1 more." in words(first)
    assert re.findall(lanes, first.text) == ["b", "c"]
    assert "Destinations 1 to 2 of 3, those that have not got it first." in words(first)
    assert re.findall(lanes, second.text) == ["a"]
    assert "x filter: types" in words(first)
    assert "y filter: types" in words(others)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("status = 'paused'", "is paused: nothing is sent to it until it is resumed."),
        ("status = 'disabled'", "answered that it wants no more: nothing is sent to it until it is resumed."),
        ("health = 'down'", "is down: its events wait in order until it takes one again."),
        ("status = 'paused', health = 'down'", "is paused: nothing is sent to it until it is resumed."),
    ],
)
async def test_a_delivery_that_waits_names_the_destination_that_holds_it_up(
    console: Console, state: str, said: str
) -> None:
    service = console.service
    for name in ("waits", "parked", "taken", "dead", "well"):
        await subscribe(service, "https://203.0.114.7/hook", name=name)
    event = await tell_of(service, {"id": 5})
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "due_at, dead_at) SELECT s.id, e.position, now(), e.id, e.installation_id, 1, 'http_500', "
        "CASE name WHEN 'parked' THEN now() + interval '1 hour' END, CASE name WHEN 'dead' THEN now() END "
        "FROM event e, subscription s WHERE e.id = $1 AND s.name IN ('parked', 'dead')",
        event,
    )
    await service.sql(
        "INSERT INTO attempt (position, event_id, subscription_id, at, outcome, milliseconds) "
        "SELECT e.position, e.id, s.id, now(), CASE name WHEN 'taken' THEN 'delivered' ELSE 'http_500' END, 1 "
        "FROM event e, subscription s WHERE e.id = $1 AND s.name IN ('parked', 'taken')",
        event,
    )
    await service.sql(f"UPDATE subscription SET {state} WHERE name <> 'well'")
    rows = await service.sql("SELECT name, id FROM subscription")
    anna = await console.visitor()

    page = await anna.get(f"/events/{event}")

    ids_of = {row["name"]: row["id"] for row in rows}
    for name, waits in (
        ("waits", "Waits for the destination (not tried yet)."),
        ("parked", "Not taken after 1 try (answered 500); its next try waits for the destination."),
    ):
        assert f"{waits} {name} {said}" in words(page)
        assert f'<a href="/destinations/{ids_of[name]}">{name}</a> {said}' in page.text
    assert page.text.count(said) == 2, "what is taken or given up on does not wait"
    assert "well waiting Waits for its turn (not tried yet)." in words(page)


async def test_an_event_from_before_a_destination_says_so(console: Console) -> None:
    event = await tell_of(console.service, {"id": 5})
    await subscribe(console.service, "https://203.0.114.7/hook", name="late")
    anna = await console.visitor()

    said = words(await anna.get(f"/events/{event}"))

    assert "none of the 1 destination wants it" in said
    assert "late it was made after the event came in" in said


async def test_personal_data_are_hidden_until_they_are_revealed_and_the_audit_notes_it(console: Console) -> None:
    service = console.service
    event = await tell_of(service, {"id": 2**63 - 1, "raw_digits": "+33 6 12 34 56 12", "user": {"name": "Zoé Martin"}})
    anna = await console.visitor()

    hidden = await anna.get(f"/events/{event}")
    shown = await anna.post(f"/events/{event}/reveal")

    assert "+33 6 •• •• •• 12" in words(hidden)
    assert str(2**63 - 1) in words(hidden), "exact"
    assert "Zoé" not in hidden.text
    assert "Zoé Martin" in words(shown)
    assert "+33 6 12 34 56 12" in words(shown)
    (line,) = await service.sql("SELECT * FROM audit WHERE action = 'payload.revealed'")
    assert line["actor"] == "person:anna"
    assert event in line["details"]


@pytest.mark.parametrize("about", ["+33612345678", "mara.ellison@example.org"])
async def test_what_an_event_is_about_is_hidden_if_it_is_a_persons(console: Console, about: str) -> None:
    event = await tell_of(console.service, {"id": "x"})
    await console.service.sql("UPDATE event SET subject = $1", f"call:{about}")
    anna = await console.visitor()

    pages = [await anna.get(path) for path in ("/events", f"/events/{event}", "/events/tail?after=0", "/")]
    shown = await anna.post(f"/events/{event}/reveal")

    for page in pages:
        assert about not in html.unescape(page.text), page.url
    assert "call:" in words(pages[0])
    assert f"About call:{about}" in words(shown)


async def test_who_may_not_see_personal_data_is_not_shown_them(console: Console) -> None:
    event = await tell_of(console.service, {"id": 1, "user": {"name": "Zoé Martin"}})
    ben = await console.visitor("ben", (Scope.CONSOLE_READ, Scope.CONSOLE_ACT))

    page, refused = await ben.get(f"/events/{event}"), await ben.post(f"/events/{event}/reveal")

    assert "/reveal" not in page.text
    assert refused.status_code == 403
    assert "Zoé" not in page.text + refused.text
    assert await console.service.sql("SELECT 1 FROM audit WHERE action = 'payload.revealed'") == []


async def test_an_event_is_sent_again_to_a_destination_of_choice(console: Console) -> None:
    service = console.service
    event = await tell_of(service, {"id": 5})
    anna = await console.visitor()
    async with receiver() as to:
        partner = await subscribe(service, to.url, name="crm", types=["user.*"])

        asked = await anna.get(f"/events/{event}/resend")
        done = await anna.post(f"/events/{event}/resend", data={"subscription_id": partner.id})
        to.answer = answer_with(503)
        failed = await anna.post(f"/events/{event}/resend", data={"subscription_id": partner.id})
        wrong = await anna.post(f"/events/{event}/resend", data={"subscription_id": "sub_1"})

    assert "crm (does not want it)" in words(asked)
    assert f"aircall-oauth events resend {event} --to {partner.id}" in words(asked)
    assert "The destination took it in" in words(done)
    assert "did not take it: answered 503" in words(failed)
    assert wrong.status_code == 422
    assert [received.event_id for received in to.received] == [event, event]
    lines = await service.sql("SELECT actor, outcome FROM audit WHERE action = 'event.resent' ORDER BY at")
    assert [tuple(line) for line in lines] == [("person:anna", "done"), ("person:anna", "failed")]
    assert "sent again by hand" in words(await anna.get(f"/events/{event}"))


async def test_who_may_only_look_sends_nothing_again(console: Console) -> None:
    event = await tell_of(console.service, {"id": 5})
    ben = await console.visitor("ben", LOOKING)
    async with receiver() as to:
        partner = await subscribe(console.service, to.url)

        asked = await ben.get(f"/events/{event}/resend")
        refused = await ben.post(f"/events/{event}/resend", data={"subscription_id": partner.id})

    assert "You may look here, but not act" in words(asked)
    assert refused.status_code == 403
    assert to.received == []


async def test_a_call_is_shown_from_ring_to_delivery(console: Console) -> None:
    service = console.service
    number = 2**53 + 1
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url, name="crm")
        for type_ in ("call.created", "call.answered", "call.ended"):
            await tell_of(service, {"id": number}, type_)
        await tell_of(service, {"id": number - 1})
        await partner.stands(lag=0, delivered_24h=0)
        await tried(partner, 4)
    anna = await console.visitor()

    page = await anna.get(f"/calls/{number}")

    said = words(page)
    assert f"Call {number} 3 events, from call.created to call.ended, in" in said
    assert "; 3 deliveries." in said
    assert said.index("call.created") < said.index("call.answered") < said.index("call.ended", 120)
    assert said.count("crm : taken") + said.count("crm: taken") == 3
    assert "No event of it was back-filled" in said
    audit = await anna.get(link(page, "the requests around this call"))
    assert audit.status_code == 200
    assert (await anna.get(f"/search?q={number}")).headers["location"] == f"/calls/{number}"
    assert "Nothing is called" in words(await anna.get("/search?q=33612345678")), "a phone number, perhaps"


async def test_a_call_names_the_deliveries_that_wait_and_were_never_tried(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = console.service
    for name in ("paused", "down", "turn", "behind", "tried", "dead"):
        await subscribe(service, "https://203.0.114.7/hook", name=name)
    await subscribe(service, "https://203.0.114.7/hook", name="users", types=["user.*"])
    event = await tell_of(service, {"id": 5})
    await subscribe(service, "https://203.0.114.7/hook", name="later")
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "dead_at) SELECT s.id, e.position, now(), e.id, e.installation_id, 0, 'http_500', "
        "CASE name WHEN 'dead' THEN now() END FROM event e, subscription s "
        "WHERE e.id = $1 AND s.name IN ('behind', 'dead')",
        event,
    )
    await service.sql("UPDATE subscription SET position = position + 100 WHERE name = 'behind'")
    await service.sql(
        "INSERT INTO attempt (position, event_id, subscription_id, at, outcome, milliseconds) "
        "SELECT e.position, e.id, s.id, now(), 'http_503', 1 FROM event e, subscription s "
        "WHERE e.id = $1 AND s.name = 'tried'",
        event,
    )
    await service.sql("UPDATE subscription SET status = 'paused' WHERE name = 'paused'")
    await service.sql("UPDATE subscription SET health = 'down' WHERE name = 'down'")
    anna = await console.visitor()

    page = await anna.get("/calls/5")

    said = words(page)
    assert "1 event, from call.created; 0 deliveries, 1 not taken, 4 not tried yet." in said
    assert "tried : answered 503 not taken" in said
    assert "paused : not tried yet: it is paused: nothing is sent to it until it is resumed waiting" in said
    assert "down : not tried yet: it is down: its events wait in order until it takes one again waiting" in said
    assert "turn : not tried yet, waits for its turn waiting" in said
    assert "behind : not tried yet, waits behind an earlier event waiting" in said
    assert link(page, "down").startswith("/destinations/sub_")
    assert not re.search(r"\b(users|later|dead) :", said)
    assert "oldest destinations" not in said

    monkeypatch.setattr(of_event, "MOST_PAIRS", 2)
    some = words(await anna.get("/calls/5"))
    assert "1 not taken, 2 not tried yet." in some
    assert "What was not tried yet is known of the 2 oldest destinations, if there are more." in some


async def test_a_back_filled_call_names_its_gap(console: Console) -> None:
    service = console.service
    await tell_of(service, {"id": 77}, "call.ended")
    await service.sql("UPDATE event SET source = 'backfill' WHERE subject = 'call:77'")
    await service.sql(
        "INSERT INTO gap (id, installation_id, reason, since, until, done_at, found, added) SELECT 'gap_1', id, "
        "'webhook_disabled', '2020-01-01', now() + interval '1 hour', now(), 8, 3 FROM installation"
    )
    anna = await console.visitor()

    said = words(await anna.get("/calls/77"))

    assert "It fell into a gap (webhook disabled)" in said
    assert "8 calls were found there, 3 added" in said


@pytest.mark.parametrize("path", ["/events/evt_" + "0" * 32, "/calls/4711", "/calls/99999999999999999999", "/events/x"])
async def test_what_does_not_exist_has_a_page(shared_console: Console, path: str) -> None:
    anna = await shared_console.visitor()

    page = await anna.get(path)

    assert page.status_code == 404
    assert "<nav" in page.text


@pytest.mark.slow
async def test_what_others_wrote_is_shown_escaped(console: Console) -> None:
    service = console.service
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url, name=HOSTILE[:90])
        number = "9" * 5000
        body = '{"resource":"call","event":"call.created","token":"%s","data":{"id":1,"n":%s,"t":%s}}'
        assert (
            await service.post_event((body % (service.webhook_token(), number, json.dumps(HOSTILE))).encode())
        ).status_code == 200
        await service.sql("UPDATE event SET owner = $1, subject = 'call:1'", HOSTILE)
        await partner.stands(lag=0)
    anna = await console.visitor()
    event = await newest_id(service)

    pages = [
        await anna.get("/events"),
        await anna.get(f"/events/{event}"),
        await anna.post(f"/events/{event}/reveal"),
        await anna.get(f"/events/{event}/resend"),
        await anna.get("/calls/1"),
        await anna.get("/events", params={"owner": HOSTILE[:200]}),
    ]

    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "\x1b" not in page.text
        assert "\u202e" not in page.text
    assert "9" * 5000 in pages[2].text


async def test_without_the_database_the_pages_say_what_to_do(console: Console) -> None:
    anna = await console.visitor()
    async with console.service.database_away():
        for path in ("/events", "/events/tail?after=0", "/calls/1"):
            page = await anna.get(path)
            assert page.status_code == 503
            assert "The database can't be reached" in words(page)
