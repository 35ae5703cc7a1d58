"""Brokers a partner runs, as destinations: NATS JetStream, RabbitMQ, Kafka.

Each is an extra of the package, and its client is loaded when the first destination of its kind is made. Making one
opens no connection: that is done by its first delivery. `docs/brokers.md` says what goes out.
"""

from importlib.util import find_spec

from aircall_oauth.deliveries.destinations.brokers.address import Address, Kind, read
from aircall_oauth.deliveries.destinations.brokers.broker import DEADLINE_SECONDS, Broker, Judge
from aircall_oauth.deliveries.destinations.brokers.sockets import Connect
from aircall_oauth.deliveries.destinations.outcomes import Destination
from aircall_oauth.errors import ExtraMissing

__all__ = ["Address", "Connect", "Judge", "Kind", "kafka", "nats", "rabbitmq", "read"]


def nats(
    url: str,
    subject: str,
    *,
    judge: Judge | None = None,
    connect: Connect | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Destination:
    """A subject of NATS JetStream at `nats://` or `tls://`; raises `DestinationRefused` and `ExtraMissing`."""
    _require("nats", extra="nats")
    from aircall_oauth.deliveries.destinations.brokers import to_nats

    address = read("nats", url)
    return Broker(to_nats.lines(address, subject), address.servers, judge, connect, deadline_seconds)


def rabbitmq(
    url: str,
    exchange: str,
    routing_key: str,
    *,
    judge: Judge | None = None,
    connect: Connect | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Destination:
    """An exchange of RabbitMQ at `amqp://` or `amqps://`; raises `DestinationRefused` and `ExtraMissing`."""
    _require("aio_pika", extra="rabbitmq")
    from aircall_oauth.deliveries.destinations.brokers import to_rabbitmq

    address = read("rabbitmq", url)
    return Broker(to_rabbitmq.lines(address, exchange, routing_key), address.servers, judge, connect, deadline_seconds)


def kafka(
    url: str,
    topic: str,
    *,
    judge: Judge | None = None,
    connect: Connect | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Destination:
    """A topic of Kafka at `host:port,host:port`; raises `DestinationRefused` and `ExtraMissing`."""
    _require("aiokafka", extra="kafka")
    from aircall_oauth.deliveries.destinations.brokers import to_kafka

    address = read("kafka", url)
    return Broker(to_kafka.lines(address, topic), address.servers, judge, connect, deadline_seconds)


def _require(package: str, *, extra: str) -> None:
    if find_spec(package) is None:
        raise ExtraMissing(extra)
