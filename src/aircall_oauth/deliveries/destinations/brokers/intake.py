"""Bounds how much a broker may make this process read and hold: the clients believe any length it announces."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

AT_ONCE_BYTES = 256 * 1024
BYTES_PER_SECOND = 16 * 1024
# A confirmation is far smaller. A message that is returned takes its body besides.
BYTES_PER_REQUEST = 8 * 1024


class Flooded(ConnectionError):
    """A broker sent, or announced, more than is allowed."""


class Intake:
    """How many bytes one connection may bring: some at once, some each second, and some for each of our requests."""

    def __init__(self, at_once: int = AT_ONCE_BYTES) -> None:
        self._most = at_once
        self._left: float = at_once
        self._filled_at = time.monotonic()

    def fill(self, count: float = BYTES_PER_REQUEST) -> None:
        """Allow so many more bytes, up to the bound."""
        self._left = min(self._most, self._left + count)

    @contextmanager
    def answering(self, body_bytes: int) -> Iterator[None]:
        """Allow more while a message is under way, as it may be returned whole."""
        extra = BYTES_PER_REQUEST + body_bytes
        self._most += extra
        self.fill(extra)
        try:
            yield
        finally:
            self._most -= extra
            self.fill(0)

    def take(self, count: int) -> None:
        """Count bytes that come; raises `Flooded` if they are more than allowed."""
        at = time.monotonic()
        self.fill((at - self._filled_at) * BYTES_PER_SECOND)
        self._filled_at = at
        if count > self._left:
            raise Flooded("more came than is read")
        self._left -= count


class BoundedReader:
    """A stream reader that refuses to wait for a frame larger than its connection may bring."""

    def __init__(self, reader: asyncio.StreamReader, intake: Intake) -> None:
        self._reader = reader
        self._intake = intake

    async def readexactly(self, count: int) -> bytes:
        self._intake.take(count)
        return await self._reader.readexactly(count)

    def at_eof(self) -> bool:
        return self._reader.at_eof()
