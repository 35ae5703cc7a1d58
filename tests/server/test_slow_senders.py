"""Two thousand connections that hardly send do not keep good events out, and are cut off."""

import asyncio
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from aircall_oauth.server import protocol
from tests.support.forked import web_processes
from tests.support.service import Service, until
from tests.support.serving import serving

SLOW = 2000
GOOD = 200
HEAD = b"POST /aircall/webhook HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
OFFER = b"upgrade: h2c\r\nconnection: upgrade\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
# Far more than a refused sender gets rid of.
MANY_PIECES = 500
# What has been sent by the time nothing more comes but a byte now and then.
BEGUN = (
    b"",
    b"POST /aircall/",
    HEAD,
    HEAD + b"content-length: 500\r\n\r\n",
    HEAD + b'content-length: 500\r\n\r\n{"event":',
)
TRICKLE_SECONDS = 0.5
# The service's ten seconds, and as much again for a slow machine.
CUT_OFF_SECONDS = 40.0


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as two thousand connections need, where the machine allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = SLOW + 500
    if hard < needed:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class SlowSender(asyncio.Protocol):
    """Sends the beginning of a request, and then a byte at a time."""

    def __init__(self, begun: bytes) -> None:
        self.open = False
        self.answer = b""
        self._begun = begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.open = True
        self._transport = transport
        transport.write(self._begun)

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def connection_lost(self, _error: Exception | None) -> None:
        self.open = False

    def trickle(self) -> None:
        if self.open and self._begun:
            self._transport.write(b"x")


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
async def test_two_thousand_slow_senders_keep_nobody_out_and_are_cut_off(database_url: str, tmp_path: Path) -> None:
    async with web_processes(1, database_url, tmp_path) as ((service,), token), aiohttp.ClientSession() as session:
        slow = [await _begin(service.port, BEGUN[number % len(BEGUN)]) for number in range(SLOW)]
        trickling = asyncio.create_task(_trickle(slow))

        answers = [await _post(session, service.url, token, 0)]
        still_open = sum(sender.open for sender in slow)
        answers += [await _post(session, service.url, token, number) for number in range(1, GOOD)]
        await until(lambda: not any(sender.open for sender in slow), CUT_OFF_SECONDS)
        last = await _post(session, service.url, token, GOOD)
        trickling.cancel()

    assert [200] * GOOD == answers
    assert still_open == SLOW
    assert last == 200
    told = {sender.answer.split(b"\r\n", 1)[0] for sender in slow}
    assert {b"", b"HTTP/1.1 408 Request Timeout"} == told, "a body that is late is told so"


async def test_no_door_waits_for_a_body_for_long(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.5)
    async with serving(service) as port:
        slow = await _begin(port, HEAD + b"content-length: 500\r\n\r\n{")

        await until(lambda: not slow.open, CUT_OFF_SECONDS)

    assert slow.answer == b"", "closed, and long before the receiver's own ten seconds"


@pytest.mark.parametrize("begun", [HEAD + b"x: ", b"GET /", HEAD + OFFER + b"x: ", HEAD + CHUNKED + b"0\r\nx: "])
async def test_a_head_that_does_not_end_is_refused_before_it_is_large(service: Service, begun: bytes) -> None:
    async with serving(service) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        with pytest.raises(ConnectionError):
            await _go_on(writer)
        writer.close()


async def test_a_long_body_and_long_heads_one_after_the_other_are_taken(service: Service) -> None:
    long_head = HEAD + OFFER + b"x: " + b"a" * (protocol.HEAD_BYTES // 2) + b"\r\n"
    sent = b"".join([long_head + b"content-length: 2\r\n\r\n{}"] * 4)
    sent += HEAD + b"content-length: %d\r\nconnection: close\r\n\r\n" % (10 * protocol.HEAD_BYTES)
    async with serving(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent + b" " * (10 * protocol.HEAD_BYTES))
        got = await asyncio.wait_for(reader.read(), CUT_OFF_SECONDS)
        writer.close()

    assert got.count(b"HTTP/1.1 400 ") == 5, got


async def _begin(port: int, begun: bytes) -> SlowSender:
    _transport, sender = await asyncio.get_running_loop().create_connection(
        lambda: SlowSender(begun), "127.0.0.1", port
    )
    return sender


async def _go_on(writer: asyncio.StreamWriter) -> None:
    for _ in range(MANY_PIECES):
        writer.write(b"x" * protocol.HEAD_BYTES)
        await writer.drain()


async def _trickle(senders: list[SlowSender]) -> None:
    while True:
        for sender in senders:
            sender.trickle()
        await asyncio.sleep(TRICKLE_SECONDS)


async def _post(session: aiohttp.ClientSession, url: str, token: str, number: int) -> int:
    event = {"event": "call.created", "token": token, "data": {"id": number}}
    async with session.post(f"{url}/aircall/webhook", data=json.dumps(event)) as answer:
        return answer.status
