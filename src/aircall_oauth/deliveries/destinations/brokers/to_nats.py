"""NATS JetStream: an event is delivered once its stream acknowledged that it is stored."""

import asyncio
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from json import JSONDecodeError
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.protocol.parser import Parser

from aircall_oauth.deliveries.destinations.brokers import network
from aircall_oauth.deliveries.destinations.brokers.address import Address
from aircall_oauth.deliveries.destinations.brokers.broker import DEADLINE_SECONDS, BrokerConnection, lose
from aircall_oauth.deliveries.destinations.brokers.intake import Intake
from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.errors import DestinationRefused

CONNECT_SECONDS = 5
CLOSE_SECONDS = 2
PING_SECONDS = 10
# More than can be under way at once, so that a publish never waits for the socket inside the client.
PENDING_BYTES = 256 * 1024 * 1024
SUBJECT = re.compile(r"[^\s.*>\x00]+(\.[^\s.*>\x00]+)*")
MAX_SUBJECT = 255
REFUSAL = re.compile("authorization|authentication|permissions")
WORDS = {
    nats.js.errors.NoStreamResponseError: "no_stream",
    nats.js.errors.APIError: "rejected",
    nats.errors.MaxPayloadError: "too_large",
    nats.errors.UnexpectedEOF: "reset",
    nats.errors.StaleConnectionError: "reset",
    nats.errors.ConnectionClosedError: "reset",
    JSONDecodeError: "rejected",  # the answer came from something other than a stream
}


def connections(address: Address, subject: str) -> Callable[[], BrokerConnection]:
    """Return a function that makes connections publishing on this subject; raises `DestinationRefused`."""
    if len(subject) > MAX_SUBJECT or not SUBJECT.fullmatch(subject):
        raise DestinationRefused("A subject is words separated by dots, without spaces and wildcards.")
    network.silence("nats")
    return lambda: NatsConnection(address, subject)


class BoundedParser(Parser):
    """Bounds what a server may send: the client's own parser holds a line or a message of any size."""

    def __init__(self, client: Client, intake: Intake) -> None:
        super().__init__(client)
        self._intake = intake

    async def parse(self, data: bytes = b"") -> None:
        self._intake.take(len(data))
        await super().parse(data)


class BoundedClient(Client):
    """Connects only to the servers it was given, and not to those that a server names."""

    def __init__(self, intake: Intake) -> None:
        super().__init__()
        self._ps = BoundedParser(self, intake)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        await super()._process_info(info | {"connect_urls": []}, initial_connection)


class NatsConnection:
    """One connection to NATS."""

    spent = False

    def __init__(self, address: Address, subject: str) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._address = address
        self._subject = subject
        self._intake = Intake()
        self._client = BoundedClient(self._intake)
        self._jetstream = self._client.jetstream()
        self._tls = network.tls()
        self._last_error: Exception | None = None

    async def open(self) -> None:
        user, password = self._address.user, self._address.password
        try:
            await self._client.connect(
                servers=[f"nats://{_bracketed(host)}:{port}" for host, port in self._address.servers],
                name="aircall-oauth",
                tls=self._tls,
                user=None if password is None else self._only_over_tls(user or ""),
                password=None if password is None else self._only_over_tls(password),
                token=None if user is None or password is not None else self._only_over_tls(user),
                connect_timeout=CONNECT_SECONDS,
                ping_interval=PING_SECONDS,
                pending_size=PENDING_BYTES,
                error_cb=self._on_error,
                # Each server is tried twice; after that the reader decides when to try again.
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
            )
        except nats.errors.NoServersError:
            raise self._last_error or ConnectionResetError() from None
        self._require_tls()
        # The client skips its own callback if closing fails, and our deliveries would wait on.
        reading = self._client._reading_task
        assert reading is not None
        reading.add_done_callback(self._on_end)

    async def publish(self, message: Message) -> None:
        # The stream drops a message whose id it has taken within its window: a replay is meant to be there once more.
        message_id = message.event_id if message.replay is None else f"{message.event_id}:{message.replay}"
        headers = {"Nats-Msg-Id": message_id} | message.headers
        with self._intake.answering(0):
            await self._jetstream.publish(self._subject, message.body, timeout=DEADLINE_SECONDS, headers=headers)

    async def close(self) -> None:
        # After a failed TLS handshake, the client waits for a connection that has already ended.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()

    def reason(self, error: BaseException) -> str:
        # This client has no error of its own for a refusal: only the server's text tells it apart.
        if isinstance(error, nats.errors.Error) and REFUSAL.search(str(error).lower()):
            return "denied"
        return network.reason(error, WORDS)

    def _only_over_tls(self, secret: str) -> Callable[[], str]:
        """Give the client a secret as a callback, called last: it is not sent in clear where TLS is required."""

        def give() -> str:
            self._require_tls()
            return secret

        return give

    def _require_tls(self) -> None:
        # The client takes `tls://` as a wish: if the server does not offer TLS, it goes on in clear.
        if self._address.scheme == "tls" and not self._tls.session_stats()["connect_good"]:
            raise ssl.SSLError("the server does not speak TLS")

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        # A publish that is not allowed is never answered; the server sends this error instead.
        if "permissions violation" in str(error).lower():
            lose(self, "denied")

    def _on_end(self, reading: asyncio.Task[None]) -> None:
        error = None if reading.cancelled() else reading.exception()
        lose(self, self.reason(error or self._last_error or self._client.last_error or ConnectionResetError()))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
