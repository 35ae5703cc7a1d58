"""Destinations: how each does, what can be done with it, and the replay wizard from the count to the end."""

import asyncio
import html
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest

from aircall_oauth.console.pages import replays
from aircall_oauth.deliveries.replays.runner import replaying
from aircall_oauth.storage import figures
from aircall_oauth.storage.figures import Count
from aircall_oauth.telemetry.figures import Name
from tests.support.consoles import LOOKING, Console, words
from tests.support.receivers import Partner, answer_with, fill, receiver, subscribe, tell
from tests.support.service import Service, until

AWAY = "https://203.0.114.7/hook"
DAY = {"since": "2026-01-01T00:00", "until": "2026-01-02T00:00"}
HOSTILE = '"><script>alert(1)</script>\x1b[31m\u202e' + "x" * 50


@pytest.fixture
def service(delivering: Service) -> Service:
    return delivering


@pytest.fixture(scope="module")
def shared_service(shared_delivering: Service) -> Service:
    return shared_delivering


async def audited(service: Service, action: str) -> list[Any]:
    return await service.sql("SELECT actor, outcome, details FROM audit WHERE action = $1 ORDER BY at", action)


async def park(service: Service, partner: Partner, *, dead: bool) -> str:
    """An event that the destination did not take; its id."""
    (count,) = await service.sql("SELECT count(*) AS events FROM event")
    await tell(service, 1, first=count["events"])
    (row,) = await service.sql("SELECT * FROM event ORDER BY position DESC LIMIT 1")
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "due_at, dead_at) VALUES ($1, $2, now(), $3, $4, 12, 'http_500', $5, $6)",
        *(partner.id, row["position"], row["id"], row["installation_id"]),
        *((None, row["received_at"]) if dead else (row["received_at"], None)),
    )
    event_id: str = row["id"]
    return event_id


async def test_destinations_are_listed_with_how_they_do_in_words(console: Console) -> None:
    service = console.service
    crm, down = await subscribe(service, AWAY, name="crm"), await subscribe(service, AWAY, name="billing")
    paused, gone = await subscribe(service, AWAY, name="paused one"), await subscribe(service, AWAY, name="gone one")
    await service.sql(
        "UPDATE subscription SET health = 'down', quiet_until = now() + interval '100 seconds', "
        "last_error = 'http_503', last_error_at = now() - interval '5 minutes' WHERE id = $1",
        down.id,
    )
    await paused.post("pause")
    await service.sql("UPDATE subscription SET status = 'disabled' WHERE id = $1", gone.id)
    counts = [Count(Name.DELIVERIES, crm.id, [1290, 1288, 3])]
    await figures.add(service.resources.database, counts, ago=timedelta(minutes=1))
    anna = await console.visitor()

    page = await anna.get("/destinations")

    said = words(page)
    assert "Of 4 destinations, 3 need a look: billing and 2 more." in said
    assert (
        "down It is down: it takes nothing, its events wait in order. Its last failure: answered 503, 5 min ago."
        in said
    )
    assert "The next probe goes out in 1 min." in said
    assert "paused A person paused it" in said
    assert "wants no more It answered that it wants no more" in said
    assert "well It is up and takes what it wants: 1 288 events in the last day. 1 290 1 288 3 0 none" in said


async def test_a_destination_shows_its_plots_its_failures_and_what_it_has_not_got(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm", types=["call.*"])
    dead, parked = await park(service, partner, dead=True), await park(service, partner, dead=False)
    await service.sql(
        "INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds) "
        "SELECT $1, $2, 1, now(), outcome, 23 FROM unnest(ARRAY['http_500', 'delivered', 'timeout']) AS outcome",
        *(partner.id, dead),
    )
    anna = await console.visitor()

    page = await anna.get(f"/destinations/{partner.id}")

    said = words(page)
    assert page.text.count('<figure class="chart"') == 2
    assert "It is up, but 1 event it did not take had to be given up on." in said
    failures = said.partition("Last failures")[2].partition("Tried again by schedule")[0]
    assert "no answer in time 23 ms" in failures
    assert "answered 500 23 ms" in failures
    assert "taken" not in failures
    assert parked in said.partition("Tried again by schedule")[2].partition("Given up on")[0]
    assert f"/destinations/{partner.id}/retry?event_id={dead}" in page.text


async def test_a_destination_that_refuses_some_events_says_how_many_lately(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    tries = [
        ("d", "timeout", 90),
        ("a", "delivered", 9),
        ("b", "http_500", 8),
        ("b", "delivered", 7),
        ("c", "http_422", 6),
    ]
    for event, outcome, minutes_ago in tries:
        await service.sql(
            "INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds) "
            "VALUES ($1, 'evt_' || $2, $3::int, now() - $3::int * interval '1 minute', $4, 9)",
            *(partner.id, event, minutes_ago, outcome),
        )
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "due_at) SELECT id, 6, now(), 'evt_c', 'ins_1', 1, 'http_422', now() FROM subscription"
    )
    anna = await console.visitor()

    for page in (await anna.get("/destinations"), await anna.get(f"/destinations/{partner.id}")):
        said = words(page)
        assert "refuses some" in said
        assert "It is up, but has not taken 1 of the 3 events tried within the last hour." in said
        assert "Its last failure: answered 422." in said


async def test_what_waits_for_a_destination_that_is_down_is_wanted(console: Console) -> None:
    service = console.service
    await tell(service, 3)
    await tell(service, 2, first=3, type_="user.created")
    partner = await subscribe(service, AWAY, name="crm", types=["user.*"])
    await service.sql("UPDATE subscription SET position = 0, health = 'down'")
    anna = await console.visitor()

    one, listed = await anna.get(f"/destinations/{partner.id}"), await anna.get("/destinations")

    assert "Wanted in 24 h 2 events" in words(one)
    assert 'class="number">2</td>' in listed.text
    await park(service, partner, dead=False)
    await service.sql("UPDATE parked SET received_at = now() - interval '25 hours'")
    assert "Wanted in 24 h 0 or more events" in words(await anna.get(f"/destinations/{partner.id}"))


async def test_a_sample_is_sent_and_the_audit_names_the_person(console: Console) -> None:
    anna = await console.visitor()
    async with receiver() as to:
        partner = await subscribe(console.service, to.url)
        asked = await anna.get(f"/destinations/{partner.id}/test")
        done = await anna.post(f"/destinations/{partner.id}/test")
        to.answer = answer_with(500)
        failed = await anna.post(f"/destinations/{partner.id}/test")

    assert f"/v1/subscriptions/{partner.id}/test" in words(asked)
    assert "It took the sample" in words(done)
    assert "It did not take it: answered 500" in words(failed)
    assert [line["outcome"] for line in await audited(console.service, "subscription.tested")] == ["done", "failed"]
    assert {line["actor"] for line in await audited(console.service, "subscription.tested")} == {"person:anna"}


async def test_a_destination_is_paused_resumed_and_deleted(console: Console) -> None:
    partner = await subscribe(console.service, AWAY, name="crm")
    anna = await console.visitor()
    address = f"/destinations/{partner.id}"

    assert f"{address}/pause" in (await anna.get(address)).text
    assert "Nothing is sent until it is resumed" in words(await anna.post(f"{address}/pause"))
    assert (await partner.shown())["status"] == "paused"
    assert "wait for it, oldest first" in words(await anna.get(f"{address}/resume"))
    await anna.post(f"{address}/resume")
    assert (await partner.shown())["status"] == "active"
    assert "for good" in words(await anna.get(f"{address}/delete"))
    await anna.post(f"{address}/delete")

    assert (await anna.get(address)).status_code == 404
    for action in ("paused", "resumed", "deleted"):
        (line,) = await audited(console.service, f"subscription.{action}")
        assert line["actor"] == "person:anna"


async def test_a_new_secret_is_shown_once(console: Console) -> None:
    partner = await subscribe(console.service, AWAY)
    anna = await console.visitor()

    both = await anna.post(f"/destinations/{partner.id}/rotate-secret")
    at_once = await anna.post(f"/destinations/{partner.id}/rotate-secret", data={"now": "now"})

    secrets = [re.findall(r"whsec_[\w+/=]+", page.text) for page in (both, at_once)]
    assert [len(found) for found in secrets] == [1, 1]
    assert secrets[0] != secrets[1]
    assert "a signature of each" in words(both)
    assert "The old one has ended" in words(at_once)
    assert "whsec_" not in (await anna.get(f"/destinations/{partner.id}")).text


async def test_an_edit_changes_what_was_changed_and_warns_of_types_that_no_event_has(console: Console) -> None:
    partner = await subscribe(console.service, f"{AWAY}?key=hunter2", name="a\x1bb", owners=["acme, inc", "b"])
    anna = await console.visitor()
    address = f"/destinations/{partner.id}/edit"
    form = fields(await anna.get(address))

    same = await anna.post(address, data=form)
    saved = await anna.post(address, data=form | {"types": "call.endet, user.*", "order": "none"})
    wrong = await anna.post(address, data=form | {"installations": "ins_1", "name": "kept"})

    assert form["owners"] == "acme, inc\nb"
    assert "Nothing was different" in words(same)
    assert "Changed: order, types." in words(saved)
    assert "Is it call.ended?" in words(saved)
    assert "Is it call.ended?" in words(await anna.get(f"/destinations/{partner.id}")), "for those who look later"
    assert wrong.status_code == 422
    assert 'value="kept"' in wrong.text, "what was filled in is there again"
    shown = await partner.shown()
    assert (shown["types"], shown["order"]) == (["call.endet", "user.*"], "none")
    assert (shown["name"], shown["owners"]) == ("a\x1bb", ["acme, inc", "b"])
    assert [line["actor"] for line in await audited(console.service, "subscription.changed")] == ["person:anna"]


async def test_a_second_tab_does_not_undo_what_the_first_has_changed(console: Console) -> None:
    partner = await subscribe(console.service, AWAY, name="crm", types=["cal.ended"])
    anna = await console.visitor()
    address = f"/destinations/{partner.id}/edit"
    first, second = [fields(await anna.get(address)) for _ in range(2)]

    await anna.post(address, data=first | {"types": "call.ended"})
    renamed = await anna.post(address, data=second | {"name": "their crm"})
    shown = await partner.shown()
    overtaken = await anna.post(address, data=second | {"types": "user.*"})
    meant = await anna.post(address, data=fields(overtaken))

    assert "Changed: name." in words(renamed)
    assert (shown["name"], shown["types"]) == ("their crm", ["call.ended"])
    assert overtaken.status_code == 422
    assert "Someone changed this since you opened the form" in words(overtaken)
    assert "Changed: types." in words(meant)
    assert (await partner.shown())["types"] == ["user.*"]


def fields(page: httpx.Response) -> dict[str, str]:
    """What a form would send as it stands."""
    found = dict(re.findall(r'<input id="f-\w+" name="(\w+)"[^>]* value="([^"]*)"', page.text))
    found |= dict(re.findall(r'<input type="hidden" name="(was)" value="([^"]*)"', page.text))
    found |= dict(re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>([^<]*)<', page.text))
    found |= dict(re.findall(r'<select[^>]* name="(\w+)">.*?<option value="(\w+)" selected', page.text, re.DOTALL))
    return {name: html.unescape(value) for name, value in found.items()}


async def test_what_was_given_up_on_is_put_back_one_or_all(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY)
    events = [await park(service, partner, dead=True) for _ in range(3)]
    anna = await console.visitor()
    address = f"/destinations/{partner.id}/retry"

    assert "This tries this event again" in words(await anna.get(f"{address}?event_id={events[0]}"))
    assert "1 event is tried again now" in words(await anna.post(address, data={"event_id": events[0]}))
    assert (await anna.post(address, data={"event_id": "evt_1"})).status_code == 422
    assert "This tries 2 events again" in words(await anna.get(address))
    assert "2 events are tried again now" in words(await anna.post(address))
    assert "There was none" in words(await anna.post(address))
    assert (await partner.shown())["dead"] == 0


async def test_a_replay_is_counted_started_followed_to_its_end(console: Console) -> None:
    service = console.service
    await tell(service, 3)
    await fill(service, 9, installations=2)
    anna = await console.visitor()
    window = {"since": "2020-01-01T00:00", "until": "2999-01-01T00:00", "types": "call.created"}
    async with receiver() as to, replaying(service.resources):
        partner = await subscribe(service, to.url, name="crm")
        address = f"/destinations/{partner.id}/replay"

        blank = await anna.get(address)
        counted = await anna.get(address, params=window)
        assert await audited(service, "replay.started") == []
        started = await anna.post(address, data=window)
        progress = await anna.get(started.headers["location"])
        await until(lambda: len(to.received) == 12)
        async with asyncio.timeout(20):
            while "It is done" not in words(progress):
                progress = await anna.get(started.headers["location"])

    assert "they are counted first" in words(blank)
    assert "12 events of 3 customers would be delivered once more" in words(counted)
    assert "Deliver 12 events once more" in words(counted)
    assert f"aircall-oauth subscriptions replay {partner.id} --since 2020-01-01T00:00:00Z" in words(counted)
    assert started.status_code == 303
    assert "It is done: 12 of 12 events delivered." in words(progress)
    assert "every " not in progress.text
    assert [line["actor"] for line in await audited(service, "replay.started")] == ["person:anna"]
    assert "done" in words(await anna.get(f"/destinations/{partner.id}"))


async def test_a_replay_is_stopped(console: Console) -> None:
    service = console.service
    await tell(service, 3)
    partner = await subscribe(service, AWAY)
    anna = await console.visitor()
    window = {"since": "2020-01-01T00:00", "until": "2999-01-01T00:00"}
    started = await anna.post(f"/destinations/{partner.id}/replay", data=window)
    address = started.headers["location"]

    running = await anna.get(address)
    asked = await anna.get(f"{address}/stop")
    done = await anna.post(f"{address}/stop")

    assert f'hx-get="{address}"' in running.text
    assert f"aircall-oauth subscriptions stop-replay {partner.id} {address.rpartition('/')[2]}" in words(asked)
    assert "It was stopped: 0 of 4 events delivered." in words(done)
    assert [line["actor"] for line in await audited(service, "replay.stopped")] == ["person:anna"]


@pytest.mark.parametrize(
    ("asked", "field", "why"),
    [
        ({"since": "2026-01-01T00:00"}, "until", "Say until when."),
        ({"until": "2026-01-01T00:00"}, "since", "Say from when."),
        ({"since": "2026-01-02T00:00", "until": "2026-01-01T00:00"}, "until", "after the beginning"),
        ({"since": "yesterday", "until": "2026-01-01T00:00"}, "since", "Write a time such as"),
        (DAY | {"per_second": "0"}, "per_second", "from 1 to 1,000"),
        (DAY | {"per_second": "fast"}, "per_second", "from 1 to 1,000"),
        (DAY | {"types": "ä"}, "types", "“ä” is not right. Write event types"),
        (DAY | {"installations": "ins_1"}, "installations", "“ins_1” is neither a customer's id"),
        (
            DAY | {"installations": "70077 7"},
            "installations",
            "There is no customer of the company 7. If it is a call's",
        ),
        (DAY | {"installations": f"ins_{'0' * 32}"}, "installations", f"There is no customer ins_{'0' * 32}."),
    ],
)
async def test_a_window_that_is_not_right_is_said_beside_its_field(
    shared_console: Console, asked: dict[str, str], field: str, why: str
) -> None:
    partner = await subscribe(shared_console.service, AWAY)
    anna = await shared_console.visitor()
    address = f"/destinations/{partner.id}/replay"

    for page in (await anna.get(address, params={"per_second": "50"} | asked), await anna.post(address, data=asked)):
        assert page.status_code == 422
        found = re.search(rf'<p class="fault" id="e-{field}">([^<]*)</p>', page.text)
        assert found
        assert why in html.unescape(found[1])
        for name, value in asked.items():
            assert fields(page)[name] == value, "what was filled in is there again"
    assert await shared_console.service.sql("SELECT 1 FROM replay") == []


async def test_a_replay_is_for_customers_by_their_ids_or_their_companies(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = console.service
    await service.install(service.aircall.companies[1])
    await tell(service, 3)
    rows = await service.sql("SELECT id, company_id FROM installation ORDER BY id")
    partner = await subscribe(service, AWAY)
    anna = await console.visitor()
    address, everything = (
        f"/destinations/{partner.id}/replay",
        {"since": "2020-01-01T00:00", "until": "2999-01-01T00:00"},
    )
    counted = {}
    for name, named in {
        "ids": " ".join(row["id"] for row in rows),
        "companies": "70077\n70078",
        "one": "70077",
        "both": f"70077, {rows[0]['id']}",
    }.items():
        page = await anna.get(address, params=everything | {"installations": named})
        found = re.match(r".*?(\d+) events? of (\d+) customers? would be delivered", words(page))
        assert found, words(page)
        counted[name] = found.groups()
    started = await anna.post(address, data=everything | {"installations": "70077"})

    assert counted["ids"] == counted["companies"] != counted["one"] == counted["both"]
    assert counted["companies"][1] == "2"
    assert started.status_code == 303
    (row,) = await service.sql("SELECT installations FROM replay")
    assert row["installations"] == [rows[0]["id"]]
    await service.sql("UPDATE installation SET company_name = NULL, owner = 'acme' WHERE id = $1", rows[1]["id"])
    asked = everything | {"installations": "70077 70078", "types": "call.*", "per_second": "7"}
    checked = words(await anna.get(address, params=asked))
    assert (
        "Destination test Window received from 2020-01-01 00:00:00 until before 2999-01-01 00:00:00 UTC, 357573 d long "
        "Customers Northwind Demo Ltd , acme Owners all Types call.* Pace at most 7 a second"
    ) in checked
    owners = words(await anna.get(address, params=DAY | {"owners": "acme\nbeta inc"}))
    assert "UTC, 24 h long Customers all Owners acme, beta inc Types all Pace at most 50 a second" in owners
    monkeypatch.setattr(replays, "MOST_NAMED", 1)
    assert "Customers Northwind Demo Ltd and 1 more Owners" in words(await anna.get(address, params=asked))
    unknown = words(await anna.get(address, params=everything | {"owners": "acmee"}))
    assert "No customer belongs to the owner “acmee”, and the window has no event of it: is it misspelt?" in unknown


async def test_a_customers_page_leads_to_a_replay_of_its_events(console: Console) -> None:
    service = console.service
    (row,) = await service.sql("SELECT id FROM installation")
    anna = await console.visitor()
    address = f"/customers/{row['id']}"

    assert f'href="{address}/replay"' in (await anna.get(address)).text
    assert "There is no destination yet" in words(await anna.get(f"{address}/replay"))
    first = await subscribe(service, AWAY, name="crm")
    only = await anna.get(f"{address}/replay")
    assert only.headers["location"] == f"/destinations/{first.id}/replay?installations={row['id']}"
    second = await subscribe(service, AWAY, name="billing")
    choice = await anna.get(f"{address}/replay")
    for partner in (first, second):
        assert f'href="/destinations/{partner.id}/replay?installations={row["id"]}"' in choice.text

    blank = await anna.get(only.headers["location"])
    assert blank.status_code == 200
    assert fields(blank)["installations"] == row["id"]
    assert "they are counted first" in words(blank)
    assert (await anna.get(f"/customers/ins_{'0' * 32}/replay")).status_code == 404


async def test_who_may_only_look_sees_every_act_and_does_none(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY)
    await park(service, partner, dead=True)
    before = await partner.shown()
    ben = await console.visitor("ben", LOOKING)
    address = f"/destinations/{partner.id}"

    for act in ("test", "pause", "resume", "edit", "rotate-secret", "retry", "delete"):
        asked, refused = await ben.get(f"{address}/{act}"), await ben.post(f"{address}/{act}")
        assert "You may look here, but not act" in words(asked), act
        assert refused.status_code == 403, act
    counted = await ben.get(f"{address}/replay?since=2020-01-01T00:00&until=2999-01-01T00:00")
    assert "once more</button>" not in counted.text
    stable = ("status", "types", "dead", "position")
    assert [(await partner.shown())[name] for name in stable] == [before[name] for name in stable]


async def test_what_others_wrote_is_shown_escaped(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name=HOSTILE, owners=[HOSTILE], types=["<b>"])
    await service.sql("UPDATE subscription SET last_error = $1, last_error_at = now(), health = 'down'", HOSTILE)
    await park(service, partner, dead=True)
    anna = await console.visitor()
    address = f"/destinations/{partner.id}"
    paths = ["/destinations", address, *(f"{address}/{act}" for act in ("test", "edit", "replay", "delete"))]
    asked = {"since": "2020-01-01T00:00", "until": "2999-01-01T00:00", "owners": f"{HOSTILE}\nb"}

    pages = [await anna.get(path) for path in paths]
    pages.append(await anna.get(f"{address}/replay", params=asked))

    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<b>" not in page.text
        assert "\x1b" not in page.text
        assert "\u202e" not in page.text


@pytest.mark.parametrize("act", ["", "/test", "/edit", "/retry", "/replay", f"/replays/rpl_{'0' * 32}"])
async def test_a_destination_that_does_not_exist_has_a_page(shared_console: Console, act: str) -> None:
    anna = await shared_console.visitor()

    for name in (f"sub_{'0' * 32}", "sub_1"):
        page = await anna.get(f"/destinations/{name}{act}")
        assert page.status_code == 404
        assert "<nav" in page.text


async def test_an_unknown_parameter_and_a_database_that_is_away_have_pages(console: Console) -> None:
    anna = await console.visitor()
    assert (await anna.get("/destinations?curser=x")).status_code == 422
    async with console.service.database_away():
        page = await anna.get("/destinations")

    assert page.status_code == 503
    assert "The database can't be reached" in words(page)
