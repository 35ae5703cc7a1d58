"""The one way out is a proxy: to Aircall, and to the partner's systems, where addresses are judged all the same."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.deliveries.destinations import http
from aircall_oauth.deliveries.destinations.addresses import Guard
from aircall_oauth.deliveries.destinations.http import HttpDestination
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Outcome, TryAgain
from aircall_oauth.errors import AircallUnavailable
from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.ports import free_port
from tests.deliveries.test_destinations import KEY, MESSAGE, certificate
from tests.proxy.test_proxy import connected, listening
from tests.support.receivers import LOOPBACK, receiver
from tests.support.relay import pass_both_ways
from tests.support.service import settings_for

HOST, PUBLIC = "hook.example.com", "8.8.8.8"


@dataclass
class Proxy:
    """Opens tunnels, all of them to one port of this machine, and keeps what it was asked for."""

    leads_to: int
    port: int = 0
    status: bytes = b"200 Connection established"
    asked: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://user:p%40ss@127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 " + self.status + b"\r\nx: y\r\n\r\n")
            if self.status.startswith(b"200"):
                await pass_both_ways(reader, writer, *await asyncio.open_connection("127.0.0.1", self.leads_to))
        writer.close()


@asynccontextmanager
async def a_proxy(leads_to: int) -> AsyncIterator[Proxy]:
    it = Proxy(leads_to)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    yield it
    server.close()


@pytest.fixture
def meant(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the name of the destination means."""
    plain, addresses = socket.getaddrinfo, [PUBLIC]

    def look_up(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != HOST:
            return plain(host, port, *more, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return addresses


@pytest.fixture
def vouched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The destination's TLS."""
    context, pem = certificate(tmp_path, HOST)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    http._trust.cache_clear()
    yield context
    http._trust.cache_clear()


async def deliver(url: str, proxy: Proxy, ranges: str = "") -> Outcome:
    settings = settings_for("postgresql:///", ALLOWED_PRIVATE_RANGES=ranges, DELIVERIES_PROXY=proxy.url)
    destination = HttpDestination(url, lambda: [KEY], Guard(settings), at_once=1)
    try:
        return await destination.deliver(MESSAGE)
    finally:
        await destination.close()


async def test_a_delivery_goes_through_the_proxy_to_the_address_that_was_judged(
    meant: list[str], vouched_for: Any
) -> None:
    async with receiver(ssl_context=vouched_for) as to, a_proxy(to.port) as proxy:
        assert await deliver(f"https://{HOST}/hook", proxy) == Delivered()
        # Its certificate is for the name and for nothing else.
        assert await deliver("https://8.8.4.4:8443/hook", proxy) == TryAgain("tls_wrong_name")

    assert [received.headers["Host"] for received in to.received] == [HOST]
    assert proxy.targets == [f"{PUBLIC}:443", "8.8.4.4:8443"]
    told = base64.b64encode(b"user:p@ss")
    assert all(b"\r\nProxy-Authorization: Basic " + told + b"\r\n" in head for head in proxy.asked)


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "127.0.0.1"])
async def test_the_proxy_is_not_asked_for_what_no_delivery_may_go_to(meant: list[str], address: str) -> None:
    async with receiver() as to, a_proxy(to.port) as proxy:
        assert await deliver(f"https://{address}/", proxy) == TryAgain("blocked_address")
        for found in ([address], [PUBLIC, address], [address, PUBLIC]):
            meant[:] = found
            assert await deliver(f"https://{HOST}/", proxy) == TryAgain("blocked_address")

    assert proxy.asked == []


async def test_what_the_operator_allowed_is_reached_without_the_proxy() -> None:
    async with receiver() as to, a_proxy(to.port) as proxy:
        assert await deliver(to.url, proxy, ranges=LOOPBACK) == Delivered()

    assert proxy.asked == []


async def test_a_proxy_that_opens_no_tunnel_or_is_not_there_is_a_failure_in_one_word(meant: list[str]) -> None:
    async with a_proxy(0) as proxy:
        for status in (b"403 Forbidden", b"407 Proxy Authentication Required", b"502 Bad Gateway"):
            proxy.status = status
            assert await deliver(f"https://{HOST}/", proxy) == TryAgain("proxy")
    assert await deliver(f"https://{HOST}/", Proxy(0, free_port())) == TryAgain("refused")


async def test_everything_to_aircall_goes_through_its_proxy(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    async with a_proxy(0) as proxy:
        proxy.status = b"403 Forbidden"
        settings = settings_for(database_url, API_URL="https://api.aircall.example/v1", AIRCALL_PROXY=proxy.url)
        async with open_resources(settings) as resources:
            with pytest.raises(AircallUnavailable):
                await resources.aircall.exchange_code(SecretStr("code"))
            assert proxy.targets == ["api.aircall.example:443"]
            async with run_proxy(resources) as (client, door):
                answer = await client.get(door)

        assert (answer.status_code, answer.json()["code"]) == (502, "aircall_unavailable")
        assert set(proxy.targets) == {"api.aircall.example:443"}
        assert len(proxy.targets) > 1
        assert all(
            b"Proxy-Authorization: Basic" in head.replace(b"authorization", b"Authorization") for head in proxy.asked
        )
        assert "p%40ss" not in answer.text


@asynccontextmanager
async def run_proxy(resources: Any) -> AsyncIterator[tuple[Any, str]]:
    """A caller of Aircall through us."""

    installation_id = await connected(resources)
    secret = await keys.create(resources, name="test", scopes=[Scope.AIRCALL_CALL])
    async with listening(resources) as url:
        client = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}, trust_env=False)
        async with client:
            yield client, f"/v1/installations/{installation_id}/aircall/calls"
