"""Runs before every REST request: records it, and breaks it where a fault is set."""

import asyncio
from collections.abc import AsyncIterator
from typing import assert_never

import httpx
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aircall_oauth.sandbox.aircall import refusals
from aircall_oauth.sandbox.aircall.answers import refused
from aircall_oauth.sandbox.aircall.faults import Fault
from aircall_oauth.sandbox.aircall.pretend import PretendAircall, Received

VERSIONS = ("/v1/", "/v2/")
CHUNK = b"a" * 65_536
GATEWAY_PAGE = "<!doctype html><html><body><h1>We'll be right back</h1></body></html>"


class Ledger:
    """Records requests and applies faults. The outermost layer, where a connection can be dropped without an answer."""

    def __init__(self, app: ASGIApp, aircall: PretendAircall) -> None:
        self._app = app
        self._aircall = aircall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(VERSIONS):
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = _received(scope, self._aircall)
        self._aircall.note(received)
        fault = self._aircall.faults.take(received.method, received.path[len("/v1/") :])
        if fault is None:
            await self._app(scope, receive, _noting(send, received))
        else:
            received.broken = fault.how
            await self._break(fault, scope, receive, send, received)

    async def _break(self, fault: Fault, scope: Scope, receive: Receive, send: Send, received: Received) -> None:
        match fault.how:
            case "slow":
                await asyncio.sleep(fault.seconds)
                await self._app(scope, receive, _noting(send, received))
            case "slow_reply":
                await self._app(scope, receive, _after(fault.seconds, _noting(send, received)))
            case "drop_request":
                await _drop(receive, send)
            case "drop_reply":
                await self._app(scope, receive, _swallow)
                await _drop(receive, send)
            case "error_500" | "html" | "huge" | "status_429":
                await self._spoilt(fault)(scope, receive, _noting(send, received))
            case _:
                assert_never(fault.how)

    def _spoilt(self, fault: Fault) -> Response:
        match fault.how:
            case "html":
                return HTMLResponse(GATEWAY_PAGE)
            case "huge":
                return StreamingResponse(_huge(fault.size), media_type="application/json")
            case "status_429":
                limit, reset_at = self._aircall.habits.rate_per_minute, int(self._aircall.clock() + fault.seconds)
                return refused(refusals.too_many_requests(limit, reset_at))
            case _:
                return refused(refusals.server_error())


def _received(scope: Scope, aircall: PretendAircall) -> Received:
    _, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    company = aircall.company_of(token)
    return Received(
        at=aircall.clock(),
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        company_id=company.id if company else None,
    )


def _noting(send: Send, received: Received) -> Send:
    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            received.status = message["status"]
        await send(message)

    return noting


def _after(seconds: float, send: Send) -> Send:
    """Return a `send` that delays the answer: the request's work is done at once."""

    async def late(message: Message) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(seconds)
        await send(message)

    return late


async def _swallow(message: Message) -> None:
    """Drop an answer: the request's work is done."""


async def _drop(receive: Receive, send: Send) -> None:
    """Close the connection without an answer.

    ASGI has no message for it, so under uvicorn this closes the connection behind `send`; in-process there is none, and
    the exception that httpx raises for a closed connection is raised here.
    """
    connection = getattr(getattr(send, "__self__", None), "transport", None)
    if connection is None:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
    connection.close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _huge(size: int) -> AsyncIterator[bytes]:
    yield b'{"access_token": "'
    for start in range(0, size, len(CHUNK)):
        yield CHUNK[: size - start]
    yield b'"}'
