"""The status line of a receiver's answer decides, whatever follows it; how much of the answer is read is bounded."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from aircall_oauth.deliveries.destinations.outcomes import Delivered, TryAgain
from tests.deliveries.test_destinations import deliver
from tests.support.receivers import raw_receiver

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
# As they were seen: with Django under gunicorn, with PHP, behind proxies that mend or break what they pass on.
ODD = {
    "204 with a body": b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
    "204 with a body unannounced": b"HTTP/1.1 204 No Content\r\n\r\n<html>ok</html>",
    "204 chunked": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "longer than it says": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
    "shorter than it says": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
    "one length twice": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
    "a length that is none": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nok",
    "a length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
    "chunks that are none": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhello\r\n",
    "no reason": b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 0\r\n\r\n",
    "bare newlines": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "cut in its head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "a long header": b"HTTP/1.1 200 OK\r\ncontent-security-policy: " + b"x" * 60_000 + b"\r\ncontent-length: 0\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"x-set: 1\r\n" * 2_000 + b"content-length: 0\r\n\r\n",
    "a head beyond all limits": b"HTTP/1.1 200 OK\r\n" + b"x-set: " + b"x" * 1_000_000,
    "a reason beyond all limits": b"HTTP/1.1 200 " + b"x" * 1_000_000,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 3 + PLAIN,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nok",
}


@asynccontextmanager
async def answering(*pieces: bytes, then: Answer | None = None) -> AsyncIterator[tuple[str, list[int]]]:
    """Run a receiver that gives this answer; yields its URL and the number of requests on each connection."""
    requests: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(0)
        number = len(requests) - 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"Content-Length"))
            await reader.readexactly(length)
            requests[number] += 1
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if then is not None:
                await then(writer)

    async with raw_receiver(answer) as url:
        yield url, requests


async def hang_up(writer: asyncio.StreamWriter) -> None:
    raise asyncio.IncompleteReadError(b"", None)


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
async def test_a_2xx_is_a_delivery_whatever_follows_its_status_line(answer: bytes) -> None:
    async with answering(answer, then=hang_up) as (url, _):
        assert await deliver(url) == Delivered()


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
async def test_a_429_is_a_429_whatever_follows_its_status_line(answer: bytes) -> None:
    asks = answer.replace(b" 200", b" 429").replace(b" 204", b" 429").replace(b"\r\n", b"\r\nretry-after: 7\r\n", 1)

    async with answering(asks, then=hang_up) as (url, _):
        outcome = await deliver(url)

    assert isinstance(outcome, TryAgain)
    assert outcome.reason == "http_429"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(ODD.keys() - {"many headers", "a long header", "early hints", "cut in its head"})
)
async def test_an_odd_answer_costs_its_connection_and_is_never_taken_for_the_next_one(name: str) -> None:
    async with answering(ODD[name] + PLAIN.replace(b"200 OK", b"500 Oops")) as (url, requests):
        assert await deliver(url, times=3) == Delivered()

    assert requests == [1, 1, 1]


@pytest.mark.parametrize(
    "pieces",
    [
        (PLAIN,),
        (b"HTTP/1.1 204 No Content\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n", b"x" * 4096),
        tuple(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[n : n + 1] for n in range(40)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\no", b"k\r\n", b"3;x=y\r\n123\r\n0\r", b"\n\r\n"),
        (ODD["a long header"],),
        (ODD["many headers"],),
        (b"HTTP/1.1 100 Continue\r\n\r\n", PLAIN),
    ],
)
async def test_an_answer_that_is_as_long_as_it_says_keeps_its_connection(pieces: tuple[bytes, ...]) -> None:
    async with answering(*pieces) as (url, requests):
        assert await deliver(url, times=3) == Delivered()

    assert requests == [3]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"])
async def test_a_2xx_is_not_waited_for_until_the_deadline_where_its_rest_drips(answer: bytes) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.2)

    async with answering(answer, then=drip) as (url, _):
        started = time.monotonic()
        assert await deliver(url) == Delivered()

    assert time.monotonic() - started < 10


ENDLESS = {
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "one interim head": (b"HTTP/1.1 103 Early Hints\r\n", b"link: </a>\r\n" * 100),
    "one interim line": (b"HTTP/1.1 103 ", b"x" * 1000),
    "drops of an interim head": (b"HTTP/1.1 103 Early Hints\r\n", b"x"),
}


@pytest.mark.parametrize(("first", "more"), ENDLESS.values(), ids=ENDLESS)
async def test_interim_answers_without_an_end_are_not_read_on(first: bytes, more: bytes) -> None:
    written = 0
    cut = asyncio.Event()

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        try:
            while True:
                writer.write(more)
                await writer.drain()
                written += len(more)
                await asyncio.sleep(0)
        except OSError:
            cut.set()
            raise

    async with answering(first, then=flood) as (url, _):
        assert await deliver(url) == TryAgain("flood")
        await asyncio.wait_for(cut.wait(), 10)

    assert written < 8_000_000


async def test_an_address_is_sent_byte_for_byte() -> None:
    targets: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(PLAIN)

    wanted = [
        "/hook?sp=%2Fa&m=x%40y",
        "/%7Efoo/%2e%2E/../a/./b//c;d=e?q=a+b%20c&&=&x",
        "/hook?",
        "/a|b'(c)?[]{}=^`\"<>",
        "/%zz?%",
        "?only=query",
        "",
    ]
    async with raw_receiver(answer) as url:
        for target in wanted:
            assert await deliver(url.removesuffix("/hook") + target) == Delivered()

    assert targets == [(target if target.startswith("/") else f"/{target}").encode() for target in wanted]


async def test_a_pause_is_read_from_a_head_that_came_in_part() -> None:
    async with answering(b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\nx-rest: ", then=hang_up) as (url, _):
        assert await deliver(url) == TryAgain("http_503", 7)
