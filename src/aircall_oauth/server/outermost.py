"""Wraps every answer of the public port: `Connection: close` while leaving, HSTS for the install pages, and a span."""

from typing import TYPE_CHECKING, Any

from aircall_oauth.resources import Resources

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from aircall_oauth.telemetry.tracing import Tracing

BROWSER_DOORS = "/aircall/oauth/"
HSTS = b"max-age=31536000"
UNMATCHED = "(no door)"
# In a request's scope: when it arrived, as a `perf_counter` time; set only if it had to wait.
ARRIVED = "aircall_oauth.arrived"


async def answer(app: "ASGIApp", resources: Resources, scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Have an application answer a request."""
    if resources.leaving:
        # A client that keeps its connections moves to another process now, not when this one closes them.
        send = _with_header(send, b"connection", b"close")
    if resources.settings.sends_hsts and scope["path"].startswith(BROWSER_DOORS):
        send = _with_header(send, b"strict-transport-security", HSTS)
    if resources.tracing is None:
        await app(scope, receive, send)
    else:
        await _in_a_span(resources.tracing, app, scope, receive, send)


def template(scope: "Scope") -> str:
    """Return the path's template, which tells nothing of who asked for what."""
    path: str = getattr(scope.get("route") or scope.get("endpoint"), "path", UNMATCHED)
    return path


async def _in_a_span(tracing: "Tracing", app: "ASGIApp", scope: "Scope", receive: "Receive", send: "Send") -> None:
    status = 0

    async def noting(message: "Message") -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
    with tracing.request(method=scope["method"], path=scope["path"], headers=headers) as span:
        try:
            await app(scope, receive, noting)
        finally:
            span.answered(template=template(scope), status=status)


def _with_header(send: "Send", name: bytes, value: bytes) -> "Send":
    async def adding(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (name, value)]
        await send(message)

    return adding
