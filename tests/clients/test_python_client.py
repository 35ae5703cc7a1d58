"""The Python client against the real service: every operation of the document, blocking and asynchronous."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import cast

import aircall_oauth_client
import pytest
from aircall_oauth_client import AsyncClient, ClaimNotFound, Client, ClientError, Inbox, InvalidRequest, ServiceError
from aircall_oauth_client.models import Replay, SubscriptionCreated

from tests.clients.conftest import Reachable, browsed, event_body
from tests.support.receivers import Receiver, receiver


@pytest.fixture
async def crm() -> AsyncIterator[Receiver]:
    async with receiver() as running:
        yield running


def walk(it: Reachable, claim: str, again: str, crm: str) -> str:
    """Ask for everything once; returns the secret of the subscription that was tested."""
    with Client(it.url, it.api_key) as client:
        assert (client.live(), client.ready()) == (True, True)
        link = client.install_links.create("acme")
        assert client.install_attempts.get(link["attempt_id"])["id"] == link["attempt_id"]
        assert link["attempt_id"] in [one["id"] for one in client.install_attempts.list(owner="acme")]
        installation = client.claims.claim(claim, "acme")
        assert client.claims.claim(claim, "acme")["id"] == installation["id"]
        with pytest.raises(ClaimNotFound):
            client.claims.claim(again, "acme")
        assert client.installations.get(installation["id"])["status"] == "active"
        assert [one["id"] for one in client.installations.list(owner="acme", status="active")] == [installation["id"]]
        assert client.installations.check(installation["id"])["healthy"]
        assert client.installations.token(installation["id"])["token_type"] == "Bearer"
        _ask_aircall(client, installation["id"])
        secret = _subscribe(client, crm)
        assert any(line["action"] == "token.read" for line in client.audit(limit=2))
        erasure = client.erasures.create(phone="+44 20 7946 0123", owner="acme")
        assert [one["id"] for one in client.erasures.list()] == [erasure["id"]]
        assert client.erasures.get(erasure["id"])["by"] == "phone"
        assert list(client.erasures.positions(erasure["id"])) == []
        assert client.retention.set("acme", {"call.*": "7d"})["rules"] == {"call.*": "7d"}
        assert [one["owner"] for one in client.retention.list()] == ["acme"]
        client.retention.reset("acme")
        assert client.retention.get("acme")["rules"] == {}
        assert list(client.installations.export(installation["id"]))[-1]["kind"] == "end"
        client.installations.disconnect(installation["id"])
        return secret


def _ask_aircall(client: Client, installation_id: str) -> None:
    aircall = client.aircall(installation_id)
    assert aircall.get("ping")["ping"] == "pong"
    assert isinstance(list(aircall.get("calls", per_page=20)), list)
    # What it answers to these does not matter here: they reach the operation.
    for ask in (aircall.post, aircall.put, aircall.patch, aircall.delete):
        with suppress(ClientError):
            ask("nothing/1")
    for method in ("HEAD", "OPTIONS"):
        with suppress(ClientError):
            aircall.ask(method, "calls")


def _subscribe(client: Client, crm: str) -> str:
    events, subscriptions = client.events, client.subscriptions
    first = events.page(limit=1)["events"][0]
    assert next(events.stream())["id"] == first["id"]
    assert next(events.follow())["id"] == first["id"]
    assert first["id"] in [event["id"] for event in events.search(type="*")]
    assert events.get(first["id"])["deliveries"] == []
    made = subscriptions.ensure("crm", crm, types=["call.*"], from_="beginning")
    id_, secret = made["id"], str(cast("SubscriptionCreated", made)["secret"])
    assert subscriptions.ensure("crm", crm, types=["call.*"])["id"] == id_
    assert subscriptions.ensure("crm", crm, types=["call.ended"])["types"] == ["call.ended"]
    assert [one["id"] for one in subscriptions.list()] == [id_]
    assert subscriptions.get(id_)["status"] == "active"
    assert subscriptions.test(id_)["delivered"]
    assert subscriptions.pause(id_)["status"] == "paused"
    assert subscriptions.resume(id_)["status"] == "active"
    assert events.resend(first["id"], id_)["delivered"]
    assert next(subscriptions.attempts(id_))["event_id"] == first["id"]
    assert list(subscriptions.dead(id_)) == []
    assert subscriptions.retry_dead(id_)["retried"] == 0
    replay = cast("Replay", subscriptions.replay(id_, from_=1, to=first["position"], everything=True))
    assert [one["id"] for one in subscriptions.replays(id_)] == [replay["id"]]
    assert subscriptions.show_replay(id_, replay["id"])["status"] == "running"
    assert subscriptions.stop_replay(id_, replay["id"])["status"] == "stopped"
    assert subscriptions.rotate_secret(id_)["secret"] != secret
    with pytest.raises(InvalidRequest) as refused:
        subscriptions.create("x", "https://203.0.114.7/", kind="smtp")
    assert refused.value.detail == "body.kind: must be one of http, nats, rabbitmq, kafka"
    subscriptions.delete(id_)
    return secret


@pytest.mark.slow
async def test_every_operation_of_the_document_is_asked_for(reachable: Reachable, crm: Receiver) -> None:
    claim = await reachable.service.install_by_link("acme")

    secret = await asyncio.to_thread(walk, reachable, claim, "x" * 43, crm.url)
    await browsed(reachable)

    assert reachable.missing == set(), "ask for these in this test, in both clients"
    tested, resent = crm.received[0], crm.received[-1]
    handled: list[str] = []
    inbox = Inbox(secret, on={"*": lambda event: handled.append(event["type"])}, seen=lambda _delivery: True)
    assert inbox.take(tested.headers, tested.body).status == 204
    assert inbox.take(resent.headers, resent.body).status == 204
    assert handled == ["subscription.test", "installation.connected"]
    assert inbox.take(tested.headers, tested.body + b" ").status == 401


async def test_the_asynchronous_client_follows_the_log_past_a_large_id(reachable: Reachable) -> None:
    await reachable.service.installed()
    body = json.dumps(event_body(reachable.service, id=9223372036854775807)).encode()
    assert (await reachable.service.post_event(body)).status_code == 200
    saved: list[tuple[int, str]] = []

    async with AsyncClient(reachable.url, reachable.api_key) as client:
        following = client.events.follow(save=lambda *told: saved.append(told), type="call.*")
        event = await anext(following)
        found = [one["id"] async for one in client.events.search(call_id=9223372036854775807)]

    assert (event["type"], event["data"]["id"], found) == ("call.ended", 9223372036854775807, [event["id"]])


async def test_an_error_has_the_services_code_and_request(reachable: Reachable) -> None:
    async with AsyncClient(reachable.url, "aok_nobody") as client:
        with pytest.raises(aircall_oauth_client.Unauthenticated) as refused:
            await client.installations.get(f"ins_{'0' * 32}")
    async with AsyncClient(reachable.url, reachable.api_key) as client:
        with pytest.raises(ServiceError) as missing:
            await client.installations.get(f"ins_{'0' * 32}")

    assert (refused.value.code, refused.value.status) == ("unauthenticated", 401)
    assert missing.value.code == "installation_not_found"
    assert (missing.value.request_id or "").startswith("req_")
