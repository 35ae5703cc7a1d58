"""One connection to a broker that many deliveries share: opened when needed, replaced when it is no good any more.

The clients' own reconnecting is not used: while a broker is away they keep what was given to them and send it much
later, or wait without an end. Here a delivery is confirmed, or it is not and the reader says what becomes of it.
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
# A line that ends beside its successor is in nobody's way.
END_SECONDS = 30.0

# Asked with each server's host and port before a connection is opened; says in one word why not, or None.
Judge = Callable[[str, int], Awaitable[str | None]]


class Line(Protocol):
    """A connection to one broker: opened once, used by many, closed whatever became of it."""

    lost: asyncio.Future[str]
    """Done, with one word why, once nothing more is confirmed on it."""
    spent: bool
    """What is out on it may still be confirmed, but it is to be given nothing new."""

    async def open(self) -> None: ...

    async def publish(self, message: Message) -> None:
        """Returns once the broker confirmed that it has the message; raises where it did not."""
        ...

    async def close(self) -> None:
        """Also for a line that was never opened, is lost, or was closed before."""
        ...

    def reason(self, error: BaseException) -> str:
        """One word for an error that `open` or `publish` raised."""
        ...


class Broker:
    """A destination over one line at a time."""

    def __init__(
        self,
        new_line: Callable[[], Line],
        servers: Sequence[tuple[str, int]],
        judge: Judge | None = None,
        connect: Connect | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._new_line = new_line
        self._servers = servers
        self._judge = judge
        self._deadline_seconds = deadline_seconds
        self._gate = None if connect is None else Gate(connect)
        self._context = contextvars.copy_context() if self._gate is None else self._gate.context()
        self._closed = False
        self._opening: asyncio.Task[Line | TryAgain] | None = None
        self._out: dict[Line, set[asyncio.Task[None]]] = {}
        self._ending: dict[Line, asyncio.Task[None]] = {}

    async def deliver(self, message: Message) -> Outcome:
        """Hand one over on the shared line; answers within the deadline, whatever the broker does."""
        line: Line | TryAgain | None = None
        try:
            async with asyncio.timeout(self._deadline_seconds):
                line = await self._line()
                outcome = line if isinstance(line, TryAgain) else await self._hand_over(line, message)
        except TimeoutError:
            if line is not None and not isinstance(line, TryAgain):
                self._end(line)
            outcome = TryAgain("timeout")
        return self._told(outcome)

    async def close(self) -> None:
        """Close the connection within `CLOSE_SECONDS`; what is still out on it is not confirmed."""
        self._closed = True
        opening = self._opening
        if opening is not None:
            opening.cancel()
        for line in list(self._out):
            lose(line, "closed")
            self._end(line)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if opening is not None:
                    await asyncio.wait({opening})
                while self._ending:
                    await asyncio.wait(set(self._ending.values()))
        for ending in self._ending.values():
            ending.cancel()

    def _told(self, outcome: Outcome) -> Outcome:
        """To a client that was kept from an address the broker looks slow."""
        blocked = self._gate is not None and self._gate.blocked
        return TryAgain("blocked_address") if blocked and outcome == TryAgain("timeout") else outcome

    async def _line(self) -> Line | TryAgain:
        """The line all share; one that is being opened is waited for together."""
        if self._closed:
            return TryAgain("closed")
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), context=self._context)
        opening = self._opening
        # Not awaited itself: a client that cancels what it began must not look like our caller being cancelled.
        await asyncio.wait({opening})
        return TryAgain("reset") if opening.cancelled() else opening.result()

    async def _open(self) -> Line | TryAgain:
        line, opened = self._new_line(), False
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                if refused := await self._judged():
                    return TryAgain(refused)
                await line.open()
                opened = True
        # Whatever a client comes up with is a reason to try again, and never the end of the reader.
        except Exception as error:
            return TryAgain(line.reason(error))
        finally:
            if not opened:
                self._opening = None
                self._end(line)
        self._out[line] = set()
        line.lost.add_done_callback(lambda _: self._end(line))
        return line

    async def _judged(self) -> str | None:
        for host, port in self._servers:
            if self._judge is not None and (refused := await self._judge(host, port)):
                return refused
        return None

    async def _hand_over(self, line: Line, message: Message) -> Outcome:
        # A task of its own, because not every client lets go when it is cancelled.
        publishing = asyncio.create_task(line.publish(message), context=self._context)
        out = self._out.get(line, set())
        out.add(publishing)
        publishing.add_done_callback(out.discard)
        publishing.add_done_callback(_look_at)
        try:
            ends: list[asyncio.Future[Any]] = [publishing, line.lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            outcome = _outcome(line, publishing)
        finally:
            publishing.cancel()
        if line.spent:
            self._end(line)
        return outcome

    def _end(self, line: Line) -> None:
        """Give a line nothing new, and close it once what is out on it was answered or given up."""
        if self._is_shared(line):
            self._opening = None
        if line not in self._ending:
            self._ending[line] = asyncio.create_task(self._close(line), context=self._context)
            self._ending[line].add_done_callback(lambda _: self._ending.pop(line))

    def _is_shared(self, line: Line) -> bool:
        opening = self._opening
        return opening is not None and opening.done() and not opening.cancelled() and opening.result() is line

    async def _close(self, line: Line) -> None:
        if out := self._out.pop(line, None):
            await asyncio.wait(out)
        try:
            async with asyncio.timeout(END_SECONDS):
                await line.close()
        except Exception as error:
            logger.debug("the connection to a broker was not closed in order", reason=line.reason(error))


def _outcome(line: Line, publishing: asyncio.Task[None]) -> Outcome:
    error = publishing.exception() if publishing.done() and not publishing.cancelled() else None
    if publishing.done() and not publishing.cancelled() and error is None:
        return Delivered()
    # What ended the line says more than what that did to one of many.
    if line.lost.done():
        return TryAgain(line.lost.result())
    return TryAgain("reset" if error is None else line.reason(error))


def _look_at(publishing: asyncio.Task[None]) -> None:
    """An error that comes after we stopped waiting is nobody's, and asyncio would log it with all it says."""
    if not publishing.cancelled():
        publishing.exception()


def lose(line: Line, reason: str) -> None:
    """Say that nothing more is confirmed on this line; the first reason stays."""
    if not line.lost.done():
        line.lost.set_result(reason)
