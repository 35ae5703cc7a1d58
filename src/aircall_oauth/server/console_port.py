"""The console on a port of its own, in the process of `serve`: the public port never leads to it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from aircall_oauth.console import app as console
from aircall_oauth.errors import StartRefused
from aircall_oauth.resources import Resources
from aircall_oauth.server.intake import Intake
from aircall_oauth.server.listener import listening
from aircall_oauth.server.metrics_port import EVERYWHERE, QuietServer
from aircall_oauth.server.middleware import RequestMiddleware
from aircall_oauth.server.protocol import Protocol
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

logger = log.get(__name__)

STOP_SECONDS = 5
MOST_CONNECTIONS = 256
SHARE_BYTES = 4 * 1024 * 1024


def console_app(resources: Resources) -> FastAPI:
    """Build the console with what happens around every request."""
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
    config = uvicorn.Config(
        console_app(resources),
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
    with _listener(settings) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        logger.info("console", host=settings.console_host, port=settings.console_port)
        try:
            yield
        finally:
            server.should_exit = True
            await task


def _listener(settings: Settings) -> socket.socket:
    host = EVERYWHERE if settings.console_host == "*" else settings.console_host
    try:
        return listening(host, settings.console_port)
    except StartRefused as error:
        raise StartRefused(f"AIRCALL_OAUTH_CONSOLE_PORT: {error.detail}") from None
