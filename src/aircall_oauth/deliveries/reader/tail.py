"""The newest events of the log, read once for all readers of a worker: those that keep up take theirs from memory."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import asyncpg

from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.deliveries.reader import queries
from aircall_oauth.deliveries.reader.queries import message_of
from aircall_oauth.deliveries.reader.queue import ITEM_BYTES, Item
from aircall_oauth.events import store
from aircall_oauth.events.query import EventJson, Filter

PAGE = 500
PAGE_BYTES = 1024 * 1024
MOST_BYTES = 4 * 1024 * 1024


@dataclass
class Came:
    """An event, and what goes out of it: made once, when the first reader wants it."""

    event: EventJson

    @cached_property
    def message(self) -> Message:
        return message_of(self.event)

    @property
    def bytes(self) -> int:
        return len(memoryview(self.event.data)) + ITEM_BYTES


class Tail:
    """The events past `start` and up to `head`, all of them. While nothing is known, both are None."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.head: int | None = None
        self._came: deque[Came] = deque()
        self._bytes = 0

    def covers(self, after: int) -> bool:
        """Whether all events past this place, as far as they were read, are here."""
        return self.start is not None and self.head is not None and self.start <= after <= self.head

    def forget(self) -> None:
        """Begin anew with the next `follow`."""
        self.start = self.head = None
        self._came.clear()
        self._bytes = 0

    async def follow(self, connection: asyncpg.Connection) -> bool:
        """Read what came since; whether there is more. The first time it only learns where the log ends."""
        if self.head is None:
            self.start = self.head = await store.newest_position(connection)
            return False
        events, read_to, more = await queries.came(connection, self.head, limit=PAGE, most_bytes=PAGE_BYTES)
        # The log is shorter than it was, or what comes next lies far ahead: those behind it read for themselves.
        if read_to < self.head or (more and not events):
            self.forget()
            return True
        self._add([Came(event) for event in events])
        self.head = read_to
        return more

    def unwanted_to(self, wanted: Filter, after: int) -> int:
        """The place past `after` up to which there is nothing that is wanted. Only where it `covers` that place."""
        assert self.head is not None
        first = next(self._wanted(wanted, after), None)
        return self.head if first is None else first.event.position - 1

    def read(self, wanted: Filter, after: int, *, limit: int, most_bytes: int) -> tuple[list[Item], int, bool]:
        """As `statements.read`, without asking the database. Only where it `covers` that place."""
        assert self.head is not None
        items: list[Item] = []
        for came in self._wanted(wanted, after):
            if len(items) == limit or (items and most_bytes <= 0):
                return items, items[-1].position, True
            items.append(Item(came.message, came.event.position, came.event.received_at))
            most_bytes -= came.bytes
        return items, self.head, False

    def _wanted(self, wanted: Filter, after: int) -> Iterator[Came]:
        newer = []
        for came in reversed(self._came):
            if came.event.position <= after:
                break
            newer.append(came)
        return (came for came in reversed(newer) if wanted.takes(came.event))

    def _add(self, page: list[Came]) -> None:
        self._came.extend(page)
        self._bytes += sum(came.bytes for came in page)
        while self._bytes > MOST_BYTES and len(self._came) > 1:
            oldest = self._came.popleft()
            self._bytes -= oldest.bytes
            self.start = oldest.event.position
