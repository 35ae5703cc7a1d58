"""What the pretend Aircall sends to webhooks: bodies, repeats, auto-disable, calls, uninstall."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aircall_oauth.sandbox.aircall import EVENT_NAMES, PretendAircall, Webhook, read

REDIRECT_URI = "https://partner.example.com/aircall/oauth/callback"
HOOK_URL = "https://partner.example.com/aircall/webhooks"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Receiver:
    """The partner's end: keeps what arrives, answers what it was told to, and 200 when it was told nothing."""

    def __init__(self, clock: Clock) -> None:
        self.requests: list[httpx.Request] = []
        self.answers: list[int] = []
        self.always = 200
        self.hangs = False
        self.takes_seconds = 0
        self._clock = clock

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self._clock.now += self.takes_seconds
        if self.hangs:
            await asyncio.Event().wait()
        return httpx.Response(self.answers.pop(0) if self.answers else self.always, text="seen")

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]

    @property
    def names(self) -> list[str]:
        return [body["event"] for body in self.bodies]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def receiver(clock: Clock) -> Receiver:
    return Receiver(clock)


@pytest.fixture
async def aircall(receiver: Receiver, clock: Clock) -> AsyncIterator[PretendAircall]:
    pretend = PretendAircall(
        client_id="demo-client",
        client_secret="demo-secret",
        redirect_uris=[REDIRECT_URI],
        webhook_attempt_pause=0,
        clock=clock,
        transport=httpx.MockTransport(receiver),
    )
    yield pretend
    await pretend.close()


def new_token(aircall: PretendAircall) -> str:
    request = {
        "client_id": "demo-client",
        "client_secret": "demo-secret",
        "redirect_uri": REDIRECT_URI,
        "grant_type": "authorization_code",
        "code": aircall.grant(),
    }
    return aircall.exchange(request).access_token


def listen(aircall: PretendAircall, *events: str, company: int = 70077) -> Webhook:
    return aircall.webhooks.create(company, {"url": HOOK_URL, "events": list(events)}, aircall.clock())


def test_sixty_seven_names_are_documented() -> None:
    assert len(EVENT_NAMES) == len(set(EVENT_NAMES)) == 67


@pytest.mark.parametrize("name", EVENT_NAMES)
async def test_every_event_can_be_sent_and_no_two_are_the_same(
    aircall: PretendAircall, receiver: Receiver, name: str
) -> None:
    webhook = listen(aircall)

    await aircall.send_event(name)
    await aircall.send_event(name)
    await aircall.settle()

    sample, (first, second) = read(f"event.{name}"), receiver.bodies
    assert list(first) == ["resource", "event", "timestamp", "token", "data"]
    assert (first["resource"], first["event"], first["token"]) == (sample["resource"], name, webhook.token)
    assert first["data"].keys() == sample["data"].keys()
    if name != "integration.deleted":
        assert first != second


async def test_request_looks_like_aircalls(aircall: PretendAircall, receiver: Receiver) -> None:
    listen(aircall)

    await aircall.send_event("contact.created", data={"name": "Zoë ☎ \ud800", "id": 2**60})
    await aircall.settle()

    request = receiver.requests[0]
    assert read("delivery.request-headers").keys() <= request.headers.keys()
    assert request.headers["content-type"] == "application/json"
    assert '"data":{"name":"Zoë ☎ \\ud800","id":1152921504606846976}}'.encode() in request.content


async def test_times_are_now_in_the_units_of_the_sample(
    aircall: PretendAircall, receiver: Receiver, clock: Clock
) -> None:
    listen(aircall)

    await aircall.send_event("call.ended")
    await aircall.send_event("message.received")
    await aircall.settle()

    ended, message = receiver.bodies
    assert (ended["timestamp"], ended["data"]["started_at"]) == (clock.now, clock.now - 150)
    assert message["timestamp"] // 1000 == clock.now
    assert message["data"]["created_at"] == "2027-01-15T08:00:00.000Z"


async def test_variants_and_names_yet_unknown_are_sent_to_those_who_want_everything(
    aircall: PretendAircall, receiver: Receiver
) -> None:
    listen(aircall)
    listen(aircall, "call.ended")

    await aircall.send_event("call.created.int64")
    await aircall.send_event("starship.landed")
    await aircall.settle()

    int64, unknown = receiver.bodies
    assert (int64["event"], int64["data"]["id"] > 2**52) == ("call.created", True)
    assert (unknown["event"], unknown["resource"]) == ("starship.landed", "starship")


async def test_events_go_to_the_webhooks_that_want_them(aircall: PretendAircall, receiver: Receiver) -> None:
    wanting = listen(aircall, "call.tagged")
    listen(aircall, "call.ended")
    listen(aircall, "call.tagged").switch(active=False)
    listen(aircall, "call.tagged", company=70078)

    await aircall.send_event("call.tagged")
    await aircall.settle()

    assert [wanting.token] == [body["token"] for body in receiver.bodies]


async def test_a_number_that_is_not_linked_makes_no_call_events(aircall: PretendAircall, receiver: Receiver) -> None:
    listen(aircall)
    aircall.companies[0].integration.number_ids = []

    await aircall.place_call()
    await aircall.send_event("contact.created")
    await aircall.settle()

    assert receiver.names == ["contact.created"]
    assert len(aircall.companies[0].calls) == 1


async def test_a_failed_event_is_repeated_with_the_same_body(
    aircall: PretendAircall, receiver: Receiver, clock: Clock
) -> None:
    listen(aircall)
    receiver.answers, receiver.takes_seconds = [503, 302], 60

    await aircall.send_event("contact.created")
    await aircall.settle()

    delivery = aircall.deliveries[0]
    assert len({request.content for request in receiver.requests}) == 1
    assert [attempt.status for attempt in delivery.attempts] == [503, 302, 200]
    assert (delivery.status, delivery.attempts[0].answer) == ("delivered", "seen")


async def test_a_repeat_on_demand_is_the_same_body_too(aircall: PretendAircall, receiver: Receiver) -> None:
    listen(aircall)

    await aircall.send_event("contact.created", repeat=3)
    await aircall.settle()

    assert len(receiver.requests) == 3
    assert len({request.content for request in receiver.requests}) == 1


async def test_an_event_is_given_up_after_fifty_tries(aircall: PretendAircall, receiver: Receiver) -> None:
    listen(aircall)
    receiver.always = 500

    await aircall.send_event("contact.created")
    await aircall.settle()

    assert (len(receiver.requests), aircall.deliveries[0].status) == (50, "given_up")


async def test_failures_in_a_row_disable_a_webhook_and_nothing_new_is_sent_to_it(
    aircall: PretendAircall, receiver: Receiver
) -> None:
    webhook = listen(aircall)
    receiver.always = 500
    await aircall.send_event("contact.created")
    await aircall.settle()

    sent = await aircall.send_event("contact.updated")

    assert (webhook.active, sent) == (False, [])


async def test_one_success_among_the_repeats_enables_it_again(aircall: PretendAircall, receiver: Receiver) -> None:
    webhook = listen(aircall)
    receiver.answers = [500] * 12

    await aircall.send_event("contact.created")
    await aircall.settle()

    assert (webhook.active, webhook.failures_in_a_row, len(receiver.requests)) == (True, 0, 13)


async def test_fewer_failures_than_the_limit_disable_nothing(aircall: PretendAircall, receiver: Receiver) -> None:
    webhook = listen(aircall)
    aircall.habits.disable_after = 3
    seen: list[bool] = []
    receiver.answers = [500, 500, 200, 500, 500, 200]

    for _ in range(2):
        await aircall.send_event("contact.created")
        await aircall.settle()
        seen.append(webhook.active)

    assert seen == [True, True]


async def test_repeats_end_twelve_hours_after_the_webhook_was_disabled(
    aircall: PretendAircall, receiver: Receiver
) -> None:
    webhook = listen(aircall)
    receiver.always, receiver.takes_seconds = 500, 3600

    await aircall.send_event("contact.created")
    await aircall.settle()

    begun_in_the_twelve_hours = 13  # at 0 h, 1 h, … 12 h after the tenth failure
    assert len(receiver.requests) == 10 + begun_in_the_twelve_hours
    assert (webhook.active, aircall.deliveries[0].status) == (False, "given_up")


async def test_repeats_end_when_the_webhook_is_deleted(aircall: PretendAircall, receiver: Receiver) -> None:
    webhook = listen(aircall)
    receiver.always = 500

    await aircall.send_event("contact.created")
    aircall.webhooks.delete(70077, webhook.webhook_id)
    await aircall.settle()

    assert len(receiver.requests) == 1


async def test_no_answer_in_time_is_a_failure(aircall: PretendAircall, receiver: Receiver) -> None:
    listen(aircall)
    aircall.habits.webhook_timeout, receiver.hangs = 0.001, True

    await aircall.send_event("contact.created")
    await aircall.settle()

    attempt = aircall.deliveries[0].attempts[0]
    assert (attempt.status, attempt.succeeded) == (None, False)
    assert "no answer within" in attempt.answer


async def test_closing_ends_what_is_being_sent(aircall: PretendAircall, receiver: Receiver) -> None:
    listen(aircall)
    receiver.hangs = True
    await aircall.send_event("contact.created")

    await aircall.close()
    await aircall.settle()

    assert aircall.deliveries[0].status == "sending"


async def test_a_call_is_told_stage_by_stage(aircall: PretendAircall, receiver: Receiver) -> None:
    listen(aircall)

    call_id = await aircall.place_call()
    await aircall.settle()

    assert receiver.names == [
        "call.created",
        "call.ringing_on_agent",
        "call.answered",
        "call.hungup",
        "call.ended",
    ]
    assert {call_id} == {body["data"]["id"] for body in receiver.bodies}
    assert [body["data"]["status"] for body in receiver.bodies] == [
        "initial",
        "initial",
        "answered",
        "done",
        "done",
    ]
    times = [body["timestamp"] for body in receiver.bodies]
    assert (times, times[-1]) == (sorted(times), 1_800_000_000)


async def test_uninstalling_says_goodbye_and_kills_token_and_webhooks(
    aircall: PretendAircall, receiver: Receiver
) -> None:
    token, _ = new_token(aircall), listen(aircall, "integration.deleted")
    receiver.answers = [503]

    await aircall.uninstall()
    await aircall.settle()

    assert receiver.names == ["integration.deleted"] * 2
    assert receiver.bodies[0]["data"] == {"integration_id": 400123, "company_id": 70077}
    assert (aircall.company_of(token), aircall.webhooks.of(70077)) == (None, [])


@pytest.mark.parametrize(("keep", "integration_id"), [(True, 400123), (False, 401123)])
async def test_reinstalling_gives_a_fresh_token_and_the_same_or_a_new_integration(
    aircall: PretendAircall, keep: bool, integration_id: int
) -> None:
    old = new_token(aircall)

    await aircall.uninstall(keep_integration_id=keep)
    new = new_token(aircall)

    assert old != new
    assert [new] == aircall.tokens_of(70077)
    assert integration_id == aircall.companies[0].integration.id
