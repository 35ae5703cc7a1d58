"""`/metrics`, `/livez` and `/readyz` on a port of their own, in every process."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import make_asgi_app
from starlette.types import Receive, Scope, Send

from aircall_oauth.errors import AppError, StartRefused
from aircall_oauth.resources import Resources
from aircall_oauth.server.health import require_serving
from aircall_oauth.server.intake import Intake
from aircall_oauth.server.listener import listening
from aircall_oauth.server.protocol import BoundedServer, Protocol
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

logger = log.get(__name__)

EVERYWHERE = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104
STOP_SECONDS = 1
# A scraper needs one connection, and sends a head of a few hundred bytes.
MOST_CONNECTIONS = 32
SHARE_BYTES = 1024 * 1024
# Some chore ends every few seconds, even while the database is away: a worker in which none does hangs.
CHORES_HANG_SECONDS = 300.0


class QuietServer(BoundedServer):
    """A server that leaves SIGTERM and SIGINT to the process it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def metrics_served(resources: Resources) -> AsyncIterator[None]:
    """Serve `/metrics` and the probes while the block lasts; raises `StartRefused` where the port can't be used."""
    listener = _listener(resources.settings)
    if listener is None:
        yield
        return
    config = uvicorn.Config(
        MetricsApp(resources),
        interface="asgi3",
        http=Protocol,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = QuietServer(config, Intake(SHARE_BYTES))
    with listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task


class MetricsApp:
    """An ASGI application: metrics for a scraper, and probes for a process with no other port, such as the worker."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._metrics = make_asgi_app(resources.metrics.registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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


async def _answer_probe(problem: str | None, send: Send) -> None:
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
        host = EVERYWHERE if settings.metrics_host == "*" else settings.metrics_host
        return listening(host, settings.metrics_port)
    except StartRefused as error:
        if settings.model_fields_set & {"metrics_port", "metrics_host"}:
            raise StartRefused(f"AIRCALL_OAUTH_METRICS_PORT: {error.detail}") from None
        logger.warning("no metrics", reason=error.detail)
        return None
