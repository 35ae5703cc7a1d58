"""Asking Aircall through us: what is passed on and what is not, and that nothing leads anywhere else."""

import asyncio
import itertools
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn

from aircall_oauth.access import keys, rules
from aircall_oauth.access.scopes import Scope
from aircall_oauth.aircall import relay, transport
from aircall_oauth.events.receiver.endpoint import Receiver
from aircall_oauth.proxy import headers, routes
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.server.app import create_app
from aircall_oauth.server.protocol import BoundedServer, Protocol
from aircall_oauth.server.receiving import open_receiver
from aircall_oauth.storage.sealed import TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.storage.vault import SealedAt
from tests.support.databases import migrated_database
from tests.support.service import Service, loop_turns, settings_for, until

TOKEN = "c4n4ry-access-token"
COMPANY_IDS = itertools.count(71000)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
HANG_UP = b""
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TARGETS = [
    b"calls?",
    b"calls/",
    b"calls?page=2&per_page=50&order=desc",
    b"contacts/search?phone_number=%2B33600000000&email=a@b.c",
    b"calls?q=%20+%C3%96%ff&&=&x[]=1&x[]=2&a=b=c&%",
    b"calls?q=..%2f..%2f//evil.example.com/?#",
    b'calls?q={"a":"<b>|^`"}\\',
    b"users/me@example.com,~x;v=1/%C3%96%20x/(a)!$&'*+=:",
    b"a/b/c/d/e/f/%41%2e5/...%2e/.x",
]
TRICKS = [
    *(b"", b"/", b"//evil.example.com/v1", b"/evil.example.com", b"calls//1", b"calls///", b"calls/1//"),
    *(b".", b"..", b"../oauth/token", b"calls/../../../oauth", b"calls/..", b"calls/./1", b"./calls", b"calls/."),
    *(b"%2e%2e/x", b"calls/%2E%2e/%2e%2e/x", b".%2e/x", b"%2e", b"calls/%252e%252e/x", b"%25252e%25252e/x"),
    *(b"..;/x", b"calls/..;a=b/x", b"calls/.;/x", b";/x", b"calls/%2e%2e%3b/x", b"..%00/x"),
    *(b"calls%2f..%2f..", b"calls%252fx", b"calls%25252fx", b"%2f%2fevil.example.com", b"calls%5c..%5cx", b"a%255cb"),
    *(b"%2fcalls", b"calls%2f%2f1", b"calls/%2f1", b"calls%2f/1", b"calls%2f1%2f%2f", b"%2f", b"calls%2f.%2f1"),
    *(b"..%2foauth%2ftoken", b"%2e%2e%2foauth", b"calls%2F%2e%2e%2Fx", b"calls%2f%252e%252e%2fx", b"x%2f..;%2fy"),
    *(b"calls%2f;x", b"calls%2f%20", b"calls%2f%00", b"calls%2f..%5cx", b"%%2f2f", b"%2%2f5c", b"calls%2f%2"),
    *(b"%c0%af..%2fx%5c", b"calls%2f%3fx", b"https:%2f%2fevil.example.com%2f", b"%5c%2fevil.example.com"),
    *(b"calls\\..\\x", b"\\\\evil.example.com", b"calls\\x", b"https:%2f%2fevil.example.com"),
    *(b"http://evil.example.com/", b"https://evil.example.com", b"calls%3fx=1", b"calls%23x", b"calls%253fx"),
    *(b"calls%00", b"calls%0d%0aX-Evil:1", b"calls%0a", b"calls%2500", b"calls%7f", b"calls%09"),
    *(
        b"calls%",
        b"calls%2",
        b"calls%zz",
        b"calls%u002e",
        b"call s",
        b'call"s',
        b"calls<x>",
        b"calls|x",
        b"{calls}",
    ),
    *(b"v2", b"v2/", b"v2%2f", b"v1", b"V2/users", b"v2/../v1/calls", b"v2/..", b"v2%2f..%2fv1/calls", b"v2/%2e%2e/v1"),
    *(
        b"%762/users",
        b"v%32/users",
        b"%76%32",
        b"v2;x/users",
        b"v2%3b/users",
        b"v2%20/users",
        b"v0/users",
        b"v01/users",
    ),
    *(b"v100/users", b"v2//users", b"v2/.", b"v2/./users", b"%5672/users", b"V1%2fcalls", b"v%2532/users", b"v2/%2e"),
    *(b"\xc0\xae\xc0\xae/x", b"\xe2\x80\xa5/x", b"calls/\xff", b"@evil.example.com/..", b"x" * 5000),
]
NONSENSE = [
    *(HANG_UP, b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n"),
    *(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n: c4n4ry\r\n\r\n"),
    b"HTTP/1.1 200 OK\r\nx: " + b"c4n4ry" * 50_000 + b"\r\n\r\n",
]


class Aircall:
    """Answers with what it is told to, and keeps every byte it was sent."""

    def __init__(self) -> None:
        self.answers: list[bytes | Script] = []
        self.received: list[bytes] = []
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def asked(self) -> list[str]:
        """The request lines."""
        return [request.split(b"\r\n")[0].decode() for request in self.received]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.received.append(head)
                answer = self.answers.pop(0) if self.answers else _usual(head)
                if isinstance(answer, bytes):
                    self.received[-1] += await _rest(head, reader)
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
                if answer == HANG_UP or b"connection: close" in (answer if isinstance(answer, bytes) else b""):
                    break
        writer.close()
        self._writers.discard(writer)

    async def begin_anew(self) -> None:
        """Forget what was asked and told, and hang up, so that no connection is left from before."""
        self.answers, self.received = [], []
        for writer in self._writers:
            writer.close()
        await loop_turns()


def _usual(head: bytes) -> bytes:
    return OK.removesuffix(b"{}") if head.startswith(b"HEAD") else OK


async def _rest(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if length := re.search(rb"content-length: (\d+)", head):
        return await reader.readexactly(int(length[1]))
    if b"transfer-encoding: chunked" in head.lower():
        return await reader.readuntil(b"0\r\n\r\n")
    return b""


class World:
    """The service over real HTTP, in front of an Aircall that says what the test wants."""

    def __init__(self, place: "Place", api_key: str, installation_id: str, company_id: int) -> None:
        self.aircall, self.resources, url = place
        self.installation_id = installation_id
        self.company_id = company_id
        self.port = int(url.rpartition(":")[2])
        self.door = f"/v1/installations/{installation_id}/aircall"
        self.key = api_key
        self.client = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {api_key}"}, trust_env=False, timeout=20.0
        )

    async def ask(self, method: str = "GET", path: str = "calls", **options: Any) -> httpx.Response:
        return await self.client.request(method, f"{self.door}/{path}", **options)

    async def raw(
        self, target: bytes, *, method: bytes = b"GET", headers: Sequence[bytes] = (), body: bytes = b""
    ) -> bytes:
        """The whole answer to a request line that no client would send."""
        head = [
            *(method + b" " + target + b" HTTP/1.1", b"host: localhost", b"connection: close"),
            *(b"authorization: Bearer " + self.key.encode(), *headers),
        ]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    async def status(self) -> str:
        """The installation's."""
        (row,) = await self.sql("SELECT status FROM installation WHERE id = $1", self.installation_id)
        status: str = row["status"]
        return status

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        async with self.resources.database.driver_connection() as connection:
            return list(await connection.fetch(statement, *values))


class Place(NamedTuple):
    """What several worlds may stand on, one after another."""

    aircall: Aircall
    resources: Resources
    url: str

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        """A world whose installation, company and API key no other has."""
        await self.aircall.begin_anew()
        company_id = next(COMPANY_IDS)
        installation_id = await connected(self.resources, company_id)
        api_key = await keys.create(self.resources, name=installation_id, scopes=[Scope.AIRCALL_CALL])
        world = World(self, api_key, installation_id, company_id)
        async with world.client:
            yield world


@asynccontextmanager
async def a_place(database_url: str, **changes: str) -> AsyncIterator[Place]:
    aircall = Aircall()
    server = await asyncio.start_server(aircall.serve, "127.0.0.1", 0)
    api_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    settings = settings_for(database_url, API_URL=api_url, **changes)
    async with open_resources(settings) as resources, listening(resources) as url:
        yield Place(aircall, resources, url)
    server.close()


@asynccontextmanager
async def a_world(database_url: str, **changes: str) -> AsyncIterator[World]:
    async with a_place(database_url, **changes) as place, place.world() as it:
        yield it


@pytest.fixture(scope="module")
async def place(postgres: Postgres) -> AsyncIterator[Place]:
    async with migrated_database(postgres, "proxy") as url, a_place(url) as it:
        yield it


@pytest.fixture
async def world(place: Place) -> AsyncIterator[World]:
    async with place.world() as it:
        yield it


async def connected(resources: Resources, company_id: int = 70077, owner: str | None = None) -> str:
    """An active installation; its id."""
    installation_id = new_id("ins")
    async with resources.database.driver_connection() as connection:
        await connection.execute(
            "INSERT INTO installation (id, status, owner, company_id, integration_id, token_sealed, "
            "token_fingerprint, connected_at) VALUES ($1, 'active', $2, $3, $3, $4, $5, now())",
            installation_id,
            owner,
            company_id,
            resources.vault.seal(TOKEN, SealedAt(TOKEN_COLUMN, installation_id)),
            resources.vault.fingerprint(TOKEN, TOKEN_PURPOSE),
        )
    return installation_id


@asynccontextmanager
async def listening(resources: Resources) -> AsyncIterator[str]:
    app = create_app(Receiver())
    config = uvicorn.Config(
        app, http=Protocol, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = BoundedServer(config)
    async with open_receiver(resources, app.receiver) as inbox, app.opened(resources, inbox):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True
            await serving


def answer(status: int, *headers: str, body: bytes = b"{}") -> bytes:
    lines = (f"HTTP/1.1 {status} X", *headers, f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_request_is_passed_on_as_it_is(world: World) -> None:
    world.aircall.answers = [answer(201, "content-type: application/json", body=b'{"contact": 1}')]

    got = await world.ask("POST", "contacts", content=b'{"first_name": "\xc3\x96"}', headers={"idempotency-key": "1"})

    assert (got.status_code, got.content) == (201, b'{"contact": 1}')
    (received,) = world.aircall.received
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/contacts HTTP/1.1\r\n")
    assert body == b'{"first_name": "\xc3\x96"}'
    assert b"\r\nidempotency-key: 1" in head
    assert b"\r\nauthorization: Bearer " + TOKEN.encode() in head
    assert head.count(b"authorization") == 1


async def test_every_method_is_passed_on(world: World) -> None:
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

    codes = [(await world.ask(method, "tags/7")).status_code for method in methods]

    assert codes == [200] * len(methods)
    assert world.aircall.asked == [f"{method} /v1/tags/7 HTTP/1.1" for method in methods]


async def test_the_head_of_an_answer_is_passed_on_without_its_body(world: World) -> None:
    world.aircall.answers = [b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: 4711\r\n\r\n"]

    got = await world.ask("HEAD", "calls")

    assert (got.status_code, got.headers["content-length"], got.content) == (200, "4711", b"")


async def test_path_and_query_arrive_byte_for_byte(world: World) -> None:
    for target in TARGETS:
        got = await world.raw(world.door.encode() + b"/" + target)

        assert got.startswith(b"HTTP/1.1 200"), target
        expected = target.split(b"#")[0].removesuffix(b"?" if target == b"calls?" else b"")
        assert world.aircall.received[-1].split(b" ")[1] == b"/v1/" + expected


async def test_an_encoded_slash_is_sent_on_as_a_slash(world: World) -> None:
    for sent, passed in (
        (b"calls%2F42", b"calls/42"),
        (b"calls%2f42%2Ftags/1?a=%2F", b"calls/42/tags/1?a=%2F"),
        (b"calls%2F", b"calls/"),
        (b"calls%2F%41%2e5", b"calls/%41%2e5"),
    ):
        got = await world.raw(world.door.encode() + b"/" + sent)

        assert got.startswith(b"HTTP/1.1 200"), sent
        assert world.aircall.received[-1].split(b" ")[1] == b"/v1/" + passed


async def test_no_path_leads_out_of_aircalls_api(world: World) -> None:
    for path in TRICKS:
        got = await world.raw(world.door.encode() + b"/" + path)

        assert re.match(rb"HTTP/1.1 (400|404|422) ", got), (path, got)
    assert world.aircall.received == []


async def test_the_door_itself_has_one_spelling(world: World) -> None:
    for part in ("%61ircall", "aircall%2f", "aircall%2f..%2fx/aircall"):
        got = await world.raw(world.door.replace("aircall", part).encode() + b"/calls/aircall/users")

        assert re.match(rb"HTTP/1.1 (400|404) ", got), got
    assert world.aircall.received == []


async def test_an_absolute_request_line_changes_nothing(world: World) -> None:
    await world.raw(b"http://evil.example.com" + world.door.encode() + b"/calls", headers=[b"x: y"])

    assert world.aircall.asked in ([], ["GET /v1/calls HTTP/1.1"])


async def test_a_query_that_fits_no_request_line_is_refused(world: World) -> None:
    for query in (b"q=\xc3\x96", b"q=\x01"):
        got = await world.raw(world.door.encode() + b"/calls?" + query)

        assert re.match(rb"HTTP/1.1 4\d\d ", got), got
    assert world.aircall.received == []


async def test_what_is_of_the_callers_own_way_and_secrets_stays_here(world: World) -> None:
    own = {
        "cookie": "c4n4ry=1",
        "proxy-authorization": "Basic c4n4ry",
        "x-api-key": "c4n4ry",
        "referer": "c4n4ry",
        "connection": "keep-alive, x-named",
        "x-named": "c4n4ry",
        "keep-alive": "c4n4ry",
        "te": "trailers",
        "upgrade": "c4n4ry",
        "x-forwarded-for": "c4n4ry",
        "x-forwarded-host": "c4n4ry",
        "forwarded": "for=c4n4ry",
        "via": "c4n4ry",
        "x-real-ip": "c4n4ry",
        "origin": "https://c4n4ry",
        "sec-fetch-site": "c4n4ry",
        "x-http-method-override": "c4n4ry",
        "x-original-url": "/c4n4ry",
        "x-rewrite-url": "/c4n4ry",
    }
    kept = {"accept-language": "fr", "if-none-match": '"x"', "content-type": "application/json", "idempotency-key": "1"}

    await world.ask("GET", "calls", headers=own | kept)

    (received,) = world.aircall.received
    assert b"c4n4ry" not in received.replace(TOKEN.encode(), b"")
    assert world.key.encode() not in received
    assert received.lower().count(b"\r\nhost: 127.0.0.1:") == 1
    for name, value in kept.items():
        assert f"\r\n{name}: {value}\r\n".encode() in received


# What makes another request of a request, or another caller of a caller, for something that may read it on its way.
HARMFUL = [
    *(
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-HTTP-Host-Override",
        "X-Host",
        "X-Original-URL",
    ),
    *("X-API-Key", "X-Auth-Token", "Cookie2", "X-CSRF-Token", "Api-Key", "X-Amz-Security-Token"),
    *(
        "X-Forwarded-For",
        "X-Forwarded",
        "True-Client-IP",
        "X-Client-IP",
        "CF-Connecting-IP",
        "Fastly-Client-IP",
        "Client-IP",
    ),
    *(
        "Transfer-Encoding",
        "Content-Length",
        "Content-Type",
        "Authorization",
        "Host",
        "Cookie",
        "Proxy",
        "Expect",
        "Via",
    ),
    *("Accept", "If-Match", "User-Agent", "X-Mine", "Traceparent", "Baggage", "Origin", "X-Wap-Profile", "Remote-User"),
]


async def test_only_headers_of_the_list_reach_aircall_and_in_one_spelling_only(world: World) -> None:
    folded = [name.replace("-", "_", times) for name in HARMFUL for times in (-1, 1) if "-" in name]
    unlisted = [name for name in HARMFUL if name.lower().encode() not in headers.OF_A_REQUEST | NEVER_AS_GIVEN]
    sent = [f"{name}: c4n4ry".encode() for name in [*folded, *unlisted]]

    got = await world.raw(world.door.encode() + b"/calls", headers=sent)

    assert got.startswith(b"HTTP/1.1 200 "), got
    (received,) = world.aircall.received
    assert received.replace(TOKEN.encode(), b"").count(b"c4n4ry") == 0
    names = [line.partition(b":")[0].lower() for line in received.split(b"\r\n")[1:] if line]
    assert sorted(names) == [b"authorization", b"host"]


# Not to be sent twice, or read by our own server.
NEVER_AS_GIVEN = {b"transfer-encoding", b"authorization", b"host", b"expect"}


async def test_every_header_of_the_list_reaches_aircall(world: World) -> None:
    listed = sorted(headers.OF_A_REQUEST - {b"content-length"})

    await world.raw(world.door.encode() + b"/calls", headers=[name + b": kept" for name in listed])

    (received,) = world.aircall.received
    assert [name for name in listed if b"\r\n" + name + b": kept\r\n" not in received] == []


def test_the_documented_list_of_headers_is_the_one_that_is_used() -> None:
    told = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    listed = told.partition("Aircall is sent these headers")[2].partition("Others are left out")[0]

    assert {name.lower().encode() for name in re.findall(r"`([A-Za-z-]+)`", listed)} == headers.OF_A_REQUEST


@pytest.mark.parametrize("named", [b"content-length", b"Content-Length, close", b"content-length,content-type"])
async def test_a_body_stays_whatever_the_caller_says_of_its_connection(world: World, named: bytes) -> None:
    body = b'{"first_name": "x"}'
    sent = [b"connection: " + named, b"content-type: application/json", b"content-length: %d" % len(body)]

    got = await world.raw(world.door.encode() + b"/contacts", method=b"POST", headers=sent, body=body)

    assert got.startswith(b"HTTP/1.1 200 "), got
    (received,) = world.aircall.received
    assert received.endswith(b"\r\n\r\n" + body)
    assert b"\r\ncontent-type: application/json\r\n" in received


async def test_an_answer_stays_readable_whatever_aircall_says_of_its_connection(world: World) -> None:
    world.aircall.answers = [
        answer(200, "connection: content-encoding, content-type", "content-encoding: br", "content-type: x/y")
    ]

    got = await world.raw(world.door.encode() + b"/calls")

    assert b"\r\ncontent-encoding: br\r\n" in got
    assert b"\r\ncontent-type: x/y\r\n" in got


async def test_a_header_that_is_no_text_is_refused(world: World) -> None:
    door = world.door.encode() + b"/calls"

    accepted = await world.raw(door, headers=["idempotency-key: Zoë".encode()])
    refused = await world.raw(door, headers=[b"idempotency-key: Zo\xeb"])

    assert accepted.startswith(b"HTTP/1.1 200 "), accepted
    assert refused.startswith(b"HTTP/1.1 422 "), refused
    (received,) = world.aircall.received
    assert "\r\nidempotency-key: Zoë\r\n".encode() in received


async def test_the_useful_headers_of_an_answer_come_back_and_no_others(world: World) -> None:
    useful = {
        "content-type": "application/json; charset=utf-8",
        "etag": '"x"',
        "apigw-requestid": "abc=",
        "x-aircallapi-limit": "120",
        "x-aircallapi-remaining": "77",
        "x-aircallapi-reset": "1767261600",
        "x-amz-cf-id": "abc",
        "retry-after": "3",
        "cache-control": "private",
        "vary": "accept",
    }
    dropped = {
        "set-cookie": "c4n4ry=1",
        "location": "https://c4n4ry",
        "www-authenticate": "c4n4ry",
        "server": "c4n4ry",
        "connection": "keep-alive, x-amz-named",
        "x-amz-named": "c4n4ry",
        "keep-alive": "timeout=c4n4ry",
        "access-control-allow-origin": "c4n4ry",
        "strict-transport-security": "c4n4ry",
        "refresh": "0; c4n4ry",
        "alt-svc": "c4n4ry",
        "x-request-id": "c4n4ry",
        "clear-site-data": "c4n4ry",
        "proxy-authenticate": "c4n4ry",
    }
    world.aircall.answers = [answer(200, *(f"{name}: {value}" for name, value in (useful | dropped).items()))]

    got = await world.ask()

    assert useful.items() <= dict(got.headers).items()
    assert "c4n4ry" not in str(got.headers)
    assert got.headers["x-request-id"].startswith("req_")
    assert len(got.headers.get_list("date")) <= 1


async def test_aircalls_status_and_body_are_the_answer(world: World) -> None:
    for status in (200, 204, 304, 400, 404, 405, 422, 500, 503, 599, 429):
        body = b"" if status in {204, 304} else b'{"error":"Not Found","troubleshoot":"x"}'
        world.aircall.answers = [answer(status, "content-type: application/json", body=body)]

        got = await world.ask()

        assert (got.status_code, got.content) == (status, body)
        assert got.headers["content-type"] == "application/json"


async def test_a_compressed_answer_stays_as_it_is(world: World) -> None:
    squeezed = b"\x1f\x8b\x08" + b"x" * 50
    world.aircall.answers = [answer(200, "content-encoding: gzip", body=squeezed)]

    got = await world.raw(world.door.encode() + b"/calls")

    assert got.endswith(b"\r\n\r\n" + squeezed)
    assert b"content-encoding: gzip" in got


async def test_a_redirect_is_neither_followed_nor_passed_on(world: World) -> None:
    statuses = (300, 301, 302, 303, 307, 308)
    world.aircall.answers = [answer(s, "location: https://evil.example.com/c4n4ry", body=b"c4n4ry") for s in statuses]

    for status in statuses:
        got = await world.ask()

        assert (got.status_code, got.json()["code"]) == (502, "redirect_refused"), status
        assert "c4n4ry" not in got.text + str(got.headers)
    assert len(world.aircall.received) == len(statuses)


async def test_an_answer_is_passed_on_while_it_comes(world: World) -> None:
    first_arrived = asyncio.Event()

    async def in_two_parts(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await first_arrived.wait()
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    world.aircall.answers = [in_two_parts]
    async with world.client.stream("GET", f"{world.door}/calls") as got:
        parts = got.aiter_raw()
        first = await anext(parts)
        first_arrived.set()
        rest = b"".join([part async for part in parts])

    assert (first, rest) == (b"first", b"second")


async def test_a_body_is_passed_on_while_it_comes(world: World) -> None:
    first_arrived = asyncio.Event()
    received: list[bytes] = []

    async def wait_for_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"first\r\n"))
        first_arrived.set()
        received.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(OK)

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await first_arrived.wait()
        yield b"second"

    world.aircall.answers = [wait_for_both]
    got = await world.ask("POST", "contacts", content=body())

    assert got.status_code == 200
    assert b"second" in received[1]


async def test_a_body_is_bounded_in_size(world: World) -> None:
    async def too_much() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b"x" * 65536

    for method in ("POST", "GET"):
        world.aircall.answers = [_reading_on]
        streamed = await world.ask(method, "contacts", content=too_much())
        declared = await world.ask(method, "contacts", content=b"x" * (routes.MAX_BODY_BYTES + 1))

        for got in (streamed, declared):
            assert (got.status_code, got.json()["code"]) == (413, "body_too_large")


async def _reading_on(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def test_the_largest_body_is_passed_on(world: World) -> None:
    body = b"x" * routes.MAX_BODY_BYTES

    assert (await world.ask("POST", "contacts", content=body)).status_code == 200

    assert world.aircall.received[0].endswith(b"\r\n\r\n" + body)


async def test_a_body_that_does_not_come_is_not_waited_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "BODY_SECONDS", 0.3)
    world.aircall.answers = [_reading_on]

    got = await world.raw(
        world.door.encode() + b"/contacts", method=b"POST", headers=[b"content-length: 10", b"content-type: x/y"]
    )

    assert got.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in got


async def test_an_answer_that_does_not_come_is_not_waited_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "HEAD_SECONDS", 0.3)
    world.aircall.answers = [_reading_on]

    got = await world.ask("POST", "contacts")

    assert (got.status_code, got.json()["code"]) == (502, "aircall_unavailable")
    assert "timeout" in got.json()["detail"]


async def test_who_finds_too_many_waiting_is_told_so_and_aircall_is_not_asked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECTIONS", 3)
    monkeypatch.setattr(relay, "TIMEOUTS", relay.TIMEOUTS | {"pool": 0.2})
    answered = asyncio.Event()

    async def wait(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answered.wait()
        writer.write(OK)

    async with a_world(database_url) as world:
        world.aircall.answers = [wait] * 3
        waiting = [asyncio.create_task(world.ask()) for _ in range(3)]
        await until(lambda: len(world.aircall.received) == 3)

        got = await world.ask()
        answered.set()
        answers = await asyncio.gather(*waiting)
        later = [await world.ask() for _ in range(4)]

        assert (got.status_code, got.json()["code"], got.headers["retry-after"]) == (503, "too_many_at_once", "2")
        assert {answer.status_code for answer in answers + later} == {200}
        assert len(world.aircall.received) == 7


async def test_an_answer_known_to_be_too_large_is_refused(world: World) -> None:
    world.aircall.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (relay.MAX_ANSWER_BYTES + 1)]

    got = await world.ask()

    assert (got.status_code, got.json()["code"]) == (502, "aircall_unavailable")


async def _endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def _broken_off(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
    writer.close()


async def _never_ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
    await _reading_on(reader, writer)


@pytest.mark.parametrize("script", [_endless, _broken_off, _never_ending])
async def test_an_answer_that_ends_early_ends_early_for_the_caller_too(
    world: World, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MAX_ANSWER_BYTES", 1024 * 1024)
    monkeypatch.setattr(relay, "BODY_SECONDS", 5.0 if script is _endless else 0.5)
    world.aircall.answers = [script]

    with pytest.raises(httpx.RemoteProtocolError):
        await world.ask()

    assert (await world.ask()).status_code == 200


async def test_a_read_is_asked_once_more_where_the_connection_broke(world: World) -> None:
    for number, method in enumerate(("GET", "HEAD"), start=1):
        world.aircall.answers = [HANG_UP, answer(200, body=b"")]

        got = await world.ask(method)

        assert got.status_code == 200
        assert len(world.aircall.received) == 2 * number
        spent = "SELECT sum(s) AS n FROM budget, unnest(spent) AS s WHERE company_id = $1"
        (row,) = await world.sql(spent, world.company_id)
        assert row["n"] == 2 * number


async def test_a_read_with_a_body_is_asked_once_more_with_it(world: World) -> None:
    world.aircall.answers = [HANG_UP, OK]

    got = await world.ask("GET", "calls", content=b"once more")

    assert got.status_code == 200
    assert [request[-9:] for request in world.aircall.received] == [b"once more"] * 2


async def test_a_read_is_asked_twice_at_most(world: World) -> None:
    world.aircall.answers = [HANG_UP, HANG_UP, OK]

    got = await world.ask()

    assert (got.status_code, got.json()["code"]) == (502, "aircall_unavailable")
    assert len(world.aircall.received) == 2


async def test_what_may_change_something_is_never_asked_again(world: World) -> None:
    asked = [*product(("POST", "PUT", "PATCH", "DELETE", "OPTIONS"), (b"", b"{}"))]
    for method, content in asked:
        # The first answer makes that the connection was used before, as one is that Aircall has just closed.
        world.aircall.answers = [OK, HANG_UP, OK]
        await world.ask()

        got = await world.ask(method, "contacts/1", content=content)

        assert (got.status_code, got.json()["code"]) == (502, "aircall_unavailable"), (method, content)
    assert len(world.aircall.received) == 2 * len(asked)


async def test_what_came_unasked_is_nobodys_answer(world: World) -> None:
    answered, told = asyncio.Event(), asyncio.Event()

    async def answer_twice(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, body=b"first"))
        await writer.drain()
        await answered.wait()
        writer.write(answer(200, body=b"unasked"))
        await writer.drain()
        told.set()

    for method, code in (("GET", 200), ("POST", 502)):
        world.aircall.answers = [answer_twice, answer(200, body=b"second"), answer(200, body=b"third")]
        answered.clear()
        told.clear()
        assert (await world.ask("GET", "users")).content == b"first"
        answered.set()
        await told.wait()
        await loop_turns()

        got = await world.ask(method, "calls")
        last = await world.ask("GET", "teams")

        assert (got.status_code, got.content == b"second") == (code, code == 200)
        assert last.content == (b"third" if code == 200 else b"second")


async def test_an_answer_is_an_answer_and_not_asked_for_again(world: World) -> None:
    statuses = (500, 502, 503, 429)
    for status in statuses:
        world.aircall.answers = [answer(status)]

        assert (await world.ask()).status_code == status
    assert len(world.aircall.received) == len(statuses)


async def test_what_follows_a_switch_to_another_protocol_is_nobodys_answer(world: World) -> None:
    async def switch(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        await asked_again.wait()
        writer.write(answer(200, body=b"stray"))

    async def second(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked_again.set()
        writer.write(answer(200, body=b"second"))

    asked_again = asyncio.Event()
    world.aircall.answers = [switch, second]

    first = await world.ask("POST", "contacts")
    next_one = await asyncio.wait_for(world.ask("GET", "calls"), 10)

    assert (first.status_code, first.json()["code"]) == (502, "aircall_unavailable")
    assert (next_one.status_code, next_one.content) == (200, b"second")


async def test_an_answer_that_is_none_of_http_is_refused_and_not_asked_for_again(world: World) -> None:
    unfit = [answer(status) for status in (0, 99, 600, 999)] + [answer(200, "etag: \x01"), answer(200, "etag: \x7f")]
    for said in unfit:
        world.aircall.answers = [said.replace(b" 0 X", b" 000 X").replace(b" 99 X", b" 099 X")]

        got = await world.ask()

        assert (got.status_code, got.json()["code"]) == (502, "aircall_unavailable"), said
    assert len(world.aircall.received) == len(unfit)


@pytest.mark.parametrize("status", [204, 304])
async def test_no_length_is_told_of_a_body_that_does_not_come(world: World, status: int) -> None:
    world.aircall.answers = [b'HTTP/1.1 %d X\r\netag: "x"\r\ncontent-length: 4711\r\n\r\n' % status]

    got = await world.ask()

    assert (got.status_code, got.headers["etag"], got.content) == (status, '"x"', b"")
    assert "content-length" not in got.headers


OFFERS = [
    [b"upgrade: h2c", b"connection: upgrade, http2-settings", b"http2-settings: AAMAAABkAAQ"],
    [b"upgrade: websocket", b"connection: upgrade"],
]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("at_once", [1, 65536])
async def test_an_offer_to_go_on_in_another_protocol_is_not_taken_and_costs_no_body(
    world: World, offer: list[bytes], at_once: int
) -> None:
    door = world.door.encode() + b"/contacts"
    head = [b"host: x", b"authorization: Bearer " + world.key.encode(), *offer]
    requests = [
        b"\r\n".join([b"POST " + door + b" HTTP/1.1", *head, b"content-length: 5", b"", b"first"]),
        b"\r\n".join([b"POST " + door + b" HTTP/1.1", *head, b"transfer-encoding: chunked", b"", b"6\r\nsecond"])
        + b"\r\n0\r\n\r\n",
        b"\r\n".join([b"GET " + door + b" HTTP/1.1", *head, b"connection: close", b"", b""]),
    ]
    sent = b"".join(requests)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)

    for begin in range(0, len(sent), at_once):
        writer.write(sent[begin : begin + at_once])
        await writer.drain()
    got = await asyncio.wait_for(reader.read(), 20)
    writer.close()

    assert got.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert [request.partition(b"\r\n\r\n")[2] for request in world.aircall.received] == [
        *(b"first", b"6\r\nsecond\r\n0\r\n\r\n", b"")
    ]
    assert b"upgrade" not in b"".join(world.aircall.received).lower()


async def test_no_error_shows_the_token_or_what_aircall_said(world: World) -> None:
    for nonsense in NONSENSE:

        async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = nonsense) -> None:
            writer.write(said)
            writer.close()

        world.aircall.answers = [say, say]

        got = await world.ask()

        assert got.status_code == 502, nonsense[:40]
        assert got.json()["code"] == "aircall_unavailable"
        assert got.headers["content-type"] == "application/problem+json"
        assert "c4n4ry" not in got.text + str(got.headers)


async def test_an_aircall_that_is_not_there_is_a_clear_answer(database_url: str) -> None:
    async with a_world(database_url) as it:
        it.aircall.answers = []
        gone = open_resources(settings_for(database_url, API_URL="http://127.0.0.1:1/v1"))
        async with gone as resources, listening(resources) as url:
            got = await it.client.get(f"{url}{it.door}/calls")

    assert (got.status_code, got.json()["code"]) == (502, "aircall_unavailable")
    assert got.json()["detail"] == "Aircall is unavailable: ConnectError"


async def test_a_caller_who_hangs_up_harms_nobody(world: World) -> None:
    async def waiting_for_more(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()
        ended.set()

    begun, ended = asyncio.Event(), asyncio.Event()
    world.aircall.answers = [waiting_for_more]
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    head = (f"POST {world.door}/contacts HTTP/1.1", "host: x", f"authorization: Bearer {world.key}")
    writer.write("\r\n".join((*head, "content-length: 10", "", "12345")).encode())
    await asyncio.wait_for(begun.wait(), 20)

    writer.close()

    await asyncio.wait_for(ended.wait(), 20)
    assert (await world.ask()).status_code == 200


@pytest.mark.parametrize("status", ["unclaimed", "unauthorized", "removed"])
async def test_only_an_active_installation_may_be_asked_as(world: World, status: str) -> None:
    erased = ", token_sealed = NULL, token_fingerprint = NULL" if status == "removed" else ""
    await world.sql(f"UPDATE installation SET status = $1{erased} WHERE id = $2", status, world.installation_id)

    got = await world.ask()

    assert (got.status_code, got.json()["code"]) == (409, "installation_not_active")
    assert ("install again" in got.json()["detail"]) == (status == "unauthorized")
    assert world.aircall.received == []
    assert await world.sql("SELECT * FROM audit WHERE installation_id = $1", world.installation_id) == []


async def test_an_installation_that_is_not_there_is_404(world: World) -> None:
    got = await world.client.get(f"/v1/installations/{new_id('ins')}/aircall/calls")

    assert (got.status_code, got.json()["code"]) == (404, "installation_not_found")


async def test_a_spent_budget_is_429_and_aircall_is_not_asked(database_url: str) -> None:
    async with a_world(database_url, AIRCALL_RATE_PER_MINUTE="3") as it:
        answers = [await it.ask() for _ in range(5)]

        assert [got.status_code for got in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["code"] == "budget_spent"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 64
        assert len(it.aircall.received) == 3
        other = await connected(it.resources, 70078)
        assert (await it.client.get(f"/v1/installations/{other}/aircall/calls")).status_code == 200


async def test_aircalls_own_429_is_passed_on_and_the_next_request_is_not(world: World) -> None:
    world.aircall.answers = [answer(429, "retry-after: 30")]

    first, second = await world.ask(), await world.ask()

    assert (first.status_code, first.content) == (429, b"{}")
    assert (second.status_code, second.json()["code"]) == (429, "budget_spent")
    assert 20 < int(second.headers["retry-after"]) <= 30
    assert len(world.aircall.received) == 1


async def test_aircalls_own_count_is_believed(world: World) -> None:
    world.aircall.answers = [answer(200, "x-aircallapi-remaining: 1", "x-aircallapi-reset: 60")]

    answers = [await world.ask() for _ in range(3)]

    assert [got.status_code for got in answers] == [200, 200, 429]


async def test_each_request_leaves_a_line_in_the_audit_that_says_what_kind_it_was(world: World) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE"):
        await world.ask(method, "calls/4711?secret=c4n4ry", headers={"x-request-id": f"trace-{method}"})

    lines = "SELECT * FROM audit WHERE installation_id = $1 ORDER BY at, id"
    rows = await world.sql(lines, world.installation_id)
    (key,) = await world.sql("SELECT id FROM api_key WHERE name = $1", world.installation_id)
    assert [(row["action"], row["request_id"]) for row in rows] == [
        ("aircall.read", "trace-GET"),
        ("aircall.read", "trace-HEAD"),
        ("aircall.write", "trace-POST"),
        ("aircall.write", "trace-DELETE"),
    ]
    assert {(row["actor"], row["installation_id"], row["address"]) for row in rows} == {
        (key["id"], world.installation_id, "127.0.0.1")
    }


async def test_no_request_is_passed_on_that_leaves_no_line(database_url: str) -> None:
    async with a_world(database_url) as world:
        await world.sql("ALTER TABLE audit RENAME TO gone")

        got = await world.ask()

        assert got.status_code == 500
        assert world.aircall.received == []


async def test_without_a_database_nobody_is_asked(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner()
    asked = len(service.aircall.requests)

    async with service.database_away():
        got = await partner.get(f"/v1/installations/{installation_id}/aircall/calls")

    assert (got.status_code, got.json()["code"]) == (503, "database_away")
    assert asked == len(service.aircall.requests)


async def test_the_pretend_aircall_is_asked_as_the_installation(shared_service: Service) -> None:
    installation_id = await shared_service.install()
    call_id = await shared_service.aircall.place_call()
    partner = await shared_service.partner(Scope.AIRCALL_CALL)
    door = f"/v1/installations/{installation_id}/aircall"

    company = await partner.get(f"{door}/company")
    call = await partner.get(f"{door}/calls/{call_id}")
    page = await partner.get(f"{door}/calls", params={"per_page": 1})

    assert company.json()["company"]["name"] == shared_service.aircall.companies[0].name
    assert call.json()["call"]["id"] == call_id
    assert len(page.json()["calls"]) == 1


async def test_a_token_that_died_is_found_out_by_the_first_request(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner()
    service.aircall.grants.revoke_company(70077)

    first = await partner.get(f"/v1/installations/{installation_id}/aircall/calls")
    second = await partner.get(f"/v1/installations/{installation_id}/aircall/calls")

    for got in (first, second):
        assert (got.status_code, got.json()["code"]) == (409, "installation_not_active")
        assert "install again" in got.json()["detail"]
    shown = (await partner.get(f"/v1/installations/{installation_id}")).json()
    assert shown["status"] == "unauthorized"
    assert (await partner.get("/v1/events")).json()["events"][-1]["type"] == "installation.unauthorized"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_that_a_second_look_does_not_confirm_is_aircalls_answer(world: World, status: int) -> None:
    integration = {"id": world.company_id, "company_id": world.company_id, "active": True, "number_ids": []}
    me = json.dumps({"integration": integration}).encode()
    world.aircall.answers = [answer(status, body=b'{"message": "Forbidden"}'), answer(200, body=me)]

    got = await world.ask()

    assert (got.status_code, got.content) == (status, b'{"message": "Forbidden"}')
    assert world.aircall.asked[1] == "GET /v1/integrations/me HTTP/1.1"
    assert await world.status() == "active"


async def test_a_version_in_the_path_takes_the_place_of_the_usual_one(world: World) -> None:
    for sent, passed in (
        (b"calls?a=1", b"/v1/calls?a=1"),
        (b"v1/calls", b"/v1/calls"),
        (b"v2/users/1?order=asc", b"/v2/users/1?order=asc"),
        (b"v2%2Fusers", b"/v2/users"),
        (b"v10/users", b"/v10/users"),
        (b"v1/v2/users", b"/v1/v2/users"),
        (b"vx2/users", b"/v1/vx2/users"),
    ):
        got = await world.raw(world.door.encode() + b"/" + sent)

        assert got.startswith(b"HTTP/1.1 200"), sent
        assert world.aircall.received[-1].split(b" ")[1] == passed


async def test_all_versions_share_one_budget(database_url: str) -> None:
    async with a_world(database_url, AIRCALL_RATE_PER_MINUTE="3") as it:
        answers = [await it.ask("GET", path) for path in ("users", "v2/users", "v1/users", "v2/users")]

    assert [got.status_code for got in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["code"] == "budget_spent"


@pytest.mark.parametrize(
    "path",
    [
        "calls/1/transcription",
        "v1/calls/1/summary",
        "calls/1/topics/",
        "calls%2f1%2fsentiments",
        "calls/1/%61ction_items",
    ],
)
async def test_a_missing_ai_plan_makes_no_token_suspect(world: World, path: str) -> None:
    world.aircall.answers = [answer(403, body=b'{"error": "no plan"}'), answer(403)]

    got = await world.raw(f"{world.door}/{path}".encode())

    assert got.startswith(b"HTTP/1.1 403 ")
    assert got.endswith(b'{"error": "no plan"}')
    assert len(world.aircall.received) == 1
    assert await world.status() == "active"


@pytest.mark.parametrize("path", ["calls/1/tags", "calls/1", "calls/transcription", "transcription", "v2/users"])
async def test_a_refusal_anywhere_else_makes_a_token_suspect(world: World, path: str) -> None:
    world.aircall.answers = [answer(403), answer(403)]

    got = await world.ask("GET", path)

    assert (got.status_code, got.json()["code"]) == (409, "installation_not_active")
    assert world.aircall.asked[1] == "GET /v1/integrations/me HTTP/1.1"


async def test_the_pretend_aircall_has_both_versions_and_no_ai_plan(shared_service: Service) -> None:
    installation_id = await shared_service.install()
    call_id = await shared_service.aircall.place_call()
    partner = await shared_service.partner(Scope.AIRCALL_CALL)
    door = f"/v1/installations/{installation_id}/aircall"

    users = await partner.get(f"{door}/v2/users")
    words = await partner.get(f"{door}/v1/calls/{call_id}/transcription")
    call = await partner.get(f"{door}/calls/{call_id}")

    assert users.json()["users"]
    assert (words.status_code, call.status_code) == (403, 200)


@pytest.mark.parametrize("rule", ["GET /v2", "GET /V2/users", "GET /v2/", "* /v0/users", "GET /v100/users"])
def test_a_rule_of_an_odd_version_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="version"):
        rules.checked(rule)


# In place of a segment, some server would read each of these as the collection's own path.
COLLECTIONS = [
    "",
    "/",
    ".",
    "%2e",
    ";",
    ";a=b",
    "%3b",
    "%2f",
    "%20",
    "%20;a=b",
    "%09",
    "%2520",
    ".%20",
    "%20.",
    "..%20",
]
RULES = [
    (["GET /calls/*"], ["GET calls/1", "HEAD calls/1"], ["GET calls", "GET calls/1/tags", "PUT calls/1", "GET x"]),
    (["GET /calls/**"], ["GET calls/1/tags", "GET calls/1"], ["GET calls", "GET callsx/1", "POST calls/1"]),
    (
        ["GET /calls/*"],
        ["GET calls/1;a=b"],
        ["GET calls/", "HEAD calls/", "GET calls;x/1", "GET CALLS/1", "GET Calls/"],
    ),
    (["DELETE /contacts/*"], [], [f"DELETE contacts/{odd}" for odd in COLLECTIONS] + ["DELETE contacts"]),
    (
        ["GET /calls/*/tags"],
        ["GET calls/1/tags"],
        [f"GET calls/{odd}/tags" for odd in COLLECTIONS] + ["GET calls/tags"],
    ),
    (["GET /calls/**"], [], [f"GET calls/{odd}" for odd in COLLECTIONS]),
    (["* /tags/*-x", "GET /users/me*"], ["GET users/me2"], ["GET tags/-x", "GET users/me"]),
    (
        ["POST,PUT /contacts"],
        ["POST contacts", "PUT contacts"],
        ["GET contacts", "POST contacts/1", "POST Contacts"],
    ),
    (
        ["GET /users"],
        ["GET users", "GET v1/users", "GET v1%2fusers"],
        ["GET v2/users", "GET v10/users", "GET v1/v1/users"],
    ),
    (
        ["GET /v2/users"],
        ["GET v2/users"],
        ["GET users", "GET v1/users", "GET v2/users/1", "GET v22/users", "GET V2/users"],
    ),
    (
        ["GET /v1/calls/*"],
        ["GET calls/1", "GET v1/calls/1"],
        ["GET v2/calls/1", "GET v1/calls", "GET v2/../v1/calls/1"],
    ),
    (["GET /**"], ["GET calls", "GET v1/calls/1"], ["GET v2/users", "GET v10/users", "GET v2", "GET v2%2fusers"]),
    (["GET /*/users", "GET /v*/users"], ["GET x/users", "GET v1/x/users"], ["GET v2/users", "GET v1/users"]),
    (["GET /v1/**"], ["GET calls"], ["GET v11/calls", "GET v2/calls"]),
    (["* /tags/*-x", "GET /users"], ["DELETE tags/1-x", "GET users"], ["DELETE tags/1", "GET users/", "PUT users"]),
    (
        ["GET /calls/*"],
        ["GET calls%2f1"],
        ["GET %63alls/1", "GET calls%2f1%2ftags", "GET calls/1/", "GET calls/../users", "GET /calls/1"],
    ),
]


async def test_a_key_with_rules_asks_for_what_they_allow_only(world: World) -> None:
    async def codes(asked: Iterable[str]) -> list[bytes]:
        pairs = [one.split(" ") for one in asked]
        answers = [await world.raw(f"{world.door}/{path}".encode(), method=method.encode()) for method, path in pairs]
        return [one.split(b" ")[1] for one in answers]

    for ruled, allowed, refused in RULES:
        world.key = await keys.create(world.resources, name="narrow", scopes=[Scope.AIRCALL_CALL], aircall_rules=ruled)
        assert await codes(allowed) == [b"200"] * len(allowed), ruled
        before = len(world.aircall.received)
        assert set(await codes(refused)) <= {b"403", b"400"}, ruled
        assert len(world.aircall.received) == before


async def test_what_a_key_may_not_ask_is_said_before_anything_is_looked_up(world: World) -> None:
    world.key = await keys.create(
        world.resources, name="narrow", scopes=[Scope.AIRCALL_CALL], aircall_rules=["GET /calls"]
    )

    got = await world.raw(f"/v1/installations/{new_id('ins')}/aircall/users".encode())

    assert got.startswith(b"HTTP/1.1 403 ")
    assert b"path_not_allowed" in got
