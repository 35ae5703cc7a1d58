"""`/metrics` on a port of its own, beside a process's real work."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import make_asgi_app

from aircall_oauth import log
from aircall_oauth.errors import StartRefused
from aircall_oauth.intake import Intake
from aircall_oauth.listener import listening
from aircall_oauth.protocol import BoundedServer, Protocol
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings

logger = log.get(__name__)

EVERYWHERE = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104
STOP_SECONDS = 1
# A scraper needs one connection, and sends a head of a few hundred bytes.
MOST_CONNECTIONS = 32
SHARE_BYTES = 1024 * 1024


class MetricsServer(BoundedServer):
    """Serves beside the process's real work, which decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def metrics_served(resources: Resources) -> AsyncIterator[None]:
    """`/metrics` on its own port while the block lasts."""
    listener = _listener(resources.settings)
    if listener is None:
        yield
        return
    config = uvicorn.Config(
        make_asgi_app(resources.metrics.registry),
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
    server = MetricsServer(config, Intake(SHARE_BYTES))
    with listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task


def _listener(settings: Settings) -> socket.socket | None:
    """Only a port that was asked for is worth a refusal to start: two processes on one machine share the default."""
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
