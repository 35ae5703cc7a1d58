"""Reads events of the log ahead of the position: from the tail in memory, or from the database."""

from collections.abc import Mapping

from aircall_oauth.deliveries.reader import queries
from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.deliveries.reader.memory import Memory
from aircall_oauth.deliveries.reader.queue import Item, Window
from aircall_oauth.deliveries.reader.tail import Tail
from aircall_oauth.events.query import Filter

# How much is read ahead: a batch in deliveries at once, at most so many batches, and so many bytes.
BATCH = 4
LEAST_BATCH = 32
BATCHES = 2
# Events about the same call wait for each other, so as many deliveries at once need more events.
BATCHES_BY_SUBJECT = 4
MOST_BYTES = 4 * 1024 * 1024


class ReadAhead:
    """The window of events that were read, and the room for more."""

    def __init__(
        self,
        window: Window,
        wanted: Filter,
        connections: Connections,
        *,
        tail: Tail,
        memory: Memory,
        at_once: int,
        retried: Mapping[int, Item],
        batches: int = BATCHES,
    ) -> None:
        self.window = window
        self.more = True  # whether there may be more to read
        self._filter = wanted
        self._connections = connections
        self._tail, self._memory = tail, memory
        self._batch = max(BATCH * at_once, LEAST_BATCH)
        self._batches = batches
        self._retried = retried
        self._reading = False
        self.note_memory()

    @property
    def keeps_up(self) -> bool:
        """Whether it has read the log to its end, as far as it knows."""
        return not (self.more or self._reading)

    def pass_over(self) -> bool:
        """Move over unwanted events of the tail; returns whether none up to the log's end is wanted."""
        if not (self.keeps_up and self._tail.covers(self.window.read_to)):
            return False
        self.window.add((), self._tail.unwanted_to(self._filter, self.window.read_to))
        return self.window.read_to == self._tail.head

    def may_read(self) -> bool:
        """Whether there may be more to read, and room for it."""
        few = len(self.window) <= (self._batches - 1) * self._batch
        # With no room left, one event at a time; those that are set aside as slow are held, too.
        return self.more and few and (self.room() > 0 or not self._held())

    def room(self) -> int:
        """How many more bytes of events may be held."""
        return min(MOST_BYTES - self.window.bytes, self._memory.room(self))

    async def read(self) -> list[Item]:
        """Read the next batch into the window, if there is room and may be more; returns its events."""
        if not self.may_read():
            return []
        self.more, self._reading = False, True
        try:
            items, read_to, more = await self._next_events()
        except BaseException:
            self.more = True
            raise
        finally:
            self._reading = False
            self.note_memory()
        self.more |= more
        self.window.add(items, read_to)
        self.note_memory()
        return items

    def note_memory(self, *, asked_for: int = 0) -> None:
        """Tell the shared budget how much is held, and how much may come while other readers ask for room too."""
        self._memory.note(self, self._held() + asked_for)

    def release(self) -> None:
        """Give the memory back to the shared budget: the reader has ended."""
        self._memory.leave(self)

    def _held(self) -> int:
        """How many bytes of events are in the window or retried."""
        return self.window.bytes + sum(item.bytes for item in self._retried.values())

    async def _next_events(self) -> tuple[list[Item], int, bool]:
        after = self.window.read_to
        room = max(self.room(), 1)
        if self._tail.covers(after):
            return self._tail.read(self._filter, after, limit=self._batch, most_bytes=room)
        self.note_memory(asked_for=room)
        async with self._connections.one() as connection:
            return await queries.read(
                connection, self._connections.data_keys, self._filter, after, limit=self._batch, most_bytes=room
            )
