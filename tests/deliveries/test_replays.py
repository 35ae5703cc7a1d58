"""Replays: a bounded window of the log delivered once more, counted first, beside the live reader."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import text

from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.deliveries.replays import jobs, runner
from aircall_oauth.deliveries.replays.runner import replaying
from tests.support.forked import fork
from tests.support.processes import eventually
from tests.support.receivers import (
    LOOPBACK,
    Partner,
    Received,
    Receiver,
    answer_with,
    fill,
    receiver,
    subscribe,
    subscription_body,
    tell,
    verify,
)
from tests.support.service import Service, run_service, settings_for, until


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine, with an installation."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        await running.installed()
        yield running


async def replay(partner: Partner, **body: Any) -> Any:
    return await partner.client.post(f"/v1/subscriptions/{partner.id}/replay", json=body)


async def ended(partner: Partner, replay_id: str) -> dict[str, Any]:
    """The replay, once it is no longer under way."""
    async with asyncio.timeout(30):
        while True:
            shown: dict[str, Any] = (
                await partner.client.get(f"/v1/subscriptions/{partner.id}/replays/{replay_id}")
            ).json()
            if shown["status"] != "running":
                return shown
            await asyncio.sleep(0.02)


async def test_a_window_is_delivered_once_more_and_the_live_position_stays(service: Service) -> None:
    async with receiver() as to, reading(service.resources), replaying(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 5)
        before = await partner.stands(lag=0)
        await until(lambda: len(to.received) == 5)
        to.received.clear()

        last = before["position"] - 1
        answer = await replay(partner, **{"from": last - 2, "to": last}, everything=True)
        started = answer.json()
        done = await ended(partner, started["id"])

    assert answer.status_code == 202
    assert (started["events"], started["customers"], started["status"]) == (3, 1, "running")
    assert (done["status"], done["delivered"], done["failed"]) == ("done", 3, 0)
    assert sorted(received.event["data"]["n"] for received in to.received) == [1, 2, 3]
    assert {received.headers["webhook-replay"] for received in to.received} == {started["id"]}
    assert partner.secret is not None
    assert all(verify(received, partner.secret) for received in to.received)
    assert (await partner.shown())["position"] == before["position"]
    assert sum(attempt["replay_id"] == started["id"] for attempt in await partner.attempts()) == 3


async def test_a_dry_run_counts_and_starts_nothing(service: Service) -> None:
    other = await service.install(service.aircall.companies[1])
    partner = await subscribe(service, "https://203.0.114.7/hook", **{"from": "beginning"}, types=["call.*"])
    await tell(service, 4)
    await tell(service, 2, type_="user.created")
    since = datetime.now(UTC) - timedelta(hours=1)
    window = {"since": since.isoformat(), "until": (since + timedelta(hours=2)).isoformat(), "dry_run": True}

    everything = await replay(partner, **window, everything=True)
    narrow = await replay(partner, **window, types=["call.created", "user.*"])
    of_another = await replay(partner, **window, installations=[other])
    later = await replay(
        partner, since="2020-01-01T00:00:00Z", until="2020-01-02T00:00:00Z", everything=True, dry_run=True
    )

    counted = [(each.status_code, each.json()["events"], each.json()["customers"]) for each in (everything, narrow)]
    assert counted == [(200, 4, 1), (200, 4, 1)]
    assert (of_another.json()["events"], later.json()["events"]) == (0, 0)
    assert (await partner.client.get(f"/v1/subscriptions/{partner.id}/replays")).json()["items"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}, "everything"),
        ({"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "types": []}, "everything"),
        ({"from": 1, "to": 2, "types": ["call.*"], "everything": True}, "everything"),
        ({"since": "2026-01-01T00:00:00Z", "types": ["call.*"]}, "needs an end"),
        ({"until": "2026-01-01T00:00:00Z", "types": ["call.*"]}, "needs a beginning"),
        ({"to": 5, "types": ["call.*"]}, "needs a beginning"),
        ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z", "everything": True}, "before"),
        ({"from": 5, "to": 4, "everything": True}, "past"),
        ({"since": 1767225600, "until": "2026-01-01T00:00:00Z", "everything": True}, "written out"),
        ({"from": 1, "to": 2, "everything": True, "per_second": 0}, "per_second"),
        ({"from": 1, "to": 2, "everything": True, "unknown": 1}, "not known"),
        ({"dry_run": True}, "needs a beginning"),
        ({}, "needs a beginning"),
    ],
)
async def test_what_is_not_bounded_and_named_is_refused(
    shared_service: Service, body: dict[str, Any], why: str
) -> None:
    partner = await subscribe(shared_service, "https://203.0.114.7/hook")

    answer = await replay(partner, **body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert why in answer.json()["detail"]
    assert await shared_service.sql("SELECT 1 FROM replay") == []


async def test_one_event_that_fails_is_given_up_once_others_arrive(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PAUSES_SECONDS", (0.01,))
    async with receiver() as to, replaying(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        to.answers[1] = answer_with(500)

        started = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"])).json()
        done = await ended(partner, started["id"])

    assert (done["status"], done["delivered"], done["failed"], done["last_error"]) == ("done", 2, 1, "http_500")
    assert sum(received.event["data"]["n"] == 1 for received in to.received) >= runner.TRIES


async def test_a_destination_that_is_down_is_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PAUSES_SECONDS", (0.01,))
    async with receiver() as to, replaying(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        to.answer = answer_with(503)

        started = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"])).json()
        await until(lambda: len(to.received) > 10 * runner.TRIES)
        to.answer = answer_with(200)
        done = await ended(partner, started["id"])

    assert (done["status"], done["delivered"], done["failed"]) == ("done", 3, 0)


async def test_a_destination_that_wants_no_more_ends_it(service: Service) -> None:
    async with receiver() as to, replaying(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        to.answer = answer_with(410)

        started = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"])).json()
        failed = await ended(partner, started["id"])

    assert (failed["status"], failed["last_error"]) == ("failed", "http_410")
    assert failed["ended_at"] is not None


async def test_it_waits_while_the_subscription_is_paused_and_can_be_stopped(service: Service) -> None:
    async with receiver() as to, replaying(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        await partner.post("pause")
        started = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"])).json()
        await until_claimed(service)
        door = f"/v1/subscriptions/{partner.id}/replays/{started['id']}"

        stopped = await partner.client.post(f"{door}/stop")
        again = await partner.client.post(f"{door}/stop")
        await partner.post("resume")
        other = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"])).json()
        await ended(partner, other["id"])

    assert stopped.json()["status"] == again.json()["status"] == "stopped"
    assert {received.headers["webhook-replay"] for received in to.received} == {other["id"]}
    listed = (await partner.client.get(f"/v1/subscriptions/{partner.id}/replays", params={"limit": 1})).json()
    rest = await partner.client.get(f"/v1/subscriptions/{partner.id}/replays", params={"cursor": listed["next"]})
    assert [each["id"] for each in (*listed["items"], *rest.json()["items"])] == [other["id"], started["id"]]


async def until_claimed(service: Service) -> None:
    assert await eventually(partial(service.sql, "SELECT 1 FROM replay WHERE lease_number > 0"), 10)


@pytest.mark.slow
async def test_killed_twice_it_goes_on_and_every_event_arrives(service: Service) -> None:
    async with receiver() as to:
        partner = await subscribe(service, to.url)
        await fill(service, 1000)
        before = await partner.shown()
        started = (await replay(partner, **{"from": 1, "to": 2000}, types=["call.*"], per_second=500)).json()
        url = service.settings.database_url.get_secret_value()
        for share in (0.3, 0.6):
            worker = fork(_replay_in, url)
            await until(partial(has_got, to, share * 1000), 30)
            worker.kill()
            worker.join()
            await service.sql("UPDATE replay SET lease_until = now()")
        async with replaying(service.resources):
            done = await ended(partner, started["id"])

    assert started["events"] == 1000
    assert set(to.numbers) == set(range(1000))
    assert len(to.numbers) < 1000 + 3 * 64 + 1
    assert (done["status"], done["delivered"], done["failed"]) == ("done", 1000, 0)
    assert (await partner.shown())["position"] == before["position"]


def has_got(to: Receiver, count: float) -> bool:
    return len(set(to.numbers)) > count


def _replay_in(database_url: str) -> None:
    """A worker's part that carries out replays, until it is killed."""

    async def run() -> None:
        async with (
            run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running,
            replaying(running.resources),
        ):
            await asyncio.Event().wait()

    asyncio.run(run())


async def test_two_workers_carry_one_replay_out_once(service: Service) -> None:
    async with receiver() as to, replaying(service.resources), replaying(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 20)

        started = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"], per_second=1000)).json()
        await ended(partner, started["id"])

    assert sorted(to.numbers) == list(range(20))


async def test_events_of_an_installation_keep_their_order_where_that_is_asked_for(service: Service) -> None:
    async with receiver() as to, replaying(service.resources):
        partner = await subscribe(service, to.url, order="installation")
        await tell(service, 20)

        started = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"], per_second=1000)).json()
        await ended(partner, started["id"])

    assert to.numbers == list(range(20))


async def test_events_about_the_same_call_keep_their_order_and_other_calls_go_on(service: Service) -> None:
    blocked: list[int] = []

    async def answer(received: Received) -> web.Response:
        """The first event of each call is slow, and that of one call fails once too."""
        number = received.event["data"]["n"]
        if number < 5:
            await asyncio.sleep(0.05)
        if number == 0 and not blocked:
            blocked.append(number)
            return web.Response(status=500)
        return web.Response()

    async with receiver() as to, replaying(service.resources):
        to.answer = answer
        partner = await subscribe(service, to.url)
        await fill(service, 50, calls=5)

        started = (await replay(partner, **{"from": 1, "to": 100}, types=["call.*"], per_second=1000)).json()
        await ended(partner, started["id"])

    of_call = {call: [n for n in to.numbers if n % 5 == call] for call in range(5)}
    assert of_call == {call: list(range(call, 50, 5)) for call in range(5)}
    assert to.numbers[-10:] == list(range(0, 50, 5)), "only the call that failed waited"


async def test_a_key_bound_to_an_owner_replays_its_own_only(service: Service) -> None:
    await service.sql("UPDATE installation SET owner = 'acme'")
    partner = await subscribe(service, "https://203.0.114.7/hook")
    bound = await service.partner(owner="acme")
    own = (await bound.post("/v1/subscriptions", json=subscription_body("https://203.0.114.7/", name="x"))).json()
    body = {"from": 1, "to": 5, "everything": True}

    started = (await replay(partner, **body)).json()
    others = await bound.post(f"/v1/subscriptions/{partner.id}/replay", json=body)
    seen = await bound.get(f"/v1/subscriptions/{partner.id}/replays/{started['id']}")
    mixed_up = await bound.get(f"/v1/subscriptions/{own['id']}/replays/{started['id']}")
    for_another = await bound.post(
        f"/v1/subscriptions/{own['id']}/replay", json={"from": 1, "to": 5, "owners": ["other"]}
    )

    assert [each.json()["code"] for each in (others, seen, mixed_up, for_another)] == [
        "subscription_not_found",
        "subscription_not_found",
        "replay_not_found",
        "owner_not_allowed",
    ]


async def test_only_so_many_replays_of_a_subscription_wait(service: Service) -> None:
    partner = await subscribe(service, "https://203.0.114.7/hook")
    body = {"from": 1, "to": 5, "everything": True}
    for _ in range(jobs.MOST_UNDER_WAY):
        assert (await replay(partner, **body)).status_code == 202

    refused = await replay(partner, **body)

    assert (refused.status_code, "10 replays under way" in refused.json()["detail"]) == (422, True)


async def test_the_newest_replays_are_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FORGET", text(str(jobs.FORGET).replace("OFFSET 500", "OFFSET 2")))
    partner = await subscribe(service, "https://203.0.114.7/hook")
    ids = []
    for _ in range(4):
        started = (await replay(partner, **{"from": 0, "to": 5}, everything=True)).json()
        ids.append(started["id"])
        await partner.client.post(f"/v1/subscriptions/{partner.id}/replays/{started['id']}/stop")

    listed = (await partner.client.get(f"/v1/subscriptions/{partner.id}/replays")).json()["items"]

    assert [each["id"] for each in listed] == ids[:1:-1]


async def test_one_event_is_sent_again(service: Service) -> None:
    async with receiver() as to:
        partner = await subscribe(service, to.url, types=["user.*"])
        await tell(service, 2)
        before = await partner.shown()
        page = (await partner.client.get("/v1/events", params={"type": "call.*"})).json()
        event_id = page["events"][1]["id"]

        sent = await partner.client.post(f"/v1/events/{event_id}/resend", json={"subscription_id": partner.id})
        to.answer = answer_with(500)
        failed = await partner.client.post(f"/v1/events/{event_id}/resend", json={"subscription_id": partner.id})
        unknown = await partner.client.post(f"/v1/events/evt_{'0' * 32}/resend", json={"subscription_id": partner.id})

    assert sent.json() | {"milliseconds": 0} == {"delivered": True, "outcome": "delivered", "milliseconds": 0}
    assert failed.json()["outcome"] == "http_500"
    assert unknown.json()["code"] == "event_not_found"
    assert [received.event["data"]["n"] for received in to.received] == [1, 1]
    assert to.received[0].headers["webhook-replay"] == "resend"
    assert await partner.shown() == before
    assert [attempt["replay_id"] for attempt in await partner.attempts()] == ["resend", "resend"]
