"""The console on a port of its own, in the process of `serve`: the public port never leads to it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from aircall_oauth.errors import StartRefused
from aircall_oauth.resources import Resources
from aircall_oauth.server.middleware import RequestMiddleware
from aircall_oauth.server.side_port import listening_at, served_at
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

logger = log.get(__name__)

STOP_SECONDS = 5
MOST_CONNECTIONS = 256
SHARE_BYTES = 4 * 1024 * 1024


def console_app(resources: Resources) -> FastAPI:
    """Build the console with what happens around every request.

    Imported here: where there is no console, no process loads its pages.
    """
    from aircall_oauth.console import app as console

    app = console.create_app(resources)
    app.add_middleware(RequestMiddleware, on_error=console.answer_error)
    return app


@asynccontextmanager
async def console_served(resources: Resources) -> AsyncIterator[None]:
    """Serve the console while the block lasts, if it has a port; raises `StartRefused` if that can't be used."""
    settings = resources.settings
    if settings.console_port == 0:
        yield
        return
    served = served_at(
        _listener(settings),
        console_app(resources),
        connections=MOST_CONNECTIONS,
        share_bytes=SHARE_BYTES,
        stop_seconds=STOP_SECONDS,
    )
    async with served:
        logger.info("console", host=settings.console_host, port=settings.console_port)
        yield


def _listener(settings: Settings) -> socket.socket:
    try:
        return listening_at(settings.console_host, settings.console_port)
    except StartRefused as error:
        raise StartRefused(f"AIRCALL_OAUTH_CONSOLE_PORT: {error.detail}") from None
