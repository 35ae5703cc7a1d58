"""Kafka: an event is delivered once all in-sync replicas of its partition have it."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer, client, errors
from aiokafka.conn import AIOKafkaConnection, create_conn

from aircall_oauth.deliveries.destinations.brokers import network
from aircall_oauth.deliveries.destinations.brokers.address import Address
from aircall_oauth.deliveries.destinations.brokers.broker import BrokerConnection
from aircall_oauth.deliveries.destinations.brokers.intake import BoundedReader, Intake
from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.errors import DestinationRefused

REQUEST_SECONDS = 5
# A broker that makes missing topics itself needs a moment.
TOPIC_SECONDS = 3
# An event is at most 1 MiB when it comes in; the real bound is the broker's `message.max.bytes`.
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
# Enough for the metadata of a topic with ten thousand partitions.
AT_ONCE_BYTES = 512 * 1024
CLIENT_ID = "aircall-oauth"
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
WORDS = {
    errors.UnknownTopicOrPartitionError: "no_topic",
    errors.InvalidTopicError: "no_topic",
    errors.MessageSizeTooLargeError: "too_large",
    errors.RecordListTooLargeError: "too_large",
    errors.RequestTimedOutError: "timeout",
    errors.KafkaTimeoutError: "timeout",
    errors.SaslAuthenticationFailed: "denied",
    errors.AuthenticationFailedError: "denied",
    errors.UnsupportedSaslMechanismError: "denied",
    errors.IllegalSaslStateError: "denied",
    errors.TopicAuthorizationFailedError: "denied",
    errors.ClusterAuthorizationFailedError: "denied",
    errors.BrokerResponseError: "rejected",
}


def connections(address: Address, topic: str) -> Callable[[], BrokerConnection]:
    """Return a function that makes connections publishing to this topic; raises `DestinationRefused`."""
    if not TOPIC.fullmatch(topic):
        raise DestinationRefused("A topic is named with at most 249 letters, digits, dots, underscores and hyphens.")
    network.silence("aiokafka")
    # A producer has no other way to set the class of its connections.
    client.create_conn = _create_connection
    return lambda: KafkaConnection(address, topic)


class BoundedConnection(AIOKafkaConnection):  # type: ignore[misc]
    """Bounds what a broker may send: aiokafka holds frames of any size."""

    def _create_reader_task(self) -> asyncio.Task[None]:
        self._intake = Intake(AT_ONCE_BYTES)
        self._reader: Any = BoundedReader(self._reader, self._intake)
        return super()._create_reader_task()  # type: ignore[no-any-return]

    def send(self, request: Any, expect_response: bool = True) -> Any:
        self._intake.fill()
        return super().send(request, expect_response)


async def _create_connection(host: str, port: int, **options: Any) -> AIOKafkaConnection:
    """Replace aiokafka's `create_conn` for our own clients; other clients in this process keep the original."""
    if options.get("client_id") != CLIENT_ID:
        return await create_conn(host, port, **options)
    connection = BoundedConnection(host, port, **options)
    await connection.connect()
    return connection


class KafkaConnection:
    """One idempotent producer."""

    def __init__(self, address: Address, topic: str) -> None:
        # Never done: the producer repeats by itself, and a message that it can't confirm in time ends the connection.
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.spent = False
        self._address = address
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        access = _access(self._address)
        host, port = await self._first_that_answers(access)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=[f"[{host}]:{port}" if ":" in host else f"{host}:{port}"],
            acks="all",
            enable_idempotence=True,
            max_request_size=MAX_MESSAGE_BYTES,
            **access,
        )
        await self._producer.start()
        try:
            async with asyncio.timeout(TOPIC_SECONDS):
                await self._producer.partitions_for(self._topic)
        except TimeoutError:
            raise errors.UnknownTopicOrPartitionError from None

    async def publish(self, message: Message) -> None:
        assert self._producer is not None
        try:
            await self._producer.send_and_wait(
                self._topic,
                message.body,
                key=message.installation_id.encode(),
                headers=[(name, value.encode()) for name, value in message.headers.items()],
            )
        except errors.KafkaError:
            # A failed message leaves a gap in the numbers that idempotence counts by; no later one gets past it.
            self.spent = True
            raise

    async def close(self) -> None:
        if self._producer is None:
            return
        # Cancelling the sender task is the only way to stop without a flush, which with idempotence waits until the
        # broker is back (github.com/aio-libs/aiokafka/issues/1101). The reader repeats unconfirmed messages.
        sending = self._producer._sender.sender_task
        if sending is not None:
            sending.cancel()
        try:
            await self._producer.stop()
        finally:
            await self._producer.client.close()

    def reason(self, error: BaseException) -> str:
        return network.reason(error, WORDS)

    async def _first_that_answers(self, access: dict[str, Any]) -> tuple[str, int]:
        """Find a server that answers. The producer would try them too, but hides why none did."""
        failures: list[BaseException] = []
        for host, port in self._address.servers:
            try:
                connection = await _create_connection(host, port, **access)
            except (OSError, errors.KafkaError) as error:
                failures.append(error)
            else:
                connection.close()
                return host, port
        raise failures[-1]


def _access(address: Address) -> dict[str, Any]:
    access: dict[str, Any] = {
        "client_id": CLIENT_ID,
        "request_timeout_ms": REQUEST_SECONDS * 1000,
        "security_protocol": address.scheme.upper(),
        "ssl_context": network.tls() if address.scheme.endswith("ssl") else None,
    }
    if address.scheme.startswith("sasl_"):
        access["sasl_mechanism"] = address.mechanism or "PLAIN"
        access["sasl_plain_username"] = address.user
        access["sasl_plain_password"] = address.password
    return access
