"""The console on a port of its own, in the process of `serve`: the public port never leads to it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aircall_oauth.errors import StartRefused
from aircall_oauth.resources import Resources
from aircall_oauth.server.side_port import listening_at, served_at
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = log.get(__name__)

STOP_SECONDS = 5
MOST_CONNECTIONS = 256
SHARE_BYTES = 4 * 1024 * 1024


def console_app(resources: Resources) -> "FastAPI":
    """Build the console with what happens around every request.

    Imported here: where there is no console, no process loads its pages.
    """
    from aircall_oauth.console import app as console
    from aircall_oauth.server.middleware import RequestMiddleware

    app = console.create_app(resources)
    app.add_middleware(RequestMiddleware, on_error=console.answer_error)
    return app


def listen_for_console(settings: Settings) -> socket.socket | None:
    """Listen for the console, which is served later; None where it has no port. Raises `StartRefused`."""
    if settings.console_port == 0:
        return None
    try:
        listener = listening_at(settings.console_host, settings.console_port)
    except StartRefused as error:
        raise StartRefused(f"AIRCALL_OAUTH_CONSOLE_PORT: {error.detail}") from None
    logger.info("console", host=settings.console_host, port=settings.console_port)
    return listener


@asynccontextmanager
async def console_served(app: "FastAPI", listener: socket.socket) -> AsyncIterator[None]:
    """Serve the console there while the block lasts."""
    served = served_at(listener, app, connections=MOST_CONNECTIONS, share_bytes=SHARE_BYTES, stop_seconds=STOP_SECONDS)
    async with served:
        yield
