"""The tail: the newest events of the log in memory, read once for all readers of a worker that keep up."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import asyncpg

from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.deliveries.reader import queries
from aircall_oauth.deliveries.reader.queries import message_of
from aircall_oauth.deliveries.reader.queue import ITEM_BYTES, Item
from aircall_oauth.events import positions
from aircall_oauth.events.query import EventJson, Filter
from aircall_oauth.storage.data_keys import DataKeys

PAGE = 500
MANY = 16
PAGE_BYTES = 1024 * 1024
MOST_BYTES = 4 * 1024 * 1024


@dataclass
class TailEvent:
    """An event, and its message: made once, when the first reader wants it."""

    event: EventJson

    @cached_property
    def message(self) -> Message:
        return message_of(self.event)

    @cached_property
    def about(self) -> str:
        return self.event.about

    @property
    def bytes(self) -> int:
        return len(memoryview(self.event.data)) + ITEM_BYTES


class Tail:
    """All events past `start` and up to `head`. Both are None while nothing is known."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.head: int | None = None
        self._events: deque[TailEvent] = deque()
        self._bytes = 0
        self.was_busy = False  # whether the last reading brought many events

    def covers(self, after: int) -> bool:
        """Whether it holds all events past this position, as far as the log was read."""
        return self.start is not None and self.head is not None and self.start <= after <= self.head

    def forget(self) -> None:
        """Forget everything; the next `follow` begins anew."""
        self.start = self.head = None
        self._events.clear()
        self._bytes, self.was_busy = 0, False

    async def follow(self, connection: asyncpg.Connection, keys: DataKeys) -> bool:
        """Read the events that came since; returns whether there are more. The first call only learns the log's end."""
        head = self.head
        if head is None:
            self.start = self.head = await positions.newest_position(connection)
            return False
        events, read_to, more = await queries.read_unfiltered(connection, keys, head, limit=PAGE, most_bytes=PAGE_BYTES)
        if self.head != head:
            # Forgotten meanwhile: what was read may have been erased since. Or some of it was taken meanwhile.
            return True
        # The log is shorter than it was, or its next event lies far ahead: readers that are behind read for themselves.
        if read_to < head or (more and not events):
            self.forget()
            return True
        self._add([TailEvent(event) for event in events])
        self.was_busy = len(events) >= MANY
        self.head = read_to
        return more

    def take(self, events: Sequence[EventJson]) -> bool:
        """Add events that were committed a moment ago; returns whether they come right after the head, or before it.

        Each position is drawn under the log's lock, so nothing comes between two that follow each other. Where one is
        missing, be it another process's or of a commit that failed, the log is to be read.
        """
        if self.head is None or events[0].position > self.head + 1:
            return False
        new = [event for event in events if event.position > self.head]
        if new and new[-1].position != self.head + len(new):
            return False
        self._add([TailEvent(event) for event in new])
        self.head += len(new)
        return True

    def unwanted_to(self, wanted: Filter, after: int) -> int:
        """Return the position past `after` up to which nothing is wanted. Only valid if it `covers` `after`."""
        assert self.head is not None
        first = next(self._wanted(wanted, after), None)
        return self.head if first is None else first.event.position - 1

    def read(self, wanted: Filter, after: int, *, limit: int, most_bytes: int) -> tuple[list[Item], int, bool]:
        """Return what `queries.read` would, without asking the database. Only valid if it `covers` `after`."""
        assert self.head is not None
        items: list[Item] = []
        for each in self._wanted(wanted, after):
            if len(items) == limit or (items and most_bytes <= 0):
                return items, items[-1].position, True
            items.append(Item(each.message, each.event.position, each.event.received_at, each.about))
            most_bytes -= each.bytes
        return items, self.head, False

    def _wanted(self, wanted: Filter, after: int) -> Iterator[TailEvent]:
        newer = []
        for each in reversed(self._events):
            if each.event.position <= after:
                break
            newer.append(each)
        return (each for each in reversed(newer) if wanted.takes(each.event))

    def _add(self, page: list[TailEvent]) -> None:
        self._events.extend(page)
        self._bytes += sum(each.bytes for each in page)
        while self._bytes > MOST_BYTES and len(self._events) > 1:
            oldest = self._events.popleft()
            self._bytes -= oldest.bytes
            self.start = oldest.event.position
