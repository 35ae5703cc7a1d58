"""No broker can send its client to a forbidden address, by what it tells the client or by a name that changes."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aircall_oauth.deliveries.destinations.addresses import Guard
from aircall_oauth.deliveries.destinations.brokers.sockets import Gate
from tests.deliveries.test_destinations import certificate
from tests.support.brokers import Kafka
from tests.support.service import Service, run_service, settings_for

pytestmark = pytest.mark.broker

HERE = "127.0.0.1"
# Where no delivery may go in these tests.
FORBIDDEN = "127.0.0.2"


@asynccontextmanager
async def nobody_may_come(port: int = 0) -> AsyncIterator[tuple[int, list[Any]]]:
    """Listen at the forbidden address; yields its port, and the connections that came."""
    came: list[Any] = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(serve, FORBIDDEN, port)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        server.close()


@asynccontextmanager
async def a_service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=f"{HERE}/32")) as service:
        yield service


async def tried(service: Service, **fields: Any) -> str:
    """Send a sample event to a new destination; returns its outcome."""
    partner = await service.partner()
    made = await partner.post("/v1/subscriptions", json={"name": "x", **fields})
    assert made.status_code == 201, made.text
    answer = await partner.post(f"/v1/subscriptions/{made.json()['id']}/test", timeout=60)
    return str(answer.json()["outcome"])


def a_name_that_changes(monkeypatch: pytest.MonkeyPatch, looks: int) -> list[str]:
    """Resolve `moving.example` to this machine so many times, and to the forbidden address from then on."""
    plain, asked = socket.getaddrinfo, list[str]()

    def look_up(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != "moving.example":
            return plain(host, port, *more, **named)
        asked.append(HERE if len(asked) < looks else FORBIDDEN)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (asked[-1], port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


BROKERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "nats": lambda port: {"kind": "nats", "url": f"nats://moving.example:{port}", "subject": "events"},
    "tls": lambda port: {"kind": "nats", "url": f"tls://moving.example:{port}", "subject": "events"},
    "rabbitmq": lambda port: {
        "kind": "rabbitmq",
        "url": f"amqp://moving.example:{port}",
        "exchange": "",
        "routing_key": "events",
    },
    "amqps": lambda port: {
        "kind": "rabbitmq",
        "url": f"amqps://moving.example:{port}",
        "exchange": "",
        "routing_key": "events",
    },
    "kafka": lambda port: {"kind": "kafka", "url": f"moving.example:{port}", "topic": "events"},
    "ssl": lambda port: {"kind": "kafka", "url": f"ssl://moving.example:{port}", "topic": "events"},
}


@pytest.mark.parametrize("kind", BROKERS)
async def test_a_name_that_means_something_else_at_the_clients_own_look_is_blocked(
    database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # When it is made, and before a connection is opened: the next look is for the connection.
    asked = a_name_that_changes(monkeypatch, looks=2)
    async with a_service(database_url) as service, nobody_may_come() as (port, came):
        outcome = await tried(service, **BROKERS[kind](port))

    assert FORBIDDEN in asked
    assert (outcome, came) == ("blocked_address", [])


async def test_a_server_that_nats_announces_is_judged_too(database_url: str) -> None:
    async with a_service(database_url) as service, nobody_may_come() as (port, came):

        async def announce(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told = {"server_id": "x", "version": "2.10.0", "max_payload": 1048576, "headers": True, "proto": 1}
            writer.write(b"INFO " + json.dumps(told | {"connect_urls": [f"{FORBIDDEN}:{port}"]}).encode() + b"\r\n")
            writer.write(b"-ERR 'maximum connections exceeded'\r\n")
            with suppress(ConnectionError):
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(announce, HERE, 0)
        url = f"nats://{HERE}:{server.sockets[0].getsockname()[1]}"
        await tried(service, kind="nats", url=url, subject="events")
        server.close()

    assert came == []


@pytest.mark.slow
async def test_a_broker_that_kafka_names_is_judged_too(database_url: str) -> None:
    async with Kafka.running() as kafka, a_service(database_url) as service, nobody_may_come() as (port, came):
        await kafka.order("address", FORBIDDEN, port)

        outcome = await tried(service, kind="kafka", url=kafka.address, topic=kafka.topic)

    assert (outcome, came) == ("blocked_address", [])


async def test_tls_is_made_with_the_name_of_the_host_that_was_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_name_that_changes(monkeypatch, looks=99)
    context, pem = certificate(tmp_path, "moving.example")
    trusted = ssl.create_default_context(cafile=str(pem))
    gate = Gate(Guard(settings_for("postgresql:///", ALLOWED_PRIVATE_RANGES=f"{HERE}/32")).connect)

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def connect(host: str) -> bytes:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(host, port, ssl=trusted)
        said = await reader.read()
        writer.close()
        return said

    server = await asyncio.start_server(greet, HERE, 0, ssl=context)
    assert await asyncio.create_task(connect("moving.example"), context=gate.context()) == b"hello"
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.create_task(connect(HERE), context=gate.context())
    server.close()
