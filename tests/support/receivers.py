"""A partner's system that events are delivered to: over real HTTP, it checks signatures and misbehaves as told."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from tests.support.service import Service

LOOPBACK = "127.0.0.0/8"


@dataclass
class Received:
    """One request."""

    headers: Mapping[str, str]
    body: bytes
    path: str = ""
    target: str = ""  # path and query, as they came

    @property
    def event(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


Answer = Callable[[Received], Awaitable[web.StreamResponse] | web.StreamResponse]


def answer_with(status: int, headers: Mapping[str, str] | None = None) -> Answer:
    return lambda _: web.Response(status=status, headers=headers)


class Hangup(Exception):
    """The receiver closes the connection without an answer."""


@dataclass
class Receiver:
    """What came in; `answer` says what is answered, `answers` only for single events by their number `data.n`."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answer: Answer = field(default_factory=lambda: answer_with(200))
    answers: dict[int, Answer] = field(default_factory=dict)
    connections: int = 0
    open_now: int = 0
    most_open: int = 0
    taken: list[dict[str, Any]] = field(default_factory=list)  # events that were answered 2xx, in order

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def targets(self) -> list[str]:
        return [received.target for received in self.received]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that were taken, in order."""
        return [event["data"]["n"] for event in self.taken if "n" in event["data"]]

    def count(self) -> Counter[int]:
        return Counter(self.numbers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        received = Received(dict(request.headers), await request.read(), request.path, request.raw_path)
        self.received.append(received)
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            answer = self.answers.get(received.event["data"].get("n"), self.answer)(received)
            response = answer if isinstance(answer, web.StreamResponse) else await answer
        except Hangup:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        finally:
            self.open_now -= 1
        if 200 <= response.status < 300:
            self.taken.append(received.event)
        return response


@asynccontextmanager
async def receiver(port: int = 0, ssl_context: Any = None) -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    it = Receiver()
    application = web.Application(client_max_size=4 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", it.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    with socket.create_server(("127.0.0.1", port)) as listener:
        await web.SockSite(runner, listener, ssl_context=ssl_context).start()
        it.port = listener.getsockname()[1]
        try:
            yield it
        finally:
            await runner.cleanup()


@asynccontextmanager
async def raw_receiver(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that answers what it likes, byte by byte; its address."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def verify(received: Received, secret: str) -> dict[str, Any]:
    """As Standard Webhooks' own library does it; raises where a signature is wrong."""
    return Webhook(secret).verify(received.body, dict(received.headers))  # type: ignore[no-any-return]


@dataclass
class Partner:
    """A partner with a subscription."""

    client: httpx.AsyncClient
    id: str
    secret: str | None

    async def shown(self) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/subscriptions/{self.id}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def post(self, door: str, body: Any = None) -> dict[str, Any]:
        answer = await self.client.post(f"/v1/subscriptions/{self.id}/{door}", json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def attempts(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.client.get(f"/v1/subscriptions/{self.id}/attempts", params={"limit": 1000, **query})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def stands(self, seconds: float = 20.0, **wanted: Any) -> dict[str, Any]:
        """Wait until the subscription is shown so."""
        async with asyncio.timeout(seconds):
            while True:
                shown = await self.shown()
                if wanted.items() <= shown.items():
                    return shown
                await asyncio.sleep(0.02)


def subscription_body(url: str, *, name: str = "crm", **fields: Any) -> dict[str, Any]:
    """The body that makes an HTTP subscription."""
    return {"name": name, "kind": "http", "url": url, **fields}


async def subscribe(service: Service, url: str, owner: str | None = None, **fields: Any) -> Partner:
    """A subscription to everything from now on."""
    client = await service.partner(owner=owner)
    body = subscription_body(url, name="test") | fields
    answer = await client.post("/v1/subscriptions", json=body)
    assert answer.status_code == 201, answer.text
    return Partner(client, answer.json()["id"], answer.json()["secret"])


async def tell(service: Service, count: int, *, first: int = 0, type_: str = "call.created") -> None:
    """Events in the log, numbered by `data.n`, each about a call, a user … of its own."""
    token = service.webhook_token()
    for number in range(first, first + count):
        body = {
            "resource": type_.partition(".")[0],
            "event": type_,
            "token": token,
            "timestamp": 1767261600,
            "data": {"id": number, "n": number},
        }
        assert (await service.post_event(json.dumps(body).encode())).status_code == 200


async def fill(service: Service, count: int, *, first: int = 0, installations: int = 1, calls: int = 2**31) -> None:
    """Many events at once, past the door: numbered by `data.n`, over some installations that need not be.

    Each is about a call of its own, or all are about so many calls in turn.
    """
    await service.sql(
        """
        INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, subject, source,
                           data)
        SELECT nextval('event_position'), now(), 'evt_' || md5('event' || n), 'ins_' || md5((n % $3)::text), 1,
               'call.created', 'call', 'call:' || n % $4::bigint, 'aircall', '{"n": ' || n || '}'
        FROM generate_series($1::int, $1::int + $2::int - 1) AS n ORDER BY n
        """,
        first,
        count,
        installations,
        calls,
    )
    await service.sql("NOTIFY aircall_oauth_log")
