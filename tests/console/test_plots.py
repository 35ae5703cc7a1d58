"""Plots end with the last minute, draw nothing where nothing is known, and say what the day came to."""

import html
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from aircall_oauth.console import charts
from aircall_oauth.console.charts import Chart, Series
from aircall_oauth.deliveries import of_event, troubled
from aircall_oauth.operations import measure
from aircall_oauth.operations.figures import Keeper
from aircall_oauth.storage import figures
from aircall_oauth.storage.figures import Count
from aircall_oauth.telemetry.figures import ALL, Name
from tests.support.clocks import early_in_a_minute
from tests.support.consoles import Console, words
from tests.support.receivers import Partner, subscribe, tell
from tests.support.service import Service, run_service, settings_for

AWAY = "https://203.0.114.7/hook"
HOSTILE = 'x\x1b[31m\u202e"><script>'


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    await early_in_a_minute()
    async with run_service(settings_for(database_url)) as running:
        await running.installed()
        yield running


async def count(service: Service, name: Name, label: str, amounts: Sequence[int], minutes_ago: int) -> None:
    highest = name == Name.LAG
    counted = [Count(name, label, amounts, highest=highest)]
    await figures.add(service.resources.database, counted, ago=timedelta(minutes=minutes_ago))


async def park(service: Service, partner: Partner, count: int, minutes_ago: int) -> None:
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "due_at) SELECT $1, -n, now() - $3 * interval '1 minute', 'evt_' || n, 'ins_1', 1, 'http_501', now() "
        "FROM generate_series(1, $2) AS n",
        *(partner.id, count, minutes_ago),
    )


def plot(page: httpx.Response, title: str) -> str:
    figures: list[str] = re.findall(r"<figure.*?</figure>", page.text, re.DOTALL)
    (found,) = [one for one in figures if f"<strong>{title}<" in one]
    return found


def tips(figure: str) -> list[str]:
    return [html.unescape(tip) for tip in re.findall(r"<circle[^>]*><title>(.*?)</title>", figure)]


async def test_a_plot_has_the_last_minute_and_the_day_in_words_and_in_its_table(console: Console) -> None:
    service = console.service
    for minutes_ago, stored in ((600, 40), (1, 120)):
        await count(service, Name.ALIVE, "web", [1], minutes_ago)
        await count(service, Name.ACKS, "stored", [stored], minutes_ago)
    await count(service, Name.ACKS, "repeated", [7], 1)
    await count(service, Name.ACKS, "webhook_token_unknown", [2], 1)
    anna = await console.visitor()

    figure = plot(await anna.get("/"), "Events in")

    assert tips(figure)[-1].endswith("0.20 a minute, not taken")
    assert any(tip.endswith(": 12 a minute, stored") for tip in tips(figure))
    assert "In 24 hours: 160 events stored, 2 requests not taken." in figure
    assert '<th scope="row">24 hours, in all</th><td>160</td><td>2</td>' in figure


async def test_one_is_said_as_one(console: Console) -> None:
    service = console.service
    await count(service, Name.ALIVE, "web", [1], 1)
    for label in ("stored", "webhook_token_unknown"):
        await count(service, Name.ACKS, label, [1], 1)
    anna = await console.visitor()

    assert "In 24 hours: 1 event stored, 1 request not taken." in plot(await anna.get("/"), "Events in")


async def test_a_minute_alone_between_two_gaps_is_drawn_as_a_dot(console: Console) -> None:
    await count(console.service, Name.ALIVE, "web", [1], 600)
    await count(console.service, Name.ACKS, "stored", [40], 600)
    anna = await console.visitor()

    figure = plot(await anna.get("/"), "Events in")

    lines, dots = re.findall(r'<polyline[^>]*points="([^"]*)"', figure), re.findall(r'<circle class="dot[^>]*>', figure)
    assert [line for line in lines if " " not in line] == [], "a line through one point is not seen"
    assert len(dots) == 2, "one of the stored, one of those not taken"


async def test_where_no_process_was_alive_nothing_is_drawn(console: Console) -> None:
    service = console.service
    for minutes_ago in (180, 60, 50, 1):
        await count(service, Name.ALIVE, "web", [1], minutes_ago)
    await count(service, Name.ACKS, "stored", [40], 50)
    anna = await console.visitor()

    page = await anna.get("/")

    figure = plot(page, "Events in")
    assert len([tip for tip in tips(figure) if tip.endswith("stored")]) == 4
    assert figure.count("<polyline") + figure.count('class="dot') == 6, (
        "three pieces of each of two lines: a gap is not zero"
    )
    assert tips(plot(page, "Deliveries")) == [], "no worker was alive"


async def test_the_oldest_undelivered_event_is_the_same_in_plot_tile_and_words(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await tell(service, 12)
    await service.sql("UPDATE event SET received_at = now() - interval '2 minutes'")
    await park(service, partner, 7, minutes_ago=6)
    await service.sql("UPDATE subscription SET created_at = now() - interval '1 day'")
    await count(service, Name.ALIVE, "worker", [1], 1)
    await measure.measure(service.resources)
    keeper = Keeper(service.resources)
    keeper.take()
    await keeper.write()
    await service.sql("UPDATE figure SET at = at - interval '1 minute' WHERE step = 'minute'")
    anna = await console.visitor()

    page = await anna.get(f"/destinations/{partner.id}")

    said = words(page)
    assert "19 events wait (12 events in the log, 7 events tried again by schedule); the oldest for 6 min." in said
    assert "Waiting 19 12 events in the log, 7 events tried again by schedule" in said
    assert "Oldest undelivered 6 min" in said
    assert "Parked" not in said
    figure = plot(page, "Oldest undelivered")
    assert re.search(r"36\d seconds, at most", tips(figure)[-1])
    assert "In 24 hours: 6 min at most." in figure
    home = words(await anna.get("/"))
    assert "Oldest undelivered 6 min 12 deliveries wait in the log, 7 are tried again" in home
    listed = words(await anna.get("/destinations"))
    assert "19 events wait" in listed
    assert " 19 6 min" in listed


async def test_what_waits_for_a_paused_destination_is_in_its_plot_and_in_no_alarm(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await tell(service, 5)
    await service.sql("UPDATE event SET received_at = now() - interval '9 minutes'")
    await service.sql("UPDATE subscription SET created_at = now() - interval '1 day'")
    await partner.post("pause")
    await measure.measure(service.resources)
    keeper = Keeper(service.resources)
    keeper.take()
    await keeper.write()
    await count(service, Name.ALIVE, "worker", [1], 1)
    # Of one minute, though another may have begun meanwhile.
    await service.sql(
        "UPDATE figure SET at = date_trunc('minute', now()) - interval '2 minutes' "
        "WHERE step = 'minute' AND name IN ('lag', 'alive')"
    )
    anna = await console.visitor()

    figure = plot(await anna.get(f"/destinations/{partner.id}"), "Oldest undelivered")

    assert "In 24 hours: 9 min at most." in figure
    assert "In 24 hours no event waited." in plot(await anna.get("/"), "Oldest undelivered")


async def test_a_lag_that_an_earlier_version_wrote_is_drawn(console: Console) -> None:
    service = console.service
    await count(service, Name.ALIVE, "worker", [1], 5)
    await count(service, Name.LAG, ALL, [3, 240], 5)
    anna = await console.visitor()

    assert "In 24 hours: 4 min at most." in plot(await anna.get("/"), "Oldest undelivered")


async def test_a_new_destination_says_that_nothing_is_counted_yet(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm", types=["call.*"])
    await count(service, Name.ALIVE, "worker", [1], 600)
    anna = await console.visitor()

    page = await anna.get(f"/destinations/{partner.id}")
    assert "new It is new: nothing is counted yet." in words(page)
    assert "Wanted in 24 h – new, nothing counted yet" in words(page)
    assert tips(plot(page, "Deliveries")) == [], "before it was made nothing is known"
    assert "new It is new: nothing is counted yet. – – –" in words(await anna.get("/destinations"))

    await service.sql("UPDATE subscription SET created_at = now() - interval '3 hours'")
    said = words(await anna.get(f"/destinations/{partner.id}"))
    assert "It is up, but its filter has wanted no event since it was made, 3 h ago." in said
    await service.sql("UPDATE subscription SET created_at = now() - interval '3 days', types = '{}'")
    assert "well It is up; no event came in the last day." in words(await anna.get(f"/destinations/{partner.id}"))


async def test_a_destination_that_refuses_every_event_says_so_on_its_own_page(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await count(service, Name.DELIVERIES, partner.id, [900, 900, 0], 300)
    await park(service, partner, 5, minutes_ago=1)
    await service.sql(
        "INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds) "
        "SELECT $1, event_id, position, now(), 'http_501', 9 FROM parked",
        partner.id,
    )
    anna = await console.visitor()

    assert "refuses It is up, but refuses every event." in words(await anna.get(f"/destinations/{partner.id}"))
    assert "refuses It is up, but refuses every event." in words(await anna.get("/destinations"))


async def test_very_many_parked_events_are_counted_to_an_end(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await park(service, partner, 10_500, minutes_ago=3)
    anna = await console.visitor()

    said = words(await anna.get(f"/destinations/{partner.id}"))

    assert "10 000 events or more wait to be tried again; the oldest for 3 min." in said
    assert (await partner.shown())["parked"] == 10_000


def test_labels_of_charts_show_control_characters_as_escapes() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    chart = Chart(HOSTILE, HOSTILE, [at], [Series(HOSTILE, [1.0], total=1), Series("b", [None])], said=HOSTILE)

    drawn = [
        charts.draw(chart, UTC),
        charts.spark([1.0], HOSTILE),
        charts.heat([HOSTILE], [HOSTILE], [[1]], 4, HOSTILE),
    ]

    for one in drawn:
        assert "\\x1b[31m\\u202e" in one
        assert not set("\x1b\u202e") & set(one)
        assert "<script>" not in one


async def test_an_outage_is_dated_by_the_tries_of_its_destination_alone(console: Console) -> None:
    service = console.service
    await service.sql(
        "INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds) "
        "SELECT 'sub_' || n % 10, 'evt_' || n, n, now(), 'http_503', 1 FROM generate_series(1, 50000) AS n"
    )
    await service.sql("ANALYZE attempt")
    asked = troubled.FAILURES.replace("$1", "'sub_7'").replace("$2", str(troubled.MOST_TRIES))

    said = "\n".join(row[0] for row in await service.sql(f"EXPLAIN {asked}"))

    assert "using ix_attempt_subscription_id_id on attempt" in said
    assert "pk_attempt" not in said


async def test_the_pages_of_events_and_calls_read_what_is_parked_by_its_key_however_much_there_is(
    console: Console,
) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await tell(service, 1)
    await park(service, partner, 30_000, minutes_ago=3)
    await service.sql("ANALYZE parked")
    (event,) = await service.sql("SELECT id FROM event ORDER BY position DESC LIMIT 1")

    for statement, given in (
        (of_event.OF_EACH, [f"'{event['id']}'", "NULL"]),
        (of_event.UNTRIED, [f"ARRAY['{event['id']}']", "now() - interval '1 day'", "now()", "NULL", "2000"]),
        (of_event.STANDING, [f"ARRAY['{partner.id}']", "1"]),
    ):
        asked = statement
        for number, value in enumerate(given, 1):
            asked = asked.replace(f"${number}", value)
        said = "\n".join(row[0] for row in await service.sql(f"EXPLAIN {asked}"))
        assert "Seq Scan on parked" not in said
        assert "Index Scan using pk_parked on parked" in said
