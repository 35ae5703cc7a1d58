"""A broker that sends, or announces, too much is cut off."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from pamqp import commands, frame

from aircall_oauth.deliveries.destinations import brokers
from aircall_oauth.deliveries.destinations.brokers.intake import AT_ONCE_BYTES, BYTES_PER_REQUEST, Flooded, Intake
from aircall_oauth.deliveries.destinations.outcomes import Destination, Message, TryAgain
from tests.support.receivers import raw_receiver

Greeting = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MESSAGE = Message("evt_1", "ins_1", "call.ended", b"{}")
# All that is written; the kernel's buffers take some megabytes of it that are never read.
FLOOD_BYTES = 64 * 1024 * 1024
FEW_BYTES = 16 * 1024 * 1024
INFO = b'INFO {"server_id": "x", "version": "2.10.0", "headers": true, "max_payload": 1048576}\r\n'


async def say_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Flood at once."""


async def hear_a_request(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(4096)


async def greet_as_nats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(INFO)
    await reader.readuntil(b"PING\r\n")
    writer.write(b"PONG\r\n")


async def greet_as_rabbitmq(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(len(b"AMQP\0\0\x09\x01"))
    writer.write(frame.marshal(commands.Connection.Start(0, 9, {}, "PLAIN", "en_US"), 0))
    await reader.read(4096)
    writer.write(frame.marshal(commands.Connection.Tune(2047, 131072, 60), 0))
    await reader.read(4096)
    writer.write(frame.marshal(commands.Connection.OpenOk(), 0))


FLOODS: dict[str, tuple[str, Greeting, bytes, bytes]] = {
    "nats, a greeting without an end": ("nats", say_nothing, b"INFO ", b"x" * 65536),
    "nats, a line without an end": ("nats", greet_as_nats, b"INFO ", b"x" * 65536),
    "nats, a huge message": ("nats", greet_as_nats, b"MSG _INBOX.a 1 4000000000\r\n", b"x" * 65536),
    "nats, pings without an end": ("nats", greet_as_nats, b"", b"PING\r\n" * 10_000),
    "rabbitmq, a huge frame": ("rabbitmq", hear_a_request, struct.pack(">BHL", 1, 0, 4_000_000_000), b"x" * 65536),
    "rabbitmq, frames without an end": ("rabbitmq", greet_as_rabbitmq, b"", b"\x08\0\0\0\0\0\0\xce" * 8192),
    "kafka, a huge frame": ("kafka", hear_a_request, struct.pack(">i", 2_000_000_000), b"x" * 65536),
}


def destination(kind: str, address: str) -> Destination:
    match kind:
        case "nats":
            return brokers.NATS.open(f"nats://{address}", "events")
        case "rabbitmq":
            return brokers.RABBITMQ.open(f"amqp://{address}", "", "events")
        case _:
            return brokers.KAFKA.open(address, "events")


@dataclass
class Flood:
    """How much was written on one connection, and whether it was cut."""

    written: int = 0
    cut: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def flooding(greet: Greeting, first: bytes, more: bytes) -> AsyncIterator[tuple[str, list[Flood]]]:
    """Run a broker that greets and floods; yields its address, and what happened on each connection."""
    floods: list[Flood] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        floods.append(flood := Flood())
        await greet(reader, writer)
        writer.write(first)
        hearing = asyncio.create_task(hear(reader))
        try:
            while flood.written < FLOOD_BYTES:
                writer.write(more)
                await writer.drain()
                flood.written += len(more)
                await asyncio.sleep(0)
            await hearing
        finally:
            flood.cut.set()
            hearing.cancel()

    async with raw_receiver(answer) as url:
        yield url.removeprefix("http://").removesuffix("/hook"), floods


async def hear(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(65536):
            pass


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "greet", "first", "more"), FLOODS.values(), ids=FLOODS)
async def test_what_a_broker_sends_without_an_end_is_not_read_on(
    kind: str, greet: Greeting, first: bytes, more: bytes
) -> None:
    async with flooding(greet, first, more) as (address, floods):
        broker = destination(kind, address)
        outcome = await broker.deliver(MESSAGE)
        await asyncio.gather(*(asyncio.wait_for(flood.cut.wait(), 10) for flood in floods))
        await broker.close()

    assert isinstance(outcome, TryAgain)
    # Not at the end of the time that a delivery has.
    assert outcome.reason in ("flood", "failed")
    assert all(flood.written < FEW_BYTES for flood in floods)


def test_a_connection_that_is_asked_much_may_answer_much_and_no_more() -> None:
    intake = Intake()
    for _ in range(1000):
        with intake.answering(body_bytes=1_000_000):
            intake.take(1_000_000 + BYTES_PER_REQUEST)

    intake.take(AT_ONCE_BYTES)
    with pytest.raises(Flooded):
        intake.take(AT_ONCE_BYTES)


def test_what_was_not_answered_does_not_add_up() -> None:
    intake = Intake()
    for _ in range(1000):
        with intake.answering(body_bytes=1_000_000):
            pass
        intake.fill()

    with pytest.raises(Flooded):
        intake.take(AT_ONCE_BYTES + 1)
