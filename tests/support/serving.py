"""The service of this process on a real port, in place of a test client that calls the application."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import httpx
import uvicorn

from aircall_oauth.server import protocol, web
from aircall_oauth.server.app import App
from tests.support.service import Service


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[int]:
    """The port."""
    app = cast("App", service.app)
    config = uvicorn.Config(app, interface="asgi3", http=protocol.Protocol, ws="none", lifespan="off", log_config=None)
    running = web.Server(config, service.resources, app.receiver, app.end_waiting)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(running.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            running.should_exit = True
            await serving


@asynccontextmanager
async def over_http(service: Service) -> AsyncIterator[Service]:
    """The service, met over real connections: small events are answered without ASGI."""
    async with (
        serving(service) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60, limits=httpx.Limits(max_connections=1000)
        ) as browser,
    ):
        yield dataclasses.replace(service, browser=browser)
