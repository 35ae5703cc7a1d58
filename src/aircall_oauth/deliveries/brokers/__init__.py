"""Brokers a partner runs, as destinations: NATS JetStream, RabbitMQ, Kafka.

Each is an extra of the package, and its client is loaded when the first destination of its kind is made. Making one
opens no connection: that is done by its first delivery. `docs/brokers.md` says what goes out.
"""

from importlib.util import find_spec

from aircall_oauth.deliveries.brokers.address import Address, read
from aircall_oauth.deliveries.brokers.broker import Judge
from aircall_oauth.deliveries.outcomes import Destination
from aircall_oauth.errors import ExtraMissing

__all__ = ["Address", "Judge", "kafka", "nats", "rabbitmq", "read"]


def nats(url: str, subject: str, *, judge: Judge | None = None) -> Destination:
    """A subject of NATS JetStream at `nats://` or `tls://`; raises `DestinationInvalid` and `ExtraMissing`."""
    _require("nats", extra="nats")
    from aircall_oauth.deliveries.brokers import to_nats

    return to_nats.destination(read("nats", url), subject, judge)


def rabbitmq(url: str, exchange: str, routing_key: str, *, judge: Judge | None = None) -> Destination:
    """An exchange of RabbitMQ at `amqp://` or `amqps://`; raises `DestinationInvalid` and `ExtraMissing`."""
    _require("aio_pika", extra="rabbitmq")
    from aircall_oauth.deliveries.brokers import to_rabbitmq

    return to_rabbitmq.destination(read("rabbitmq", url), exchange, routing_key, judge)


def kafka(url: str, topic: str, *, judge: Judge | None = None) -> Destination:
    """A topic of Kafka at `host:port,host:port`; raises `DestinationInvalid` and `ExtraMissing`."""
    _require("aiokafka", extra="kafka")
    from aircall_oauth.deliveries.brokers import to_kafka

    return to_kafka.destination(read("kafka", url), topic, judge)


def _require(package: str, *, extra: str) -> None:
    if find_spec(package) is None:
        raise ExtraMissing(extra)
