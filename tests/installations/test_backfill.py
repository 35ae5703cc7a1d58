"""Back-fill: what an installation could not receive is asked for afterwards, and is in the log once."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import asyncpg
import pytest

from aircall_oauth.aircall import calls
from aircall_oauth.errors import InvalidRequest
from aircall_oauth.events import retention
from aircall_oauth.installations.outages import backfill, gaps, heartbeat
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.sandbox.aircall import routes
from aircall_oauth.storage import locks
from aircall_oauth.storage.statuses import GapReason
from tests.support.processes import World, eventually, world
from tests.support.service import Service, run_command, run_service, settings_for

DAY = timedelta(days=1)
ENDED = "SELECT data, source, type, resource, occurred_at FROM event WHERE type = 'call.ended'"
PUT_OFF = "SELECT 1 FROM gap WHERE last_error IS NOT NULL AND done_at IS NULL"
MAKE_DUE = "UPDATE gap SET due_at = now() WHERE due_at IS NOT NULL"


def ago(length: timedelta) -> datetime:
    return datetime.now(UTC) - length


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def record(service: Service, count: int, *, since: datetime, until: datetime) -> list[int]:
    """Record calls at Aircall without sending their events."""
    return service.aircall.record_calls(count, since=since.timestamp(), until=until.timestamp())


async def gap_since(service: Service, installation_id: str, since: datetime) -> None:
    """The installation could not receive since then, until now; what it missed is due to be asked for."""
    async with service.resources.database.session() as session:
        await gaps.begin(session, installation_id, since=since, reason=GapReason.WEBHOOK_DISABLED)
        await gaps.end(session, installation_id)
    await service.sql(MAKE_DUE)


async def told(service: Service | World) -> Counter[int]:
    """How often the log tells of each call's end."""
    return Counter(json.loads(row["data"])["id"] for row in await service.sql(ENDED))


async def the_gap(service: Service | World) -> dict[str, Any]:
    (row,) = await service.sql("SELECT *, due_at - now() AS due_in FROM gap")
    return dict(row)


def asked(service: Service) -> list[str]:
    return [request.query for request in service.aircall.requests if request.path == "/v1/calls"]


async def test_what_was_missed_is_told_once_whoever_tells_it_first(service: Service) -> None:
    installation_id = await service.installed()
    missed = record(service, 120, since=ago(hours(6)), until=ago(hours(1)))
    before, late = missed[:10], missed[5:15]
    for call_id in before:
        service.aircall.tell_end(call_id, repeat=2)
    await service.aircall.settle()
    await gap_since(service, installation_id, ago(hours(6)))

    await backfill.fill_gaps(service.resources)
    for call_id in late:
        service.aircall.tell_end(call_id, repeat=2)
    await service.aircall.settle()

    assert await told(service) == Counter(missed)
    assert {delivery.status for delivery in service.aircall.deliveries} == {"delivered"}
    gap = await the_gap(service)
    assert (gap["found"], gap["added"], gap["due_at"]) == (120, 110, None)
    assert gap["done_at"] is not None


async def test_a_back_filled_event_carries_what_aircalls_list_said(service: Service) -> None:
    installation_id = await service.installed()
    await service.sql("UPDATE installation SET owner = 'acme'")
    (call_id,) = record(service, 1, since=ago(hours(2)), until=ago(hours(1)))
    await gap_since(service, installation_id, ago(hours(3)))

    await backfill.fill_gaps(service.resources)

    async with await service.partner() as partner:
        (event,) = (await partner.get("/v1/events", params={"type": "call.ended"})).json()["events"]
    listed = service.aircall.companies[0].calls[call_id]
    assert (event["source"], event["resource"], event["installation_id"]) == ("backfill", "call", installation_id)
    assert (event["owner"], event["company_id"]) == ("acme", 70077)
    assert datetime.fromisoformat(event["occurred_at"]).timestamp() == listed["ended_at"]
    assert event["data"] == listed


def test_a_listed_calls_text_is_kept_to_the_byte() -> None:
    first = '{ "id": 7,"note":"caf\\u00e9 \\ud83d", "n": 1.50e2, "ended_at": 1767261720 }'
    second = '{"id":12345678901234567890123, "ended_at": null}'
    body = f'{{"meta":{{"total": 2}}, "calls":[{first} , {second},{{"no":"id"}}]}}'

    page = calls.read_page(body.encode())

    assert [call.text for call in page.calls] == [first, second]
    assert [call.id for call in page.calls] == ["7", "12345678901234567890123"]
    assert [call.ended_at for call in page.calls] == [datetime(2026, 1, 1, 10, 2, tzinfo=UTC), None]
    assert calls.id_of(first) == 7


async def test_event_and_back_fill_at_the_same_moment_are_one(service: Service) -> None:
    installation_id = await service.installed()
    missed = record(service, 100, since=ago(hours(5)), until=ago(hours(1)))
    await gap_since(service, installation_id, ago(hours(5)))

    async def tell_all() -> None:
        for call_id in reversed(missed):
            service.aircall.tell_end(call_id)
            await asyncio.sleep(0)
        await service.aircall.settle()

    await asyncio.gather(backfill.fill_gaps(service.resources), tell_all())

    assert await told(service) == Counter(missed)


async def test_two_workers_fill_a_gap_once(service: Service) -> None:
    installation_id = await service.installed()
    missed = record(service, 120, since=ago(hours(5)), until=ago(hours(1)))
    await gap_since(service, installation_id, ago(hours(5)))

    await asyncio.gather(*(backfill.fill_gaps(service.resources) for _ in range(4)))

    assert await told(service) == Counter(missed)
    assert len(asked(service)) == 3


async def test_aircalls_own_events_are_never_dropped_for_each_other(service: Service) -> None:
    await service.installed()
    (call_id,) = record(service, 1, since=ago(hours(2)), until=ago(hours(1)))
    service.aircall.tell_end(call_id)
    await service.aircall.settle()
    service.aircall.companies[0].calls[call_id]["archived"] = True

    service.aircall.tell_end(call_id, repeat=2)
    await service.aircall.settle()

    assert await told(service) == Counter({call_id: 2})


@pytest.mark.parametrize(
    "data", ['{"id":%s}' % ("9" * 5000), '{"id":null}', '{"id":1.5}', '{"id":"\\ud83d"}', "[1]", "7"]
)
async def test_an_end_of_no_call_that_can_be_named_is_kept_all_the_same(service: Service, data: str) -> None:
    await service.installed()
    body = f'{{"event":"call.ended","token":"{service.webhook_token()}","data":{data}}}'

    answers = [await service.post_event(body.encode()) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [row["data"] for row in await service.sql(ENDED)] == [data]


async def test_only_calls_that_ended_in_the_gap_are_told(service: Service) -> None:
    installation_id = await service.installed()
    before = record(service, 3, since=ago(hours(5.5)), until=ago(hours(5)))
    going_on, just_ended, long_one, *rest = record(service, 8, since=ago(hours(3.5)), until=ago(hours(3)))
    listed = service.aircall.companies[0].calls
    listed[going_on]["ended_at"] = None
    listed[just_ended]["ended_at"] = int(ago(timedelta(seconds=20)).timestamp())
    listed[before[0]]["ended_at"] = int(ago(hours(1)).timestamp())
    listed[long_one]["ended_at"] = int(ago(hours(0.5)).timestamp())
    await gap_since(service, installation_id, ago(hours(4)))

    await backfill.fill_gaps(service.resources)

    assert await told(service) == Counter([before[0], long_one, *rest])


async def test_calls_of_numbers_that_are_not_linked_are_not_told(service: Service) -> None:
    installation_id = await service.installed()
    linked, foreign, without = record(service, 3, since=ago(hours(2)), until=ago(hours(1)))
    listed = service.aircall.companies[0].calls
    listed[foreign] = listed[foreign] | {"number": {"id": 55011}}
    listed[without] = listed[without] | {"number": None}
    await gap_since(service, installation_id, ago(hours(3)))

    await backfill.fill_gaps(service.resources)

    assert await told(service) == Counter([linked, without])


async def test_where_ends_of_calls_are_not_wanted_nobody_asks_for_them(database_url: str) -> None:
    async with run_service(settings_for(database_url, WEBHOOK_EVENTS="call.created")) as service:
        await gap_since(service, await service.installed(), ago(hours(4)))

        await backfill.fill_gaps(service.resources)

        assert asked(service) == []


@pytest.mark.slow
async def test_a_window_with_more_calls_than_aircall_lists_is_split(database_url: str) -> None:
    async with run_service(settings_for(database_url, AIRCALL_RATE_PER_MINUTE="100000")) as service:
        service.aircall.habits.rate_per_minute = 100_000
        installation_id = await service.installed()
        missed = record(service, 10_150, since=ago(hours(23)), until=ago(hours(1)))
        listed = service.aircall.companies[0].calls
        for call_id, call in listed.items():
            listed[call_id] = {name: call[name] for name in ("id", "started_at", "ended_at")}
        await gap_since(service, installation_id, ago(DAY))

        await backfill.fill_gaps(service.resources)

        assert await told(service) == Counter(missed)
        gap = await the_gap(service)
        assert gap["added"] == len(missed)
        assert gap["done_at"] is not None


async def test_no_page_past_aircalls_bound_is_asked_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """More calls in one second than Aircall lists: what it lists is told, and the rest of the gap is filled."""
    monkeypatch.setattr(calls, "MOST_LISTED", 100)
    monkeypatch.setattr(routes, "CALLS_BOUND", 100)
    installation_id = await service.installed()
    second = ago(hours(3)).replace(microsecond=0)
    crowded = record(service, 150, since=second, until=second + timedelta(milliseconds=1))
    later = record(service, 3, since=ago(hours(2)), until=ago(hours(1)))
    await gap_since(service, installation_id, ago(hours(4)))

    await filled_in_the_end(service)

    pages = [int(parse_qs(query)["page"][0]) for query in asked(service)]
    assert max(pages) == 2
    assert Counter(later) == Counter({call_id: n for call_id, n in (await told(service)).items() if call_id in later})
    assert len([call_id for call_id in await told(service) if call_id in crowded]) >= 100
    assert (await the_gap(service))["done_at"] is not None


async def filled_in_the_end(service: Service) -> None:
    """Aircall's minute past, as often as the budget needs it."""
    service.aircall.habits.rate_per_minute = 100_000
    for _ in range(20):
        await service.sql(MAKE_DUE)
        await service.sql("DELETE FROM budget")
        await backfill.fill_gaps(service.resources)
        if (await the_gap(service))["done_at"] is not None:
            return


async def test_chores_share_of_the_budget_spent_it_is_put_off_and_goes_on_where_it_was(database_url: str) -> None:
    async with run_service(settings_for(database_url, AIRCALL_RATE_PER_MINUTE="8")) as service:
        installation_id = await service.installed()
        missed = record(service, 300, since=ago(hours(6)), until=ago(hours(1)))
        await gap_since(service, installation_id, ago(hours(7)))
        await service.sql("DELETE FROM budget")

        await backfill.fill_gaps(service.resources)
        put_off = await the_gap(service)
        await backfill.fill_gaps(service.resources)
        asked_in_vain = len(asked(service)) - 3
        await service.sql(MAKE_DUE)
        await service.sql("DELETE FROM budget")
        await backfill.fill_gaps(service.resources)

    assert (put_off["page"], put_off["added"], put_off["done_at"]) == (4, 150, None)
    assert timedelta(0) < put_off["due_in"] <= timedelta(seconds=64)
    assert "budget" in put_off["last_error"]
    assert asked_in_vain == 0
    assert await _told_in(database_url) == Counter(missed)
    assert len(asked(service)) == 6


async def _told_in(database_url: str) -> Counter[int]:
    connection = await asyncpg.connect(database_url)
    try:
        return Counter(json.loads(row["data"])["id"] for row in await connection.fetch(ENDED))
    finally:
        await connection.close()


async def test_a_window_named_by_hand_and_cut_short_is_finished_by_the_worker(service: Service) -> None:
    installation_id = await service.installed()
    missed = record(service, 220, since=ago(hours(6)), until=ago(hours(1)))
    steps = backfill.by_hand(service.resources, installation_id, since=ago(hours(8)))
    shares = [(await anext(steps)).share for _ in range(3)]
    await steps.aclose()

    await service.sql(MAKE_DUE)
    await backfill.fill_gaps(service.resources)
    again = [step async for step in backfill.by_hand(service.resources, installation_id, since=ago(hours(8)))]

    assert shares == sorted(shares)
    assert 0 < shares[-1] < 1 == again[-1].share
    assert (again[-1].gap.found, again[-1].gap.added) == (220, 0)
    assert await told(service) == Counter(missed)


async def test_a_window_that_the_log_has_dropped_is_refused(service: Service) -> None:
    installation_id = await service.installed()

    with pytest.raises(InvalidRequest):
        await anext(backfill.by_hand(service.resources, installation_id, since=ago(31 * DAY)))
    with pytest.raises(InvalidRequest):
        await anext(backfill.by_hand(service.resources, installation_id, since=ago(-DAY)))

    assert await service.sql("SELECT * FROM gap") == []


async def test_an_aircall_that_is_away_is_asked_again_a_minute_later(service: Service) -> None:
    installation_id = await service.installed()
    missed = record(service, 60, since=ago(hours(3)), until=ago(hours(1)))
    await gap_since(service, installation_id, ago(hours(4)))
    service.aircall.break_next("calls", "error_500")

    await backfill.fill_gaps(service.resources)
    put_off = await the_gap(service)
    await service.sql(MAKE_DUE)
    await backfill.fill_gaps(service.resources)

    assert put_off["due_in"] > timedelta(seconds=30)
    assert put_off["last_error"]
    assert await told(service) == Counter(missed)
    assert (await the_gap(service))["last_error"] is None


async def test_a_dead_token_found_by_the_back_fill_is_told(service: Service) -> None:
    installation_id = await service.installed()
    await gap_since(service, installation_id, ago(hours(4)))
    service.aircall.grants.revoke_company(70077)

    await backfill.fill_gaps(service.resources)
    await service.sql(MAKE_DUE)
    before = len(asked(service))
    await backfill.fill_gaps(service.resources)

    (installation,) = await service.sql("SELECT status FROM installation")
    assert installation["status"] == "unauthorized"
    assert len(asked(service)) == before == 0


async def test_it_can_be_switched_off(database_url: str) -> None:
    async with run_service(settings_for(database_url, BACKFILL="false")) as service:
        installation_id = await service.installed()
        await gap_since(service, installation_id, ago(hours(4)))

        await backfill.fill_gaps(service.resources)

        assert asked(service) == []
        assert (await the_gap(service))["done_at"] is None


async def test_an_installation_has_one_open_gap_however_often_it_begins(service: Service) -> None:
    installation_id = await service.installed()
    first, second = ago(hours(4)), ago(hours(2))

    for since in (first, second):
        async with service.resources.database.session() as session:
            await gaps.begin(session, installation_id, since=since, reason=GapReason.WEBHOOK_DISABLED)
    opened = await the_gap(service)
    for _ in range(2):
        async with service.resources.database.session() as session:
            await gaps.end(session, installation_id)
    closed = await the_gap(service)

    assert (opened["since"], opened["until"], opened["due_at"]) == (first, None, None)
    assert closed["until"] is not None
    assert closed["due_in"] > timedelta(minutes=5), "late events come first"


async def test_who_leaves_takes_his_gaps_with_him(service: Service) -> None:
    installation_id = await service.installed()
    await gap_since(service, installation_id, ago(hours(4)))

    async with await service.partner() as partner:
        assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204

    assert await service.sql("SELECT * FROM gap") == []


async def test_the_first_pulse_and_a_short_pause_record_nothing(service: Service) -> None:
    await service.installed()
    await service.sql("DELETE FROM pulse")
    await heartbeat.beat(service.resources)
    await service.sql("UPDATE pulse SET at = now() - interval '100 seconds'")

    await heartbeat.beat(service.resources)

    assert await service.sql("SELECT * FROM gap") == []


async def test_after_an_outage_every_installation_has_its_gap_once(service: Service) -> None:
    for company in (70077, 70078, 70079):
        await service.install(company)
    (removed, covered, _) = [row["id"] for row in await service.sql("SELECT id FROM installation ORDER BY id")]
    async with await service.partner() as partner:
        await partner.delete(f"/v1/installations/{removed}")
    async with service.resources.database.session() as session:
        await gaps.begin(session, covered, since=ago(2 * DAY), reason=GapReason.WEBHOOK_MISSING)
    await service.sql("UPDATE pulse SET at = now() - interval '1 day'")

    await asyncio.gather(*(heartbeat.beat(service.resources) for _ in range(5)))

    rows = await service.sql("SELECT reason, until - since AS length, due_at > until AS later FROM gap ORDER BY reason")
    away, missing = rows
    assert (away["reason"], away["later"]) == ("service_away", True)
    assert abs(away["length"] - DAY) < timedelta(minutes=1)
    assert (missing["reason"], missing["length"]) == ("webhook_missing", None)


async def test_calls_are_recognised_as_long_as_the_log_has_them(service: Service) -> None:
    await service.installed()
    for call_id in record(service, 2, since=ago(hours(2)), until=ago(hours(1))):
        service.aircall.tell_end(call_id)
    await service.aircall.settle()
    old = "UPDATE told_call SET received_at = now() - interval '31 days'"

    await service.sql(old)
    await retention.forget_fingerprints(service.resources)
    as_long_as_events = len(await service.sql("SELECT 1 FROM told_call"))
    await service.sql(f"{old} - interval '2 days' WHERE fingerprint = (SELECT max(fingerprint) FROM told_call)")
    await retention.forget_fingerprints(service.resources)

    assert as_long_as_events == 2
    assert len(await service.sql("SELECT 1 FROM told_call")) == 1


async def test_after_twelve_hours_with_the_webhook_off_it_is_live_and_the_log_lacks_nothing(service: Service) -> None:
    installation_id = await service.installed()
    (hook,) = service.aircall.webhooks.of(70077)
    hook.switch(active=False)
    missed = record(service, 130, since=ago(hours(11.9)), until=ago(hours(0.2)))
    for call_id in missed:
        service.aircall.tell_end(call_id)
    # Twelve hours go by without the webhook being reconciled.
    back = "interval '12 hours'"
    await service.sql(f"UPDATE webhook SET checked_at = checked_at - {back}, due_at = due_at - {back}")
    told_meanwhile = await told(service)

    await schedule.reconcile_webhooks(service.resources)
    during = await the_gap(service)
    live = await service.aircall.place_call()
    for call_id in missed[::20]:
        service.aircall.tell_end(call_id, repeat=2)
    await service.aircall.settle()
    await service.sql(MAKE_DUE)
    await backfill.fill_gaps(service.resources)
    await schedule.reconcile_webhooks(service.resources)

    assert told_meanwhile == Counter()
    assert hook.active is True
    assert (during["reason"], during["done_at"]) == ("webhook_disabled", None)
    assert abs(during["until"] - during["since"] - hours(12)) < timedelta(minutes=2)
    assert await told(service) == Counter([*missed, live])
    assert len(asked(service)) == 3
    gap = await the_gap(service)
    assert (gap["added"], gap["due_at"], gap["done_at"] is None) == (130 - len(missed[::20]), None, False)
    async with await service.partner() as partner:
        shown = (await partner.get(f"/v1/installations/{installation_id}")).json()
        about_it = (await partner.get("/v1/events", params={"type": "webhook.*"})).json()["events"]
    assert (shown["status"], shown["webhook"]["status"]) == ("active", "active")
    assert [event["type"] for event in about_it] == ["webhook.disabled", "webhook.restored"]


async def installed(it: World) -> str:
    answer = await it.browser.get(await it.consent())
    assert answer.status_code == 303
    (row,) = await it.sql("SELECT id FROM installation")
    installation_id: str = row["id"]
    return installation_id


@pytest.mark.slow
async def test_the_ledger_of_a_days_outage(tmp_path: Path, database_url: str) -> None:
    """500 calls while we were away; some are told late and more than once, and the worker is killed in the middle."""
    async with world(tmp_path, database_url, AIRCALL_RATE_PER_MINUTE="14") as it:
        service = await it.start_service()
        installation_id = await installed(it)
        await eventually(lambda: it.sql("SELECT 1 FROM pulse"))
        await service.kill()
        await it.sql("UPDATE pulse SET at = now() - interval '24 hours'")
        window = {"since": ago(hours(23.5)).timestamp(), "until": ago(hours(0.2)).timestamp()}
        missed = (await it.control("record-calls", count=500, **window))["call_ids"]
        await it.start_service()
        await eventually(lambda: it.sql("SELECT 1 FROM gap WHERE reason = 'service_away'"))
        for call_id in missed[::50]:
            await it.control("tell-end", call_id=call_id, repeat=2)
        await eventually(lambda: it.sql("SELECT 1 FROM event WHERE type = 'call.ended' HAVING count(*) = 10"))

        # As much as the budget allows a chore, then killed in the middle of keeping a page.
        worker = await it.run("work")
        await more_budget(it)
        await eventually(lambda: it.sql(PUT_OFF), 30)
        before = await the_gap(it)
        holder = await asyncpg.connect(it.database_url)
        await holder.execute(f"SELECT pg_advisory_lock({locks.LOG})")
        await more_budget(it)
        await eventually(lambda: it.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), 30)
        await worker.kill()
        half_done = await the_gap(it)
        await holder.close()

        await it.run("work")
        for call_id in missed[25::50]:
            await it.control("tell-end", call_id=call_id, repeat=3)
        await more_budget(it)
        await eventually(lambda: filled(it), 60)
        await eventually(lambda: all_delivered(it), 30)

        assert 1 < half_done["page"] == before["page"]
        assert half_done["added"] == before["added"]
        assert await told(it) == Counter(missed)
        sources = Counter(row["source"] for row in await it.sql(ENDED))
        assert sources["backfill"] >= 480
        await it.sql("DELETE FROM budget")
        options = ("--installation", installation_id, "--from", f"{ago(hours(20)):%Y-%m-%dT%H:%MZ}")
        by_hand = await run_command(
            "backfill", *options, "--to", f"{ago(hours(18)):%Y-%m-%dT%H:%M}", environment=it.environment
        )
        listed = await run_command("backfill", "list", environment=it.environment)

    (said,) = by_hand.stderr.splitlines()
    assert by_hand.exit_code == 0, said
    assert said.endswith(" calls found, 0 of them added.")
    assert await _told_in(database_url) == Counter(missed)
    assert [line.split()[6] for line in listed.stdout.splitlines()[1:]] == ["100%", "100%"]


async def all_delivered(it: World) -> bool:
    rows = (await it.aircall.get("/control/deliveries")).json()["deliveries"]
    return {row["status"] for row in rows} == {"delivered"}


async def filled(it: World) -> bool:
    """Whether the gap is filled; a minute goes by where its filling waits for one."""
    if await it.sql(PUT_OFF):
        await more_budget(it)
    return bool(await it.sql("SELECT 1 FROM gap WHERE done_at IS NOT NULL"))


async def more_budget(it: World) -> None:
    """A minute goes by."""
    await it.sql("DELETE FROM budget")
    await it.sql(MAKE_DUE)
