"""Serve a second application in this process, on a port of its own, beside the service's own server."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from aircall_oauth.server.intake import Intake
from aircall_oauth.server.listener import listening
from aircall_oauth.server.protocol import BoundedServer, Protocol

EVERYWHERE = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104


class _QuietServer(BoundedServer):
    """A server that leaves SIGTERM and SIGINT to the process it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listening_at(host: str, port: int) -> socket.socket:
    """Listen at an address of the settings, of which `*` is every one; raises `StartRefused`."""
    return listening(EVERYWHERE if host == "*" else host, port)


@asynccontextmanager
async def served_at(
    listener: socket.socket, app: Any, *, connections: int, share_bytes: int, stop_seconds: int
) -> AsyncIterator[None]:
    """Serve an ASGI application while the block lasts: so many connections, and bytes of what they send, at once."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=Protocol,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=stop_seconds,
    )
    server = _QuietServer(config, Intake(share_bytes))
    with listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task
