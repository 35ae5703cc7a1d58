"""The kinds of brokers a subscription can hand events to, and how a destination of each is made.

A new kind is a registration here, a module `to_<kind>` with its `connections`, an extra in `pyproject.toml`, and its
value and columns in `storage/models/deliveries.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field

from aircall_oauth.deliveries.destinations.brokers.address import Address, AddressRules, read
from aircall_oauth.deliveries.destinations.brokers.broker import DEADLINE_SECONDS, Broker, BrokerConnection, Judge
from aircall_oauth.deliveries.destinations.brokers.sockets import Connect
from aircall_oauth.deliveries.destinations.outcomes import Destination
from aircall_oauth.errors import ExtraMissing
from aircall_oauth.storage.statuses import SubscriptionKind

Word = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-~]*$")]
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class BrokerKind:
    """One kind of broker.

    `target` has the fields of a subscription that say where at the broker its events go, each with its pydantic type
    and `Field`; the `connections` of the kind's module takes them in this order.
    """

    kind: SubscriptionKind
    title: str
    package: str  # of its client; the extra of ours that installs it is named like the kind
    example_url: str
    url_rules: AddressRules
    target: Mapping[str, tuple[Any, Any]]

    def read(self, url: str) -> Address:
        """Parse a URL of this kind; raises `DestinationRefused`."""
        return read(self.kind, self.url_rules, url)

    def open(
        self,
        url: str,
        *target: str,
        judge: Judge | None = None,
        connect: Connect | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> Destination:
        """Make a destination; it connects with its first delivery. Raises `DestinationRefused` and `ExtraMissing`."""
        if find_spec(self.package) is None:
            raise ExtraMissing(self.kind.value)
        # Loaded when the first destination of its kind is made, since its client may not be installed.
        module = import_module(f"aircall_oauth.deliveries.destinations.brokers.to_{self.kind}")
        address = self.read(url)
        new_connection: Callable[[], BrokerConnection] = module.connections(address, *target)
        return Broker(new_connection, address.servers, judge, connect, deadline_seconds)


def _rabbitmq_problem(address: Address) -> str | None:
    if (address.user is None) != (address.password is None):
        return "carries a user name and a password, or neither"
    return None


def _kafka_problem(address: Address) -> str | None:
    if not address.scheme.startswith("sasl_"):
        return "carries a user name only with sasl_ssl:// or sasl_plaintext://" if address.user is not None else None
    if not address.user or not address.password:
        return f"with {address.scheme}:// carries a user name and a password"
    if address.mechanism not in (None, *SASL_MECHANISMS):
        return f"names a mechanism that is none of {', '.join(SASL_MECHANISMS)}"
    return None


NATS = BrokerKind(
    SubscriptionKind.NATS,
    title="NATS",
    package="nats",
    example_url="nats://nats.internal:4222",
    url_rules=AddressRules({"nats": 4222, "tls": 4222}),
    target={"subject": (Word, Field(examples=["aircall.events"]))},
)
RABBITMQ = BrokerKind(
    SubscriptionKind.RABBITMQ,
    title="RabbitMQ",
    package="aio_pika",
    example_url="amqps://rabbitmq.internal:5671/aircall",
    url_rules=AddressRules({"amqp": 5672, "amqps": 5671}, max_servers=1, may_have_path=True, problem=_rabbitmq_problem),
    target={
        "exchange": (Annotated[str, Field(max_length=255, pattern=r"^[!-~]*$")], Field(examples=["aircall"])),
        "routing_key": (Word, Field(examples=["events"])),
    },
)
KAFKA = BrokerKind(
    SubscriptionKind.KAFKA,
    title="Kafka",
    package="aiokafka",
    example_url="kafka-1.internal:9092,kafka-2.internal:9092",
    url_rules=AddressRules(
        {"plaintext": 9092, "ssl": 9092, "sasl_plaintext": 9092, "sasl_ssl": 9092},
        default_scheme="plaintext",
        problem=_kafka_problem,
    ),
    target={"topic": (Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")], Field(examples=["aircall-events"]))},
)
KINDS = {each.kind: each for each in (NATS, RABBITMQ, KAFKA)}
