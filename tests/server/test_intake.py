"""What a sender may make a process hold: one request at a time of each connection, and so many bytes of all of them."""

import asyncio
import json
import random
import re
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest

from aircall_oauth.events.receiver import envelope
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.server.metrics_port import metrics_served
from tests.support.forked import WebProcess, web_processes
from tests.support.service import Service, run_service, settings_for
from tests.support.serving import serving

MIB = 1024 * 1024
WAIT_SECONDS = 60.0
HALF_BODY = (
    b"POST /aircall/webhook HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1048576\r\n\r\n"
    + b" " * (MIB - 1)
)


def peak_bytes(process: WebProcess) -> int:
    """The most memory that it ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def asked(number: int, body: bytes | None = None, *, chunked: bool = False) -> bytes:
    """A request whose answer carries its number."""
    method, path = ("GET", "/livez") if body is None else ("POST", "/aircall/webhook")
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-request-id: n{number}\r\n".encode()
    if body is None:
        return head + b"\r\n"
    if chunked:
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part)
        return head + b"transfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def answered(got: bytes) -> list[int]:
    """The numbers of the requests, as they were answered."""
    return [int(number) for number in re.findall(rb"x-request-id: n(\d+)", got)]


async def test_pipelined_requests_cost_no_memory(database_url: str, tmp_path: Path) -> None:
    sent = b"".join(asked(number) for number in range(MIB // len(asked(10_000))))
    async with web_processes(1, database_url, tmp_path) as ((service,), _token), aiohttp.ClientSession() as session:
        before = peak_bytes(service)
        connections = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(4)]
        for _, writer in connections:
            writer.write(sent)
        got = [await received(reader, b"x-request-id: n200\r\n") for reader, _ in connections]
        async with session.get(f"{service.url}/livez") as answer:
            assert answer.status == 200
        for _, writer in connections:
            writer.transport.abort()

        assert [list(range(201))] * 4 == [answered(each) for each in got]
        assert peak_bytes(service) - before < 100 * MIB


@pytest.mark.slow
async def test_half_bodies_cost_little_memory_and_keep_no_event_out(database_url: str, tmp_path: Path) -> None:
    async with web_processes(1, database_url, tmp_path) as ((service,), token), aiohttp.ClientSession() as session:
        before = peak_bytes(service)
        half = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(600)]
        answers = []
        for number, (_, writer) in enumerate(half):
            with suppress(ConnectionError):
                await send(writer, HALF_BODY)
            if number % 20 == 0:
                event = {"event": "call.created", "token": token, "data": {"id": number}}
                async with session.post(f"{service.url}/aircall/webhook", data=json.dumps(event)) as answer:
                    answers.append(answer.status)
        for _, writer in half:
            writer.close()

        assert [200] * 30 == answers
        assert peak_bytes(service) - before < 250 * MIB


@pytest.mark.parametrize("seed", range(8))
async def test_requests_cut_anywhere_are_answered_in_order(service: Service, seed: int) -> None:
    dice = random.Random(seed)
    bodies = [None, b"", b"{}", b"\r\n\r\n" * 50, b"x" * 300, b"GET / HTTP/1.1\r\n\r\n"]
    sent = b"".join(asked(number, dice.choice(bodies), chunked=dice.random() < 0.5) for number in range(60))
    async with serving(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while sent:
            piece, sent = sent[: (size := dice.choice([1, 3, 17, 120, 4000]))], sent[size:]
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        got = await received(reader, b"x-request-id: n59\r\n")
        writer.close()

    assert list(range(60)) == answered(got)
    assert set(re.findall(rb"HTTP/1.1 (\d+)", got)) <= {b"200", b"400"}


async def test_what_follows_a_request_is_refused_only_after_its_answer(service: Service) -> None:
    async with serving(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked(1) + b"nonsense\r\n\r\n" + asked(2))
        got = await asyncio.wait_for(reader.read(), WAIT_SECONDS)
        writer.close()

    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"400"]
    assert answered(got) == [1]


async def test_a_head_of_very_many_headers_is_refused(service: Service) -> None:
    async with serving(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\n" + b"a:\r\n" * 5000)
        got = await asyncio.wait_for(reader.read(), WAIT_SECONDS)
        writer.close()

    assert got.startswith(b"HTTP/1.1 400 ")


async def test_metrics_are_told_on_loopback_only_unless_asked_for_elsewhere(database_url: str) -> None:
    port = str(free_port())
    async with run_service(settings_for(database_url, METRICS_PORT=port)) as it, metrics_served(it.resources):
        assert (is_open("127.0.0.1", int(port)), is_open("127.0.0.2", int(port))) == (True, False)

    everywhere = settings_for(database_url, METRICS_PORT=port, METRICS_HOST="*")
    async with run_service(everywhere) as it, metrics_served(it.resources):
        assert is_open("127.0.0.2", int(port))


async def test_an_endless_head_is_refused_on_the_metrics_port_too(database_url: str) -> None:
    port = free_port()
    async with run_service(settings_for(database_url, METRICS_PORT=str(port))) as it, metrics_served(it.resources):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            await send(writer, b"GET /metrics HTTP/1.1\r\nx: " + b"a" * (8 * MIB))
        with suppress(ConnectionError):
            assert (await asyncio.wait_for(reader.read(), WAIT_SECONDS))[:13] in (b"", b"HTTP/1.1 400 ")
        writer.close()
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.status == 200


async def test_a_large_body_of_a_stranger_is_not_parsed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.installed()
    read, looked_at = envelope.read, list[tuple[int, int]]()

    def noting(body: bytes) -> envelope.Envelope:
        looked_at.append((len(body), threading.get_ident()))
        return read(body)

    monkeypatch.setattr(envelope, "read", noting)
    strange, broken = large_event("stranger"), b"x" * 100_000
    hidden = large_event("stranger").replace(b'"token"', b'"\\u0074oken"')
    ours = large_event(service.webhook_token())

    answers = [(await service.post_event(body)).status_code for body in (strange, broken, hidden, ours)]

    assert answers == [401, 400, 401, 200]
    here = threading.get_ident()
    assert [(size, thread == here) for size, thread in looked_at] == [(len(hidden), False), (len(ours), True)]


@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_large_event_is_recognised_wherever_its_token_stands(service: Service, place: str) -> None:
    await service.installed()
    data = {"rows": [{"token": "other"} for _ in range(20)], "text": "<é>" * 30_000}
    token = {"token": service.webhook_token()}
    event = (token if place == "before" else {}) | {"event": "call.created", "data": data} | token

    spellings = [json.dumps(event, ensure_ascii=escaped).encode() for escaped in (True, False)]
    assert [(await service.post_event(body)).status_code for body in spellings] == [200, 200]


def large_event(token: str) -> bytes:
    return json.dumps({"event": "call.created", "token": token, "data": "x" * 100_000}).encode()


def is_open(host: str, port: int) -> bool:
    with closing(socket.socket()) as caller:
        return caller.connect_ex((host, port)) == 0


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def received(reader: asyncio.StreamReader, until_: bytes) -> bytes:
    return await asyncio.wait_for(reader.readuntil(until_), WAIT_SECONDS)
