"""The first page misses nothing that needs a person, and says of each since when, whom it touches and where to go."""

import asyncio
import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from aircall_oauth.deliveries import troubled
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.storage import figures
from aircall_oauth.storage.figures import Count
from aircall_oauth.telemetry.figures import ACK_SECONDS, ALL, Name
from tests.support.clocks import early_in_a_minute
from tests.support.consoles import Console, words
from tests.support.receivers import answer_with, fill, receiver, subscribe, tell
from tests.support.service import Service, until

AWAY = "https://203.0.114.7/hook"


@pytest.fixture
async def service(delivering: Service) -> Service:
    await early_in_a_minute()
    return delivering


async def unclaimed(service: Service, owner: str) -> None:
    """An install by a link that ends on our own page: its owner has not claimed it."""
    visitor = service.new_browser()
    departure = await visitor.get(await service.link(owner))
    state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    code = service.aircall.grant(service.aircall.companies[2], state=state)
    assert (await service.return_with(visitor, state=state, code=code)).status_code == 200


async def try_it(service: Service, subscription_id: str, outcome: str, minutes_ago: int) -> None:
    await service.sql(
        "INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds) "
        "VALUES ($1, 'evt_' || md5($2::int::text), 1, now() - $2::int * interval '1 minute', $3, 9)",
        *(subscription_id, minutes_ago, outcome),
    )


async def tries(service: Service) -> int:
    (row,) = await service.sql("SELECT count(*) AS tries FROM attempt")
    return int(row["tries"])


async def until_tried(service: Service, times: int) -> None:
    async with asyncio.timeout(20):
        while True:
            if await tries(service) >= times:
                return
            await asyncio.sleep(0.02)


async def count(service: Service, name: Name, label: str, amounts: list[int], minutes_ago: int) -> None:
    counted = [Count(name, label, amounts)]
    await figures.add(service.resources.database, counted, ago=timedelta(minutes=minutes_ago))


async def test_a_destination_that_refuses_every_event_is_named(console: Console) -> None:
    service = console.service
    async with receiver() as to:
        to.answer = answer_with(501)
        partner = await subscribe(service, to.url, name="crm")
        async with reading(service.resources):
            await tell(service, 5)
            await partner.stands(parked=5, health="up")
    anna = await console.visitor()

    page = await anna.get("/")

    assert "All well" not in words(page)
    said = "The destination answers, but refuses every event: crm . Its last failure: answered 501."
    assert said in words(page)
    assert re.search(r"Since \d{4}-\d\d-\d\d \d\d:\d\d , \d+ (s|min) ago", words(page))
    assert f'<a class="button" href="/destinations/{partner.id}">Open crm</a>' in page.text


async def test_one_event_that_is_refused_beside_others_that_are_taken_needs_no_one(console: Console) -> None:
    service = console.service
    async with receiver() as to:
        to.answers[2] = answer_with(501)
        partner = await subscribe(service, to.url, name="crm")
        async with reading(service.resources):
            await tell(service, 5)
            await partner.stands(parked=1, health="up")
            await until(lambda: len(to.taken) == 4)
    anna = await console.visitor()

    said = words(await anna.get("/"))
    assert "refuse" not in said
    assert partner.id not in said


async def test_a_destination_that_takes_few_of_many_is_a_warning(console: Console) -> None:
    partner = await subscribe(console.service, AWAY, name="crm")
    await console.service.sql("UPDATE subscription SET last_error = 'http_503'")
    await count(console.service, Name.DELIVERIES, partner.id, [30, 10_000, 0], 8 * 60)
    await count(console.service, Name.DELIVERIES, partner.id, [30, 20, 300], 2)
    anna = await console.visitor()

    said = words(await anna.get("/"))

    assert "More tries failed within the last hour (300) than events were taken (20) by crm ." in said
    assert "Its last failure: answered 503." in said


async def test_an_outage_is_dated_by_its_beginning_not_by_its_last_probe(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await service.sql("UPDATE subscription SET health = 'down', last_error = 'timeout', last_error_at = now()")
    for minutes_ago, outcome in ((200, "delivered"), (125, "timeout"), (60, "timeout"), (0, "timeout")):
        await try_it(service, partner.id, outcome, minutes_ago)
    anna = await console.visitor()

    assert "crm . Its last failure: no answer in time. Since" in words(await anna.get("/"))
    assert "2 h ago" in words(await anna.get("/"))


async def test_an_outage_keeps_its_beginning_however_often_it_is_resumed_in_vain(console: Console) -> None:
    service = console.service
    async with receiver() as to:
        partner = await subscribe(service, to.url, name="crm")
        async with reading(service.resources):
            await tell(service, 1)
            await partner.stands(lag=0)
            to.answer = answer_with(503)
            await tell(service, 15, first=1)
            await partner.stands(health="down")
            # It was counted in one minute with what was taken before.
            await count(service, Name.DELIVERIES, partner.id, [1, 1, 10], 180)
            await service.sql("UPDATE attempt SET at = at - interval '3 hours'")
            anna = await console.visitor()
            for _ in range(2):
                before = await tries(service)
                await anna.post(f"/destinations/{partner.id}/resume")
                await until_tried(service, before + 10)
                await partner.stands(health="down")
                await anna.post(f"/destinations/{partner.id}/test")
            await count(service, Name.DELIVERIES, partner.id, [0, 0, 30], 1)

            said = words(await anna.get("/"))

    assert re.search(r"The destination is down: crm . Its last failure: answered 503. Since [\d: -]+, 3 h ago", said)


async def test_the_beginning_is_known_where_the_newest_tries_have_all_failed(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(troubled, "MOST_TRIES", 20)
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await service.sql("UPDATE subscription SET health = 'down', last_error = 'timeout', last_error_at = now()")
    for minutes_ago in reversed(range(25)):
        await try_it(service, partner.id, "timeout", minutes_ago)
    anna = await console.visitor()
    assert "19 min ago" in words(await anna.get("/")), "at least since its newest tries"

    await count(service, Name.DELIVERIES, partner.id, [5, 5, 3], 31 * 60)
    for minutes_ago in (29 * 60, 60, 1):
        await count(service, Name.DELIVERIES, partner.id, [0, 0, 1], minutes_ago)
    assert "1 d ago" in words(await anna.get("/"))

    await count(service, Name.DELIVERIES, partner.id, [5, 5, 0], 70)
    assert re.search(r"60 min ago|1 h ago", words(await anna.get("/"))), "it took events in between"


async def test_the_beginning_is_known_beyond_the_minutes_that_are_kept(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await service.sql("UPDATE subscription SET health = 'down', last_error = 'timeout', last_error_at = now()")
    await try_it(service, partner.id, "timeout", 0)
    days = 24 * 60
    for ago, amounts in ((7 * days, [5, 5, 0]), (6 * days, [0, 0, 9]), (60, [0, 0, 1])):
        await count(service, Name.DELIVERIES, partner.id, amounts, ago)
    await service.sql("DELETE FROM figure WHERE step = 'minute' AND at < now() - interval '48 hours'")
    anna = await console.visitor()

    assert re.search(r"Since [\d: -]+, 6 d ago", words(await anna.get("/")))


async def test_a_worker_that_was_counted_and_is_not_any_more_is_missed_before_work_is_overdue(console: Console) -> None:
    await count(console.service, Name.ALIVE, "worker", [1], 2)
    anna = await console.visitor()
    assert "All well" in words(await anna.get("/"))
    await console.service.sql("UPDATE figure SET at = at - interval '10 minutes' WHERE step = 'minute'")

    page = await anna.get("/")

    assert "No worker runs: nothing is delivered to any destination" in words(page)
    assert re.search(r"Since [\d: -]+, 1[23] min ago", words(page))
    assert '<a class="button" href="/destinations">See what waits</a>' in page.text


async def test_what_a_figure_shows_as_bad_is_among_what_needs_a_person(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await tell(service, 3)
    await service.sql("UPDATE event SET received_at = now() - interval '6 minutes'")
    await service.sql("UPDATE subscription SET position = 0")
    await count(service, Name.ACK_SECONDS, ALL, [0] * len(ACK_SECONDS) + [7], 5)
    anna = await console.visitor()

    page = await anna.get("/")

    said = words(page)
    assert "2 things need you" in said
    assert "events of the log wait for a destination that is slower than they come: crm ." in said
    assert "6 min ago" in said
    assert "All customers' events are answered slowly: one in a hundred of the last hour took 5.0 s or more." in said
    assert f'href="/destinations/{partner.id}">Open crm' in page.text


async def test_what_waits_is_what_a_destination_wants(console: Console) -> None:
    service = console.service
    await tell(service, 3)
    await tell(service, 2, first=3, type_="user.created")
    await subscribe(service, AWAY, name="people", types=["user.*"])
    await subscribe(service, AWAY, name="texts", types=["message.*"])
    await service.sql("UPDATE subscription SET position = 0")
    await service.sql("UPDATE event SET received_at = now() - interval '6 minutes'")
    anna = await console.visitor()

    said = words(await anna.get("/"))

    assert "2 deliveries wait in the log, 0 are tried again" in said
    assert "2 events of the log wait for a destination that is slower than they come: people ." in said
    assert "texts" not in said


async def test_an_event_that_waits_for_two_destinations_is_two_deliveries(console: Console) -> None:
    service = console.service
    await tell(service, 1)
    first = await subscribe(service, AWAY, name="crm", types=["call.*"])
    await service.sql("UPDATE subscription SET position = 0")
    anna = await console.visitor()
    assert "1 delivery waits in the log, 0 are tried again" in words(await anna.get("/"))

    await subscribe(service, AWAY, name="billing", types=["call.*"])
    await service.sql("UPDATE subscription SET position = 0")
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "due_at) VALUES ($1, 1, now(), 'evt_1', 'ins_1', 1, 'http_422', now())",
        first.id,
    )

    assert "2 deliveries wait in the log, 1 is tried again" in words(await anna.get("/"))


async def test_a_destination_that_is_behind_and_fails_is_not_called_slow(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await tell(service, 3)
    await service.sql("UPDATE event SET received_at = now() - interval '6 minutes'")
    # It was resumed a moment ago: it is held to be up until it fails again.
    await service.sql("UPDATE subscription SET position = 0, last_error = 'http_503', last_error_at = now()")
    for minutes_ago in (5, 4):
        await try_it(service, partner.id, "http_503", minutes_ago)
    anna = await console.visitor()

    said = words(await anna.get("/"))

    assert "wait for a destination that did not take its newest try: crm . Its last failure: answered 503." in said
    assert "slower" not in said


async def test_of_very_many_that_wait_not_all_are_counted(console: Console) -> None:
    await fill(console.service, 1200)
    await subscribe(console.service, AWAY, name="crm")
    await console.service.sql("UPDATE subscription SET position = 0")
    anna = await console.visitor()

    assert "1\u202f000 or more deliveries wait in the log" in (await anna.get("/")).text


async def test_a_destination_that_delivers_again_is_well_before_that_is_counted(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await count(service, Name.DELIVERIES, partner.id, [30, 20, 300], 2)
    for minutes_ago, outcome in ((2, "timeout"), (1, "timeout"), (0, "delivered")):
        await try_it(service, partner.id, outcome, minutes_ago)
    anna = await console.visitor()

    assert "All well" in words(await anna.get("/"))
    assert "1 destination: it takes what it wants." in words(await anna.get("/destinations"))

    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "due_at) SELECT id, 1, now(), 'evt_1', 'ins_1', 1, 'http_422', now() FROM subscription"
    )
    assert "More tries failed within the last hour" in words(await anna.get("/")), "something waits, so it is not well"


async def test_unclaimed_and_unregistered_customers_are_counted_and_told_of(console: Console) -> None:
    service = console.service
    second = await service.install(service.aircall.companies[1])
    await unclaimed(service, "acme")
    await service.sql("UPDATE webhook SET status = 'pending' WHERE installation_id = $1", second)
    await service.sql("UPDATE installation SET connected_at = now() - interval '20 minutes'")
    anna = await console.visitor()

    page = await anna.get("/")

    said = words(page)
    assert "of 2 connected, 1 unclaimed" in said
    assert "Connected at Aircall, but not claimed by its owner, and erased an hour after:" in said
    assert "the webhook is still not registered at Aircall, so nothing comes, of Küstenlicht Demo GmbH ." in said
    assert said.count("20 min ago") == 2
    assert f'href="/customers/{second}/check"' in page.text


async def test_a_refused_token_is_dated_by_its_event_where_a_caller_met_the_refusal(console: Console) -> None:
    service = console.service
    installation = await service.install()
    await service.sql("UPDATE installation SET status = 'unauthorized' WHERE id = $1", installation)
    # Three hours ago may have been yesterday, which a log that began today has no place for.
    await service.sql(
        "CREATE TABLE event_before PARTITION OF event FOR VALUES FROM (MINVALUE) TO (date_trunc('day', now(), 'UTC'))"
    )
    await service.sql("UPDATE event SET received_at = now() - interval '3 hours', type = 'installation.unauthorized'")
    anna = await console.visitor()

    assert "3 h ago" in words(await anna.get("/"))


async def test_events_that_were_given_up_on_say_since_when(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "dead_at) SELECT $1, n, now(), 'evt_' || md5(n::text), 'ins_1', 12, 'http_500', now() - n * interval '1 hour' "
        "FROM generate_series(1, 5) AS n",
        partner.id,
    )
    anna = await console.visitor()

    assert re.search(
        r"5 events were given up on for crm . Its last failure: answered 500. Since [\d: -]+, 5 h ago",
        words(await anna.get("/")),
    )


async def test_very_many_destinations_that_are_down_are_counted_not_listed(console: Console) -> None:
    service = console.service
    await subscribe(service, AWAY, name="crm")
    await service.sql("""
        INSERT INTO subscription SELECT (jsonb_populate_record(subscription, jsonb_build_object(
            'id', 'sub_' || md5(n::text), 'name', 'copy ' || n, 'health', 'down',
            'last_error', CASE WHEN n % 3 = 0 THEN 'timeout' ELSE 'http_503' END))).*
        FROM subscription, generate_series(1, 40) AS n
    """)
    anna = await console.visitor()

    page = await anna.get("/")

    assert "6 things need you" in words(page)
    assert "and 32 more. Their last failures: answered 503, no answer in time." in words(page)
    assert '<a class="button" href="/destinations">See all destinations</a>' in page.text
