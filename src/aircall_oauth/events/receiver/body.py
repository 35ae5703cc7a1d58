"""Reads a request's body, bounded in size and in time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aircall_oauth.errors import BodyTooLarge, BodyTooSlow

MAX_BODY_BYTES = 1024 * 1024
# Long enough for the slowest honest sender; Aircall itself gives up after five seconds.
BODY_SECONDS = 10.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]  # as ASGI has it


class Bodies:
    """The bodies that are being received.

    One timer for all of them: a timer for each would cost as much as reading it.
    """

    def __init__(self) -> None:
        self._began: dict[asyncio.Task[Any], float] = {}
        self._clock: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive) -> bytes:
        """Return the whole body; raises `BodyTooLarge`, `BodyTooSlow`, or `ConnectionError` if its sender hung up."""
        task = asyncio.current_task()
        assert task is not None
        self._began[task] = time.monotonic()
        if self._clock is None:
            self._schedule(BODY_SECONDS)
        try:
            return await _whole(receive)
        except asyncio.CancelledError:
            if task in self._began:
                raise
            task.uncancel()
            raise BodyTooSlow from None
        finally:
            self._began.pop(task, None)

    def _schedule(self, seconds: float) -> None:
        self._clock = asyncio.get_running_loop().call_later(seconds, self._cut_off)

    def _cut_off(self) -> None:
        """Cancel the bodies that took too long, and schedule the next check."""
        began_by = time.monotonic() - BODY_SECONDS
        for task in [task for task, began in self._began.items() if began <= began_by]:
            del self._began[task]
            task.cancel()
        self._clock = None
        if self._began:
            self._schedule(min(self._began.values()) - began_by)


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return bytes(body)
