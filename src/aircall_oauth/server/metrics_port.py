"""`/metrics`, `/livez` and `/readyz` on a port of their own, in every process."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from prometheus_client import make_asgi_app

from aircall_oauth.errors import AppError, StartRefused
from aircall_oauth.resources import Resources
from aircall_oauth.server.readiness import require_serving
from aircall_oauth.server.side_port import listening_at, served_at
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = log.get(__name__)

STOP_SECONDS = 1
# A scraper needs one connection, and sends a head of a few hundred bytes.
MOST_CONNECTIONS = 32
SHARE_BYTES = 1024 * 1024
# Some chore ends every few seconds, even while the database is away: a worker in which none does hangs.
CHORES_HANG_SECONDS = 300.0


@asynccontextmanager
async def metrics_served(resources: Resources) -> AsyncIterator[None]:
    """Serve `/metrics` and the probes while the block lasts; raises `StartRefused` where the port can't be used."""
    listener = _listener(resources.settings)
    if listener is None:
        yield
        return
    served = served_at(
        listener,
        MetricsApp(resources),
        connections=MOST_CONNECTIONS,
        share_bytes=SHARE_BYTES,
        stop_seconds=STOP_SECONDS,
    )
    async with served:
        yield


class MetricsApp:
    """An ASGI application: metrics for a scraper, and probes for a process with no other port, such as the worker."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._metrics = make_asgi_app(resources.metrics.registry)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        match scope["path"]:
            case "/livez":
                await _answer_probe(self._liveness_problem(), send)
            case "/readyz":
                await _answer_probe(await self._readiness_problem(), send)
            case _:
                await self._metrics(scope, receive, send)

    def _liveness_problem(self) -> str | None:
        ended = self._resources.chore_ended_at
        if ended is not None and time.monotonic() - ended > CHORES_HANG_SECONDS:
            return "No chore has ended for minutes."
        return None

    async def _readiness_problem(self) -> str | None:
        try:
            await require_serving(self._resources)
        except AppError as error:
            return error.detail
        return None


async def _answer_probe(problem: str | None, send: "Send") -> None:
    body = (problem or "ok").encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 503 if problem else 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _listener(settings: Settings) -> socket.socket | None:
    """Listen for scrapers; None where there is no port for them.

    A port in use refuses the start only where it was configured: two processes on one machine share the default.
    """
    if settings.metrics_port == 0:
        return None
    try:
        return listening_at(settings.metrics_host, settings.metrics_port)
    except StartRefused as error:
        if settings.model_fields_set & {"metrics_port", "metrics_host"}:
            raise StartRefused(f"AIRCALL_OAUTH_METRICS_PORT: {error.detail}") from None
        logger.warning("no metrics", reason=error.detail)
        return None
