"""A service that a client of another process can reach, and that notes which operations it was asked for."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from aircall_oauth.access.scopes import Scope as ApiScope
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.server import openapi
from tests.support.receivers import LOOPBACK
from tests.support.service import Service, run_service, settings_for, until

HOME = "https://app.example.com/aircall/connected"
PATHS = openapi.document()["paths"]


@dataclass
class Reachable:
    """A service on a port of this machine."""

    service: Service
    url: str
    api_key: str
    asked: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.service.app(scope, receive, send)
        template = getattr(scope.get("route"), "path_format", scope.get("path"))
        operation = PATHS.get(template, {}).get(scope.get("method", "").lower())
        if operation is not None:
            self.asked.add(operation["operationId"])

    @property
    def missing(self) -> set[str]:
        """The operations of the document that were not asked for."""
        return {operation["operationId"] for item in PATHS.values() for operation in item.values()} - self.asked


@pytest.fixture
async def reachable(database_url: str) -> AsyncIterator[Reachable]:
    settings = settings_for(database_url, RETURN_URLS=HOME, ALLOWED_PRIVATE_RANGES=LOOPBACK)
    async with run_service(settings) as service:
        partner = await service.partner(*ApiScope)
        port, api_key = free_port(), partner.headers["authorization"].removeprefix("Bearer ")
        it = Reachable(service, f"http://127.0.0.1:{port}", api_key)
        server = uvicorn.Server(uvicorn.Config(it, port=port, lifespan="off", log_level="error"))
        running = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        yield it
        server.should_exit = True
        await running


async def browsed(it: Reachable) -> None:
    """Ask for what browsers, Aircall and platforms ask for: no client of the partner's does."""
    claim = await it.service.install_by_link("browser")
    assert claim
    async with httpx.AsyncClient(base_url=it.url) as browser:
        for path in ("/aircall/oauth/install", "/aircall/oauth/callback"):
            await browser.get(path)
        await browser.post("/aircall/webhook", content=b"{}")


def event_body(service: Service, **data: Any) -> dict[str, Any]:
    return {
        "resource": "call",
        "event": "call.ended",
        "timestamp": 1767261750,
        "token": service.webhook_token(),
        "data": {"id": 2481173905, **data},
    }
