"""`order: subject`: events about the same thing arrive one after the other, and hold up nothing else."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from aircall_oauth.deliveries.reader import breaker, progress, reader, retries, sender
from aircall_oauth.deliveries.reader.supervisor import reading
from tests.support.receivers import LOOPBACK, Received, answer_with, fill, receiver, subscribe
from tests.support.service import Service, run_service, settings_for, until

CALLS = 40


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(
        settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK, RETURN_URLS="https://home.test/")
    ) as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses after a failure."""
    monkeypatch.setattr(reader, "LOOK_FOR_DUE_SECONDS", 0.02)
    monkeypatch.setattr(sender, "DUE_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(progress, "KEEP_SECONDS", 0.02)
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.02)
    # An outage here ends after so many requests, of which few may be on their way when it begins.
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(breaker, "SUSPECTED_SECONDS", 0.2)
    monkeypatch.setattr(retries, "SCHEDULE", (timedelta(milliseconds=80),) * 11)


async def note(service: Service, subject: str | None, resource: str | None, **data: Any) -> None:
    """Add an event about something to the log, past the door."""
    await service.sql(
        """
        INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, subject, source,
                           data)
        SELECT nextval('event_position'), now(), 'evt_' || md5($3), 'ins_' || md5('0'), 1, 'call.created', $2, $1,
               'aircall', $3
        """,
        subject,
        resource,
        json.dumps(data),
    )
    await service.sql("NOTIFY aircall_oauth_log")


def out_of_order(taken: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """First deliveries that came after a later one about the same thing of the same installation."""
    newest: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    found = []
    for event in taken:
        key, position = (event["installation_id"], event["subject"]), event["position"]
        if position not in seen and position < newest.get(key, 0):
            found.append((event["subject"], newest[key], position))
        seen.add(position)
        newest[key] = max(newest.get(key, 0), position)
    return found


class Trying:
    """A destination that takes its time, fails one event in ten once, and is down for a while."""

    def __init__(self, seed: int) -> None:
        self.at_once = self.most_of_a_call = 0
        self._chance = random.Random(seed)
        self._out = Counter[str]()
        self._failed: set[int] = set()
        self._down_for = 0

    async def answer(self, received: Received) -> web.Response:
        event = received.event
        key, number = f"{event['installation_id']} {event['subject']}", event["data"]["n"]
        self._out[key] += 1
        self.at_once = max(self.at_once, self._out.total())
        self.most_of_a_call = max(self.most_of_a_call, self._out[key])
        await asyncio.sleep(self._chance.choice((0, 0.001, 0.005, 0.02)))
        self._out[key] -= 1
        return web.Response(status=self._status(number))

    def _status(self, number: int) -> int:
        if number == 300 and not self._down_for:
            self._down_for = 31
        if self._down_for > 1:
            self._down_for -= 1
            return 503
        if number not in self._failed and self._chance.random() < 0.1:
            self._failed.add(number)
            return self._chance.choice((422, 500, 503))
        return 200


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(2))
async def test_a_slow_failing_destination_gets_each_calls_events_in_order_and_many_calls_at_once(
    service: Service, seed: int
) -> None:
    await service.installed()
    trying = Trying(seed)
    async with receiver() as to, reading(service.resources):
        to.answer = trying.answer
        partner = await subscribe(service, to.url)
        for first in range(0, 800, 200):
            await fill(service, 200, first=first, installations=2, calls=CALLS)
            await until(lambda: len(to.taken) > first)  # noqa: B023
        await partner.stands(lag=0, parked=0, seconds=50)

    assert (await partner.shown())["order"] == "subject"
    assert set(to.numbers) == set(range(800))
    assert out_of_order(to.taken) == []
    assert trying.most_of_a_call == 1
    assert trying.at_once > 8


async def test_a_parked_event_holds_back_the_later_ones_about_its_call_and_no_others(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers = {0: answer_with(422)}
        partner = await subscribe(service, to.url)
        await fill(service, 40, calls=10)
        await partner.stands(lag=0, parked=4)
        others = sorted(to.numbers)
        to.answers.clear()
        await service.sql("UPDATE parked SET due_at = now() WHERE due_at IS NOT NULL")
        await partner.stands(parked=0)

    assert others == [n for n in range(40) if n % 10]
    assert to.numbers[-4:] == [0, 10, 20, 30]


async def test_a_call_of_another_installation_is_another_call(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers = {0: answer_with(422)}
        partner = await subscribe(service, to.url)
        await fill(service, 4, installations=2, calls=1)
        await partner.stands(lag=0, parked=2)

    assert sorted(to.numbers) == [1, 3]


@pytest.mark.slow
async def test_service_events_of_an_installation_keep_their_order(service: Service) -> None:
    refused: list[str] = []

    def refuse_the_first(received: Received) -> web.Response:
        if received.event["type"] == "installation.connected" and not refused:
            refused.append(received.event_id)
            return web.Response(status=422)
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = refuse_the_first
        partner = await subscribe(service, to.url, types=["installation.*"])
        await service.claim(await service.install_by_link())
        await partner.stands(lag=0, parked=2)
        before = list(to.taken)
        await service.sql("UPDATE parked SET due_at = now() WHERE due_at IS NOT NULL")
        await partner.stands(parked=0)

    assert before == []
    assert [event["type"] for event in to.taken] == ["installation.connected", "installation.claimed"]


@pytest.mark.slow
async def test_events_without_an_id_keep_the_order_of_their_kind(service: Service) -> None:
    """Two of them may be about the same thing; those of another kind can't be."""
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers = {0: answer_with(422), 4: answer_with(422)}
        partner = await subscribe(service, to.url)
        await note(service, None, "call", n=0)
        await note(service, None, "user", n=1)
        await note(service, None, "call", n=2)
        await note(service, "call:3", "call", n=3)
        await note(service, None, None, n=4)
        await note(service, None, None, n=5)
        await partner.stands(lag=0, parked=4)
        before = sorted(to.numbers)
        to.answers.clear()
        await service.sql("UPDATE parked SET due_at = now() WHERE due_at IS NOT NULL")
        await partner.stands(parked=0)

    assert before == [1, 3]
    assert [n for n in to.numbers if n in {0, 2}] == [0, 2]
    assert [n for n in to.numbers if n in {4, 5}] == [4, 5]


async def test_what_an_earlier_version_stored_is_ordered_by_the_id_in_its_data(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers = {0: answer_with(422)}
        partner = await subscribe(service, to.url)
        await note(service, None, "call", id=7, n=0)
        await note(service, None, "call", id=8, n=1)
        await note(service, "call:7", "call", id=7, n=2)
        await partner.stands(lag=0, parked=2)

    assert to.numbers == [1]


@pytest.mark.slow
async def test_what_was_parked_without_a_subject_holds_back_once_order_is_asked_for(service: Service) -> None:
    await service.installed()
    async with receiver() as to:
        to.answers = {0: answer_with(422)}
        partner = await subscribe(service, to.url, order="none")
        async with reading(service.resources):
            await fill(service, 1, calls=2)
            await partner.stands(lag=0, parked=1)
        await service.sql("UPDATE parked SET subject = NULL")
        changed = await partner.client.patch(f"/v1/subscriptions/{partner.id}", json={"order": "subject"})
        async with reading(service.resources):
            await fill(service, 3, first=1, calls=2)
            await partner.stands(lag=0, parked=2)
            before = sorted(to.numbers)
            to.answers.clear()
            await service.sql("UPDATE parked SET due_at = now() WHERE due_at IS NOT NULL")
            await partner.stands(parked=0)

    assert changed.json()["order"] == "subject"
    assert before == [1, 3]
    assert to.numbers[-2:] == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["installation", "subject"])
async def test_a_parked_event_is_tried_when_its_time_comes_however_many_others_wait(
    service: Service, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "SCHEDULE", (timedelta(hours=1),))
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers = {n: answer_with(422) for n in range(100)}
        partner = await subscribe(service, to.url, order=order)
        for first in range(0, 100, 5):
            # Failures alone would mean that the destination is down.
            await fill(service, 5, first=first, installations=1000)
            await fill(service, 1, first=1000 + first, installations=100_000)
            await partner.stands(lag=0)
        await partner.stands(parked=100)
        to.answers.clear()
        await service.sql("UPDATE parked SET due_at = now() WHERE position = (SELECT max(position) FROM parked)")
        await partner.stands(parked=99)

    assert to.numbers[-1] == 99


@pytest.mark.slow
async def test_many_events_about_one_call_that_is_slow_hold_up_no_other_call(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "SLOW_SECONDS", 0.1)
    await service.installed()
    over = asyncio.Event()

    async def answer(received: Received) -> web.Response:
        if received.event["subject"] == "call:0":
            await over.wait()
        return web.Response()

    async with receiver() as to:
        to.answer = answer
        partner = await subscribe(service, to.url)
        await fill(service, 1500, calls=1)
        await fill(service, 100, first=1501)
        async with reading(service.resources):
            await until(lambda: len(to.numbers) == 100)
            first = list(to.numbers)
            over.set()
            await partner.stands(lag=0, parked=0, seconds=50)

    assert sorted(first) == list(range(1501, 1601))
    assert [n for n in to.numbers if n < 1500] == list(range(1500))


async def test_a_new_subscription_is_ordered_by_subject_and_one_that_is_there_stays(service: Service) -> None:
    made = await subscribe(service, "https://203.0.114.7/hook")
    other = await subscribe(service, "https://203.0.114.7/hook", order="none")

    await other.client.patch(f"/v1/subscriptions/{other.id}", json={"name": "renamed"})

    assert (await made.shown())["order"] == "subject"
    assert (await other.shown())["order"] == "none"
