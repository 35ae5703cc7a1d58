"""A destination over one connection to a broker, shared by its deliveries and replaced when it fails.

The clients' own reconnecting is not used: while a broker is away, some of them keep what they were given and send it
much later, or wait without an end. Here a delivery is confirmed or it is not, and the reader decides what follows.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from aircall_oauth.deliveries.destinations.brokers.sockets import Connect, Gate
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Message, Outcome, TryAgain
from aircall_oauth.telemetry import log

logger = log.get(__name__)

DEADLINE_SECONDS = 15.0
OPEN_SECONDS = 10.0
CLOSE_SECONDS = 5.0
# A connection may take long to close: its successor is in use already.
END_SECONDS = 30.0

# Called with each server's host and port before a connection is opened. Returns one word if it is refused, or None.
Judge = Callable[[str, int], Awaitable[str | None]]


class BrokerConnection(Protocol):
    """A connection to one broker. It is opened once, shared by many deliveries, and always closed."""

    lost: asyncio.Future[str]
    """Done, with the reason in one word, once nothing more will be confirmed on it."""
    spent: bool
    """Whether it must be given nothing new. What was sent on it may still be confirmed."""

    async def open(self) -> None: ...

    async def publish(self, message: Message) -> None:
        """Send a message and return once the broker confirmed it; raises if the broker did not."""
        ...

    async def close(self) -> None:
        """Close the connection, also if it was never opened, is lost, or was closed before."""
        ...

    def reason(self, error: BaseException) -> str:
        """Return one word for an error that `open` or `publish` raised."""
        ...


class Broker:
    """A destination that uses one connection at a time."""

    def __init__(
        self,
        new_connection: Callable[[], BrokerConnection],
        servers: Sequence[tuple[str, int]],
        judge: Judge | None = None,
        connect: Connect | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._new_connection = new_connection
        self._servers = servers
        self._judge = judge
        self._deadline_seconds = deadline_seconds
        self._gate = None if connect is None else Gate(connect)
        self._context = contextvars.copy_context() if self._gate is None else self._gate.context()
        self._closed = False
        self._opening: asyncio.Task[BrokerConnection | TryAgain] | None = None
        self._out: dict[BrokerConnection, set[asyncio.Task[None]]] = {}
        self._ending: dict[BrokerConnection, asyncio.Task[None]] = {}

    async def deliver(self, message: Message) -> Outcome:
        """Publish a message on the shared connection; returns within the deadline, whatever the broker does."""
        connection: BrokerConnection | TryAgain | None = None
        try:
            async with asyncio.timeout(self._deadline_seconds):
                connection = await self._shared_connection()
                outcome = connection if isinstance(connection, TryAgain) else await self._publish(connection, message)
        except TimeoutError:
            if connection is not None and not isinstance(connection, TryAgain):
                self._end(connection)
            outcome = TryAgain("timeout")
        return self._named(outcome)

    async def close(self) -> None:
        """Close the connection within `CLOSE_SECONDS`; messages still under way are not confirmed."""
        self._closed = True
        opening = self._opening
        if opening is not None:
            opening.cancel()
        for connection in list(self._out):
            lose(connection, "closed")
            self._end(connection)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if opening is not None:
                    await asyncio.wait({opening})
                while self._ending:
                    await asyncio.wait(set(self._ending.values()))
        for ending in self._ending.values():
            ending.cancel()

    def _named(self, outcome: Outcome) -> Outcome:
        """Name the real cause of a timeout: a client that was refused an address sees only a slow broker."""
        blocked = self._gate is not None and self._gate.blocked
        return TryAgain("blocked_address") if blocked and outcome == TryAgain("timeout") else outcome

    async def _shared_connection(self) -> BrokerConnection | TryAgain:
        """Return the shared connection, opening it if there is none; all deliveries wait for the same opening."""
        if self._closed:
            return TryAgain("closed")
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), context=self._context)
        opening = self._opening
        # Waited for, not awaited: a client that cancels its own work must not look like a cancellation of our caller.
        await asyncio.wait({opening})
        return TryAgain("reset") if opening.cancelled() else opening.result()

    async def _open(self) -> BrokerConnection | TryAgain:
        connection, opened = self._new_connection(), False
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                if refused := await self._refusal():
                    return TryAgain(refused)
                await connection.open()
                opened = True
        # Any error of a client means that the delivery is tried again. It must not end the reader.
        except Exception as error:
            return TryAgain(connection.reason(error))
        finally:
            if not opened:
                self._opening = None
                self._end(connection)
        self._out[connection] = set()
        connection.lost.add_done_callback(lambda _: self._end(connection))
        return connection

    async def _refusal(self) -> str | None:
        for host, port in self._servers:
            if self._judge is not None and (refused := await self._judge(host, port)):
                return refused
        return None

    async def _publish(self, connection: BrokerConnection, message: Message) -> Outcome:
        # A task of its own, because some clients go on waiting when they are cancelled.
        publishing = asyncio.create_task(connection.publish(message), context=self._context)
        out = self._out.get(connection, set())
        out.add(publishing)
        publishing.add_done_callback(out.discard)
        publishing.add_done_callback(_retrieve_error)
        try:
            ends: list[asyncio.Future[Any]] = [publishing, connection.lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            outcome = _outcome(connection, publishing)
        finally:
            publishing.cancel()
        if connection.spent:
            self._end(connection)
        return outcome

    def _end(self, connection: BrokerConnection) -> None:
        """Give a connection nothing new, and close it once each message on it was answered or given up."""
        if self._is_shared(connection):
            self._opening = None
        if connection not in self._ending:
            self._ending[connection] = asyncio.create_task(self._close(connection), context=self._context)
            self._ending[connection].add_done_callback(lambda _: self._ending.pop(connection))

    def _is_shared(self, connection: BrokerConnection) -> bool:
        opening = self._opening
        return opening is not None and opening.done() and not opening.cancelled() and opening.result() is connection

    async def _close(self, connection: BrokerConnection) -> None:
        if out := self._out.pop(connection, None):
            await asyncio.wait(out)
        try:
            async with asyncio.timeout(END_SECONDS):
                await connection.close()
        except Exception as error:
            logger.debug("the connection to a broker was not closed in order", reason=connection.reason(error))


def _outcome(connection: BrokerConnection, publishing: asyncio.Task[None]) -> Outcome:
    error = publishing.exception() if publishing.done() and not publishing.cancelled() else None
    if publishing.done() and not publishing.cancelled() and error is None:
        return Delivered()
    # The reason the connection was lost says more than its effect on one message.
    if connection.lost.done():
        return TryAgain(connection.lost.result())
    return TryAgain("reset" if error is None else connection.reason(error))


def _retrieve_error(publishing: asyncio.Task[None]) -> None:
    """Retrieve an error that comes after we stopped waiting: asyncio would log it with its text."""
    if not publishing.cancelled():
        publishing.exception()


def lose(connection: BrokerConnection, reason: str) -> None:
    """Mark a connection as lost, so that nothing more is confirmed on it; the first reason stays."""
    if not connection.lost.done():
        connection.lost.set_result(reason)
