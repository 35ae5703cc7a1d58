"""Every end of a delivery is an outcome; a reader that fails says so, and does not repeat what was delivered."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from aircall_oauth.deliveries.destinations import http, outcomes
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Message, Outcome, TryAgain
from aircall_oauth.deliveries.reader import supervisor
from aircall_oauth.deliveries.reader.queue import Window
from aircall_oauth.deliveries.reader.supervisor import reading
from tests.support.receivers import LOOPBACK, answer_with, fill, receiver, subscribe
from tests.support.service import Service, run_service, settings_for, until

MESSAGE = Message("evt_1", "ins_1", "call.ended", b"{}")


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(
    "told",
    [
        "Fri, 31 Dec 99999999999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Fri, 31 Dec 2027 99:99:99 GMT",
        "9" * 400,
        "1e400",
        "-1",
        "inf",
        "nan",
        "0x10",
        "",
    ],
)
async def test_any_retry_after_is_an_outcome(service: Service, told: str) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers[0] = answer_with(503, {"retry-after": told})
        partner = await subscribe(service, to.url)
        await fill(service, 1)
        await partner.stands(last_error="http_503")
        await until(lambda: to.count()[0] == 0 and len(to.received) == 1)
        attempts = await partner.attempts()

    assert [attempt["outcome"] for attempt in attempts] == ["http_503"]


@pytest.mark.slow
@example("Fri, 31 Dec 99999999999 23:59:59 GMT")
@example(f"{'9' * 5000}")
@given(st.text() | st.from_regex(r"\w{3}, \d{1,3} [A-Z][a-z]{2} \d{1,12} \d\d:\d\d:\d\d [+-]\d{4}", fullmatch=True))
def test_a_pause_is_told_within_an_hour_or_not_at_all(told: str) -> None:
    seconds = http._retry_after(told)

    assert seconds is None or 0 <= seconds <= 3600


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan, 1e300, -5.0])
def test_no_pause_is_longer_than_an_hour(seconds: float) -> None:
    told = TryAgain("http_503", seconds).pause_seconds

    assert told is not None
    assert 0 <= told <= 3600


class Raising:
    """A destination that raises what it should have turned into an outcome."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def deliver(self, message: Message) -> Outcome:
        raise self._error

    async def close(self) -> None: ...


class Hanging(Raising):
    """A destination that never ends by itself."""

    async def deliver(self, message: Message) -> Outcome:
        await asyncio.sleep(3600)
        return Delivered()


@pytest.mark.parametrize("error", [OverflowError("x"), RecursionError(), asyncio.CancelledError(), UnicodeError()])
async def test_an_error_that_a_destination_raises_is_an_outcome(error: BaseException) -> None:
    told: list[BaseException] = []

    outcome = await outcomes.attempt(Raising(error), MESSAGE, told.append)

    assert outcome == TryAgain("internal_error")
    assert told == [error]


async def test_a_delivery_that_never_ends_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "DEADLINE_SECONDS", 0.05)

    assert await outcomes.attempt(Hanging(OverflowError()), MESSAGE, lambda _: None) == TryAgain("timeout")


async def test_a_delivery_that_is_cancelled_is_cancelled() -> None:
    delivering = asyncio.create_task(outcomes.attempt(Hanging(OverflowError()), MESSAGE, lambda _: None))
    await asyncio.sleep(0)
    delivering.cancel()

    with pytest.raises(asyncio.CancelledError):
        await delivering


async def test_a_reader_that_fails_says_so_backs_off_and_repeats_nothing_that_was_taken(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, broken = Window.settle, [True]

    def fail_at_the_tenth(window: Window, item: object) -> None:
        if broken and item.message.body.find(b'{"n": 9}') > 0:  # type: ignore[attr-defined]
            raise OverflowError("a bug of ours")
        settle(window, item)  # type: ignore[arg-type]

    monkeypatch.setattr(Window, "settle", fail_at_the_tenth)
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url, order="installation")
        await fill(service, 30)
        failed = await partner.stands(last_error="internal_error")
        (row,) = await service.sql("SELECT lease_until - last_error_at AS pause FROM subscription")
        taken = len(to.taken)
        broken.clear()
        await service.sql("UPDATE subscription SET lease_until = now()")
        await partner.stands(lag=0)
        metrics = service.resources.metrics.registry.get_sample_value("aircall_oauth_reader_failures_total")

    assert taken == 10
    assert failed["position"] == 10
    assert row["pause"] >= supervisor.FIRST_PAUSE
    assert metrics == 1
    assert {number: times for number, times in to.count().items() if times != 1} == {9: 2}


async def test_what_goes_on_while_a_reader_ends_by_an_error_is_kept(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()

    async def wait(_: object) -> web.Response:
        await answered.wait()
        return web.Response()

    def fail(*_: object) -> None:
        answered.set()
        raise RecursionError

    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answers = {0: wait, 1: wait}
        partner = await subscribe(service, to.url)
        await fill(service, 2)
        await until(lambda: len(to.received) == 2)
        with monkeypatch.context() as patch:
            patch.setattr(Window, "add", fail)
            await fill(service, 1, first=2)
            await partner.stands(last_error="internal_error")
        await service.sql("UPDATE subscription SET lease_until = now()")
        await partner.stands(lag=0)

    assert to.count() == {0: 1, 1: 1, 2: 1}
