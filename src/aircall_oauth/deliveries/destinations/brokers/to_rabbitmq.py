"""RabbitMQ: an event is delivered once the broker confirmed that it reached at least one queue."""

import asyncio
from collections.abc import Callable
from typing import Any

import aio_pika
from aio_pika.abc import AbstractExchange
from aio_pika.connection import make_url
from aiormq import exceptions
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from aircall_oauth.deliveries.destinations.brokers import network
from aircall_oauth.deliveries.destinations.brokers.address import Address
from aircall_oauth.deliveries.destinations.brokers.broker import BrokerConnection, lose
from aircall_oauth.deliveries.destinations.brokers.intake import BoundedReader, Intake
from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.errors import DestinationRefused

HEARTBEAT_SECONDS = 10
LOST_SECONDS = 1
MAX_NAME_BYTES = 255


class AlreadyOut(Exception):
    """The same event is already under way on this connection."""


WORDS = {
    AlreadyOut: "busy",
    exceptions.PublishError: "unroutable",
    exceptions.DeliveryError: "rejected",
    exceptions.ChannelNotFoundEntity: "no_exchange",
    exceptions.ChannelPreconditionFailed: "too_large",
    exceptions.ChannelAccessRefused: "denied",
    exceptions.ChannelInvalidStateError: "reset",
    exceptions.ProbableAuthenticationError: "denied",
    exceptions.AuthenticationError: "denied",
    exceptions.ConnectionNotAllowed: "denied",
}


def connections(address: Address, exchange: str, routing_key: str) -> Callable[[], BrokerConnection]:
    """Return a function that makes connections publishing to this exchange; raises `DestinationRefused`."""
    if any(len(name.encode()) > MAX_NAME_BYTES for name in (exchange, routing_key)):
        raise DestinationRefused(f"An exchange and a routing key have at most {MAX_NAME_BYTES} bytes.")
    network.silence("aio_pika", "aiormq")
    return lambda: RabbitConnection(address, exchange, routing_key)


class RabbitConnection:
    """One connection to RabbitMQ with one channel."""

    spent = False

    def __init__(self, address: Address, exchange: str, routing_key: str) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._exchange_name = exchange
        self._routing_key = routing_key
        self._out: set[str] = set()
        self._intake = Intake()
        self._connection = _connection(address, self._intake)
        self._exchange: AbstractExchange | None = None

    async def open(self) -> None:
        await self._connection.connect()
        self._connection.close_callbacks.add(self._on_closed)
        # Without `on_return_raises`, a message that reached no queue looks confirmed.
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        channel.close_callbacks.add(self._on_closed)
        name = self._exchange_name
        self._exchange = await channel.get_exchange(name, ensure=False) if name else channel.default_exchange

    async def publish(self, message: Message) -> None:
        assert self._exchange is not None
        # The client matches a returned message by its id: of two with the same id, one would look confirmed.
        if message.event_id in self._out:
            raise AlreadyOut
        self._out.add(message.event_id)
        try:
            with self._intake.answering(len(message.body)):
                await self._exchange.publish(_message(message), self._routing_key, mandatory=True)
        except exceptions.ChannelInvalidStateError:
            # The channel is closed, and the reason is about to arrive in `lost`.
            await asyncio.wait({self.lost}, timeout=LOST_SECONDS)
            raise
        finally:
            self._out.discard(message.event_id)

    async def close(self) -> None:
        await self._connection.close()

    def reason(self, error: BaseException) -> str:
        return network.reason(error, WORDS)

    def _on_closed(self, _: Any, error: BaseException | None) -> None:
        lose(self, "reset" if error is None else self.reason(error))


class BoundedTransport(TransportFactory):
    """Opens connections whose intake is bounded: aiormq holds frames of any size."""

    def __init__(self, opens: TransportFactory, intake: Intake) -> None:
        self._opens = opens
        self._intake = intake

    async def create(self, url: URL, **options: Any) -> tuple[Any, asyncio.StreamWriter]:
        reader, writer = await self._opens.create(url, **options)
        return BoundedReader(reader, self._intake), writer


def _connection(address: Address, intake: Intake) -> aio_pika.Connection:
    """Make a connection without opening it: one that fails to open is closed too, or it warns when it is collected."""
    (host, port), *_ = address.servers
    encrypted = address.scheme == "amqps"
    url = make_url(
        host=host,
        port=port,
        login=address.user or "guest",
        password=address.password or "guest",
        virtualhost=address.path or "/",
        ssl=encrypted,
        heartbeat=HEARTBEAT_SECONDS,
    )
    connection = aio_pika.Connection(
        url,
        ssl_context=network.tls() if encrypted else None,
        client_properties={"connection_name": "aircall-oauth"},
    )
    opens = TLSTransportFactory() if encrypted else TCPTransportFactory()
    connection.kwargs["transport_factory"] = BoundedTransport(opens, intake)
    return connection


def _message(message: Message) -> aio_pika.Message:
    return aio_pika.Message(
        message.body,
        message_id=message.event_id,
        type=message.type,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={**message.headers},
    )
