"""Events are delivered: signed, complete, once each, and by the holder of the lease."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from standardwebhooks.webhooks import WebhookVerificationError

from aircall_oauth.deliveries import retention
from aircall_oauth.deliveries.reader import progress, sender
from aircall_oauth.deliveries.reader.supervisor import reading
from tests.support.processes import eventually
from tests.support.receivers import LOOPBACK, Received, answer_with, fill, receiver, subscribe, tell, verify
from tests.support.service import Service, run_service, settings_for, until


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


async def test_an_event_is_delivered_signed_and_to_the_byte(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        data = b'{"n": 1, \t"big": 12345678901234567890, "e": 1.50e3, "u": "\\u00e9\xc3\xa9"}'
        body = b'{"event": "call.created", "token": "%s", "data": %s}' % (service.webhook_token().encode(), data)
        assert (await service.post_event(body)).status_code == 200
        await until(lambda: len(to.received) == 1)
        shown = await partner.stands(position=2, lag=0)

    (received,) = to.received
    page = (await partner.client.get("/v1/events", params={"after": 1})).content
    assert partner.secret is not None
    assert verify(received, partner.secret) == received.event
    assert data in received.body
    assert received.body in page
    assert received.headers["webhook-id"] == received.event["id"]
    assert received.headers["Content-Type"] == "application/json"
    assert (shown["parked"], shown["dead"], shown["health"], shown["last_error"]) == (0, 0, "up", None)
    (attempt,) = await partner.attempts()
    assert (attempt["event_id"], attempt["outcome"]) == (received.event_id, "delivered")


async def test_a_signature_is_wrong_for_anything_else(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 1)
        await until(lambda: len(to.received) == 1)
    (received,) = to.received
    assert partner.secret is not None

    for tampered in (
        Received(received.headers, received.body + b" "),
        Received(received.headers, json.dumps(received.event, indent=1).encode()),
        Received({**received.headers, "webhook-id": "evt_1"}, received.body),
    ):
        with pytest.raises(WebhookVerificationError):
            verify(tampered, partner.secret)


async def test_only_what_it_wants_is_delivered(service: Service) -> None:
    one = await service.installed()
    other = await service.install(service.aircall.companies[1])
    await service.sql("UPDATE installation SET owner = 'acme' WHERE id = $1", one)
    async with receiver() as to, reading(service.resources):
        wanting = {
            "type": await subscribe(service, f"{to.url}/type", types=["call.*", "user.created"]),
            "owner": await subscribe(service, f"{to.url}/owner", owners=["acme"]),
            "installation": await subscribe(service, f"{to.url}/installation", installations=[other]),
        }
        await tell(service, 1, first=0)
        await tell(service, 1, first=1, type_="callback.created")
        await tell(service, 1, first=2, type_="user.created")
        (head,) = await service.sql("SELECT max(position) AS position FROM event")
        for partner in wanting.values():
            await partner.stands(position=head["position"], lag=0)

    def told(where: str) -> list[int]:
        secret = wanting[where].secret
        assert secret is not None
        return sorted(r.event["data"]["n"] for r in to.received if r.path.endswith(where) and verify(r, secret))

    assert {where: told(where) for where in wanting} == {"type": [0, 2], "owner": [0, 1, 2], "installation": []}


async def test_every_event_is_delivered_once_while_nothing_goes_wrong(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await fill(service, 2000)
        await partner.stands(lag=0)
        await tell(service, 3, first=2000)
        await partner.stands(lag=0)

    assert to.count() == dict.fromkeys(range(2003), 1)
    assert to.most_open <= service.settings.deliveries_at_once
    assert len(await service.sql("SELECT 1 FROM attempt")) == 2003
    assert await service.sql("SELECT 1 FROM parked") == []


async def test_no_transaction_is_open_and_no_connection_is_held_while_a_request_is_out(service: Service) -> None:
    await service.installed()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = wait
        partner = await subscribe(service, to.url)
        await tell(service, 20)
        await until(lambda: len(to.received) >= 8)
        rows = await service.sql(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        )
        held = service.resources.database.sessions.engine.pool.checkedout()  # type: ignore[attr-defined]
        answered.set()
        await partner.stands(lag=0)

    assert (rows, held) == ([], 0)


async def test_a_paused_one_stops_at_once_and_goes_on_where_it_was(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 3)
        await partner.stands(lag=0)
        await partner.post("pause")
        await service.sql("SELECT 1")
        await tell(service, 5, first=3)
        paused = await partner.shown()
        other = await subscribe(service, f"{to.url}/other", **{"from": "beginning"})
        await other.stands(lag=0)
        taken = [r for r in to.received if not r.path.endswith("other")]
        await partner.post("resume")
        await partner.stands(lag=0)

    assert (paused["status"], paused["lag"]) == ("paused", 5)
    assert len(taken) == 3
    assert sorted(r.event["data"]["n"] for r in to.received if not r.path.endswith("other")) == list(range(8))


async def test_what_is_out_when_it_is_paused_is_finished_and_not_sent_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside deliveries that are slow others would go out before it is paused.
    monkeypatch.setattr(sender, "SLOW_SECONDS", 60.0)
    await service.installed()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = wait
        partner = await subscribe(service, to.url)
        await fill(service, 50)
        await until(lambda: len(to.received) == 8)
        await partner.post("pause")
        answered.set()
        await partner.stands(lag=42)
        assert len(to.received) == 8
        await partner.post("resume")
        await partner.stands(lag=0)

    assert to.count() == dict.fromkeys(range(50), 1)


async def test_a_deleted_one_stops_at_once(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 2)
        await partner.stands(lag=0)
        assert (await partner.client.delete(f"/v1/subscriptions/{partner.id}")).status_code == 204
        other = await subscribe(service, f"{to.url}/other")
        await tell(service, 5, first=2)
        await other.stands(lag=0)

    assert len([r for r in to.received if not r.path.endswith("other")]) == 2


async def test_a_change_takes_effect_and_keeps_the_position(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 2)
        await partner.stands(lag=0)
        changed = await partner.client.patch(
            f"/v1/subscriptions/{partner.id}", json={"url": f"{to.url}/elsewhere", "types": ["user.*"]}
        )
        assert changed.status_code == 200
        await tell(service, 2, first=2)
        await tell(service, 1, first=4, type_="user.created")
        await partner.stands(lag=0)
        await until(lambda: len(to.received) == 3)

    assert [(r.path, r.event["data"]["n"]) for r in to.received[2:]] == [("/hook/elsewhere", 4)]


async def test_replay_delivers_again(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 5)
        await partner.stands(lag=0)
        await partner.post("replay", {"position": 3})
        await partner.stands(lag=0, position=6)
        await partner.post("replay", {"since": (datetime.now(UTC) - timedelta(hours=1)).isoformat()})
        await partner.stands(lag=0, position=6)

    assert to.count() == {0: 2, 1: 2, 2: 3, 3: 3, 4: 3}


async def test_a_reader_that_was_moved_back_under_way_cannot_move_the_position_again(service: Service) -> None:
    await service.installed()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = wait
        partner = await subscribe(service, to.url)
        await tell(service, 5)
        await until(lambda: len(to.received) == 5)
        await partner.post("replay", {"position": 0})
        answered.set()
        await partner.stands(lag=0, position=6)

    assert to.count() == dict.fromkeys(range(5), 2) or to.count() == dict.fromkeys(range(5), 1)
    assert "installation.connected" in [event["type"] for event in to.taken]


async def reader_after(service: Service, lease_number: int = 0) -> int:
    """Wait for a reader that began after the one with this lease; returns its lease number."""
    newer = "SELECT lease_number FROM subscription WHERE lease_holder IS NOT NULL AND lease_number > $1"
    (row,) = await eventually(lambda: service.sql(newer, lease_number))
    number: int = row["lease_number"]
    return number


async def test_a_secret_is_rotated_with_both_signatures_for_a_day(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        old, before = partner.secret, await reader_after(service)
        new = (await partner.post("rotate-secret"))["secret"]
        rotated = await reader_after(service, before)
        await tell(service, 1)
        await until(lambda: len(to.received) == 1)
        await service.sql("UPDATE subscription SET old_secret_until = now(), version = version + 1")
        await service.sql("NOTIFY aircall_oauth_subscriptions")
        await partner.stands(lag=0)
        ended = await reader_after(service, rotated)
        newest = (await partner.post("rotate-secret", {"now": True}))["secret"]
        await reader_after(service, ended)
        await tell(service, 1, first=1)
        await until(lambda: len(to.received) == 2)

    both, one = to.received
    assert old is not None
    assert len(both.headers["webhook-signature"].split(" ")) == 2
    assert verify(both, old) == verify(both, new) == both.event
    assert len(one.headers["webhook-signature"].split(" ")) == 1
    assert verify(one, newest) == one.event
    for past in (old, new):
        with pytest.raises(WebhookVerificationError):
            verify(one, past)


@pytest.mark.slow
async def test_the_old_secret_ends_by_itself(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        before = await reader_after(service)
        await partner.post("rotate-secret")
        rotated = await reader_after(service, before)
        await tell(service, 1)
        await until(lambda: len(to.received) == 1)
        await service.sql("UPDATE subscription SET old_secret_until = now()")
        await partner.post("pause")
        await partner.post("resume")
        await reader_after(service, rotated)
        await tell(service, 1, first=1)
        await until(lambda: len(to.received) == 2)

    assert [len(r.headers["webhook-signature"].split(" ")) for r in to.received] == [2, 1]


async def test_a_sample_is_sent_past_the_log(service: Service) -> None:
    async with receiver() as to:
        partner = await subscribe(service, to.url)
        well = await partner.post("test")
        to.answer = answer_with(500)
        badly = await partner.post("test")

    assert partner.secret is not None
    assert (well["delivered"], well["outcome"]) == (True, "delivered")
    assert (badly["delivered"], badly["outcome"]) == (False, "http_500")
    assert [verify(r, partner.secret)["type"] for r in to.received] == ["subscription.test"] * 2
    assert (await partner.shown())["last_error"] is None


@pytest.mark.slow
async def test_what_another_worker_holds_is_left_alone_until_its_lease_is_over(service: Service) -> None:
    await service.installed()
    async with receiver() as to:
        partner = await subscribe(service, to.url)
        await service.sql(
            "UPDATE subscription SET lease_holder = 'wrk_other', lease_until = now() + interval '1 hour', "
            "lease_number = 7"
        )
        async with reading(service.resources):
            free = await subscribe(service, f"{to.url}/free")
            await tell(service, 2)
            await free.stands(lag=0)
            left_alone = len([r for r in to.received if not r.path.endswith("free")])
            await service.sql("UPDATE subscription SET lease_until = now() WHERE id = $1", partner.id)
            await partner.stands(lag=0)
            (row,) = await service.sql("SELECT lease_number FROM subscription WHERE id = $1", partner.id)
        (after,) = await service.sql("SELECT lease_holder FROM subscription WHERE id = $1", partner.id)

    assert left_alone == 0
    assert row["lease_number"] == 8
    assert after["lease_holder"] is None


async def test_a_reader_whose_lease_was_taken_over_cannot_move_the_position(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It writes down at once, before it can be told.
    monkeypatch.setattr(progress, "KEEP_SECONDS", 0)
    await service.installed()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = wait
        partner = await subscribe(service, to.url)
        await tell(service, 1)
        await until(lambda: len(to.received) == 1)
        # As it looks to one that slept through its lease: another one reads on, from elsewhere.
        await service.sql(
            "UPDATE subscription SET lease_holder = 'wrk_other', lease_until = now() + interval '1 hour', "
            "lease_number = lease_number + 1"
        )
        answered.set()
        await until(lambda: len(to.taken) == 1)
        free = await subscribe(service, f"{to.url}/free")
        await tell(service, 1, first=1)
        await free.stands(lag=0)

    (row,) = await service.sql("SELECT position FROM subscription WHERE id = $1", partner.id)
    assert row["position"] == 1
    assert await partner.attempts() == []


@pytest.mark.slow
async def test_a_slow_destination_does_not_slow_another(service: Service) -> None:
    await service.installed()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as slow, receiver() as quick, reading(service.resources):
        slow.answer = wait
        await subscribe(service, slow.url)
        partner = await subscribe(service, quick.url)
        await fill(service, 1000)
        await partner.stands(lag=0)
        assert slow.taken == []
        answered.set()

    assert quick.count() == dict.fromkeys(range(1000), 1)


async def test_a_subscription_whose_secret_does_not_open_says_so(service: Service) -> None:
    await service.installed()
    async with receiver() as to:
        partner = await subscribe(service, to.url)
        await service.sql("UPDATE subscription SET secret_sealed = replace(secret_sealed, 'v1.k1.', 'v1.gone.')")
        async with reading(service.resources):
            shown = await partner.stands(last_error="seal_key_missing")

    assert shown["position"] == 1
    assert to.received == []


async def test_attempts_and_parked_events_are_forgotten_with_the_log(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await tell(service, 2)
        await partner.stands(lag=0)
    await service.sql("UPDATE attempt SET at = now() - interval '31 days' WHERE position = 2")
    await service.sql("INSERT INTO log_start (dropped_to) VALUES (2)")
    await service.sql(
        """
        INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason,
                            dead_at)
        SELECT $1, n, now(), 'evt_1', 'ins_1', 12, 'http_500', now() FROM generate_series(2, 3) n
        """,
        partner.id,
    )

    await retention.forget_attempts(service.resources)
    await retention.forget_parked(service.resources)

    assert [attempt["position"] for attempt in await partner.attempts()] == [3]
    assert [row["position"] for row in await service.sql("SELECT position FROM parked")] == [3]
