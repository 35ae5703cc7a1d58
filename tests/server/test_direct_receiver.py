"""Small events are answered inside the HTTP protocol, and nobody but a stopwatch can tell."""

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from typing import cast

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aircall_oauth.events.receiver import body as bodies
from aircall_oauth.events.receiver import inbox
from aircall_oauth.events.receiver.endpoint import Receiver
from aircall_oauth.events.receiver.statement import TakenIn
from aircall_oauth.server.app import App
from aircall_oauth.server.protocol import DirectCycle
from tests.support.service import Service, run_service, settings_for, until
from tests.support.serving import serving

HEAD = b"POST /aircall/webhook HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture
async def connected(service: Service) -> Service:
    await service.installed()
    return service


@pytest.fixture
def by_asgi(monkeypatch: pytest.MonkeyPatch) -> list[Scope]:
    """The requests that reach the receiver by ASGI."""
    seen: list[Scope] = []
    usual = Receiver.__call__

    async def noting(self: Receiver, scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await usual(self, scope, receive, send)

    monkeypatch.setattr(Receiver, "__call__", noting)
    return seen


def event(service: Service, number: int = 1, **more: object) -> bytes:
    sent = {"event": "call.created", "token": service.webhook_token(), "data": {"id": number}, **more}
    return json.dumps(sent).encode()


def request(body: bytes, *headers: bytes, head: bytes = HEAD) -> bytes:
    lines = (b"content-length: %d" % len(body), *headers)
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


async def exchange(port: int, *sent: bytes, answers: int = 1) -> list[bytes]:
    """Send pieces one after the other, and return so many answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in sent:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        got = [await _answer(reader) for _ in range(answers)]
    writer.close()
    return got


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head)
    assert found, head
    return head + await reader.readexactly(int(found[1]))


async def stored(service: Service) -> int:
    return len(await service.sql("SELECT 1 FROM event WHERE source = 'aircall'"))


async def test_both_ways_give_the_same_answer_to_the_byte(
    connected: Service, database_url: str, by_asgi: list[Scope]
) -> None:
    sent = {
        "new": request(event(connected), b"x-request-id: mine"),
        "repeated": request(event(connected), b"X-Request-Id: mine"),
        "unknown token": request(event(connected, token="another"), b"x-request-id: mine"),
        "malformed": request(b"[]", b"x-request-id: mine"),
        "not UTF-8": request(b"\xff", b"x-request-id: mine"),
        "an id of its own": request(event(connected, 2), b"x-request-id: not a word"),
        "offers an upgrade": request(event(connected, 3), b"upgrade: h2c", b"connection: upgrade"),
    }

    async def asked(port: int) -> dict[str, list[bytes]]:
        return {name: await exchange(port, each) for name, each in sent.items()}

    async with serving(connected) as port:
        direct = await asked(port)
    assert by_asgi == []
    await connected.sql("DELETE FROM event")
    await connected.sql("DELETE FROM event_fingerprint")
    async with run_service(settings_for(database_url, DIRECT_RECEIVER="false")) as other, serving(other) as port:
        usual = await asked(port)

    assert len(by_asgi) == len(sent)
    assert {name: _plain(answer) for name, answer in direct.items()} == {
        name: _plain(answer) for name, answer in usual.items()
    }
    assert [answer[0].split(b" ")[1] for answer in direct.values()] == [
        *(b"200", b"200", b"401", b"400", b"400", b"200", b"200")
    ]


def _plain(answers: list[bytes]) -> list[bytes]:
    """Without what differs from request to request."""
    return [re.sub(rb"(date: [^\r]+|req_[0-9a-f]+)", b"...", each) for each in answers]


UNCOMMON = {
    "chunked": (b"transfer-encoding: chunked\r\n", "chunked"),
    "expects": (b"expect: 100-continue\r\n", "whole"),
    "closes": (b"connection: close\r\n", "whole"),
    "identity": (b"content-encoding: identity\r\n", "whole"),
    "large": (b"", "large"),
    "a query": (b"", "query"),
    "an escaped path": (b"", "escaped"),
}


@pytest.mark.parametrize("name", UNCOMMON)
async def test_what_is_uncommon_takes_the_usual_way(connected: Service, by_asgi: list[Scope], name: str) -> None:
    lines, how = UNCOMMON[name]
    body = event(connected, text="x" * 70_000) if how == "large" else event(connected)
    head = {
        "query": HEAD.replace(b"webhook", b"webhook?a=1"),
        "escaped": HEAD.replace(b"webhook", b"w%65bhook"),
    }.get(how, HEAD)
    async with serving(connected) as port:
        if how == "chunked":
            sent = head + lines + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            sent = request(body, *lines.split(b"\r\n")[:-1], head=head)
        (answer,) = await exchange(port, sent)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(by_asgi) == 1
    assert await stored(connected) == 1


async def test_an_event_in_pieces_and_several_at_once_are_answered_in_order(
    connected: Service, by_asgi: list[Scope]
) -> None:
    whole = request(event(connected, 1))
    at_once = b"".join(request(event(connected, n), b"x-request-id: r%d" % n) for n in (2, 3, 4))
    async with serving(connected) as port:
        in_pieces = await exchange(port, whole[:20], whole[20:100], whole[100:-1], whole[-1:])
        together = await exchange(port, at_once + b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n", answers=4)

    assert in_pieces[0].startswith(b"HTTP/1.1 200 ")
    assert [re.findall(rb"x-request-id: (r\d)", each) for each in together] == [[b"r2"], [b"r3"], [b"r4"], []]
    assert by_asgi == []
    assert await stored(connected) == 4


async def test_a_sender_that_hangs_up_stops_no_commit(connected: Service, by_asgi: list[Scope]) -> None:
    async with serving(connected) as port:
        for sent in (request(event(connected, 1)), request(event(connected, 2))[:-1]):
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            await writer.drain()
            writer.close()
        await until(lambda: _acks(connected) == {("200", "stored"): 1, ("0", "hung_up"): 1})

    assert by_asgi == []
    assert await stored(connected) == 1


def _acks(service: Service) -> dict[tuple[str, str], float]:
    (metric,) = service.resources.metrics._acks.collect()
    return {
        (each.labels["status"], each.labels["answer"]): each.value
        for each in metric.samples
        if each.name.endswith("_total") and each.value
    }


async def test_a_body_that_is_late_is_told_so_and_never_kept(
    connected: Service, monkeypatch: pytest.MonkeyPatch, by_asgi: list[Scope]
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.1)
    sent = request(event(connected))
    async with serving(connected) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # Behind another request, so that no further piece comes in once it is its turn.
        writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n" + sent[:-1])
        await asyncio.wait_for(_answer(reader), 20)
        late = await asyncio.wait_for(_answer(reader), 20)
        writer.write(sent[-1:] + b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        after = await asyncio.wait_for(_answer(reader), 20)
        writer.close()

    assert late.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "body_too_slow"' in late
    assert after.startswith(b"HTTP/1.1 200 ")
    assert by_asgi == []
    assert await stored(connected) == 0


async def test_a_full_inbox_and_a_broken_reader_are_answered_too(
    connected: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(connected) as port:
        monkeypatch.setattr(inbox, "MAX_WAITING", 0)
        (full,) = await exchange(port, request(event(connected)))
        monkeypatch.undo()
        monkeypatch.setattr(Receiver, "_arrival", lambda *_: 1 / 0)
        broken = await exchange(port, request(event(connected)) * 3, answers=3)

    assert full.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in full
    assert [each.split(b"\r\n")[0] for each in broken] == [b"HTTP/1.1 500 Internal Server Error"] * 3


async def test_a_server_that_stops_answers_what_it_has_and_closes(connected: Service) -> None:
    app = cast("App", connected.app)
    offered = asyncio.Event()
    told: list[Callable[[TakenIn], None]] = []

    def holding(_body: bytes, tell: Callable[[TakenIn], None]) -> None:
        told.append(tell)
        offered.set()

    app.receiver.offer = holding  # type: ignore[method-assign,assignment]
    serving_it = serving(connected)
    port = await serving_it.__aenter__()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(event(connected)))
    await offered.wait()
    stopping = asyncio.create_task(serving_it.__aexit__(None, None, None))
    await asyncio.sleep(0.3)
    told[0](TakenIn.STORED)
    got = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await stopping

    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in got


def test_what_uvicorns_protocol_asks_of_a_cycle_a_direct_one_has() -> None:
    asked = set(re.findall(r"self\.cycle\.(\w+)", inspect.getsource(HttpToolsProtocol)))

    assert {"body", "more_body", "message_event", "response_complete", "disconnected", "keep_alive"} == asked
    assert asked <= {*dir(DirectCycle), "body"}
