"""Events that were read and are not settled yet: how far the position may move, and which may go out next."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.storage.statuses import SubscriptionOrder

# The memory that an event takes beside its body.
ITEM_BYTES = 1024

# Events with the same key go out one after the other: the installation, and what the event is about. The latter is
# empty where the subscription does not ask for the order of subjects.
OrderKey = tuple[str, str]


def order_key(ordering: str, installation_id: str, about: str) -> OrderKey:
    """Return the key of an event: about what it is, by `EventJson.about`."""
    return installation_id, about if ordering == SubscriptionOrder.SUBJECT else ""


@dataclass(slots=True, eq=False)
class Item:
    """An event to be delivered."""

    message: Message
    position: int
    received_at: datetime
    about: str
    attempts: int = 0  # that failed, as its row of parked events counts them
    parked: bool = False  # it has a row in the table of parked events
    tried: bool = False
    settled: bool = False
    out_since: float | None = None  # by the monotonic clock, while it is under way

    @property
    def installation_id(self) -> str:
        return self.message.installation_id

    @property
    def bytes(self) -> int:
        """Roughly the memory it takes."""
        return len(self.message.body) + ITEM_BYTES


class Window:
    """The events between the position and the place read to. The position moves over settled events only."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.read_to = position
        self.bytes = 0
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, items: Iterable[Item], read_to: int) -> None:
        """Add the next events of the log; up to `read_to` there are no others."""
        for item in items:
            self._items.append(item)
            self.bytes += item.bytes
        self.read_to = read_to
        self._move()

    def settle(self, item: Item) -> None:
        """Mark an event as delivered or parked."""
        item.settled = True
        self._move()

    def slow(self, before: float, *, stuck: bool) -> list[Item]:
        """Return events under way since before then, if most of the window is settled and waits for them.

        With `stuck`, also if it is not: the rest waits for the few under way, as it must keep its order.
        """
        unsettled = [item for item in self._items if not item.settled]
        if len(unsettled) > len(self._items) // 2 and not stuck:
            return []
        return [item for item in unsettled if item.out_since is not None and item.out_since < before]

    def _move(self) -> None:
        while self._items and self._items[0].settled:
            first = self._items.popleft()
            self.bytes -= first.bytes
            self.position = first.position
        if not self._items:
            self.position = self.read_to


@dataclass(slots=True)
class Chain:
    """An event under way, or about to be, and the events with its key that wait for it to end."""

    first: Item
    waiting: deque[Item] = field(default_factory=deque)


class Blocked(NamedTuple):
    """The parked events of a key: how many, the position of the first, and whether that one has no due time."""

    parked: int
    first: int
    released: bool


class Queue:
    """Decides which event is next. With an order, one event of a key at a time, and none past a parked one.

    Events are taken by `take`, `take_for_probe` or `take_untried`. One that `is_behind` must not go out.
    """

    def __init__(self, ordering: str) -> None:
        self.ordered = ordering != SubscriptionOrder.NONE
        self._ordering = ordering
        self._waiting: deque[Item] = deque()
        self._ready: deque[Item] = deque()
        self._chains: dict[OrderKey, Chain] = {}
        self._blocked: dict[OrderKey, int] = {}  # the number of parked events of each key that has any
        # Keys with parked events of which the first one has no due time, those that were looked at longest ago first.
        self._released: dict[OrderKey, None] = {}
        # Of keys with parked events that all came past the position: the first one. What is read again before that was
        # delivered by the reader before this one; if it goes out once more, it need not wait.
        self._first_parked: dict[OrderKey, int] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

    @property
    def has_parked(self) -> bool:
        """Whether there are parked events, under way or not."""
        return bool(self._blocked)

    @property
    def has_idle_parked(self) -> bool:
        """Whether there are parked events of a key of which none is under way."""
        return len(self._blocked) > len(self.busy())

    def key(self, item: Item) -> OrderKey:
        """Return the key by which an event is ordered."""
        return order_key(self._ordering, item.installation_id, item.about)

    def join(self, items: Iterable[Item]) -> None:
        """Add events of the log, in its order."""
        self._waiting.extend(items)

    def join_parked(self, items: Iterable[Item]) -> None:
        """Add parked events that are due, in the order of the log; they go first."""
        for item in items:
            if self._may_go(item):
                self._ready.append(item)

    def take(self) -> Item | None:
        """Take the next event, or None if none may go."""
        if self._ready:
            return self._ready.popleft()
        while self._waiting:
            item = self._waiting.popleft()
            if self.is_behind(item) or self._may_go(item):
                return item
        return None

    def take_for_probe(self, turn: int, most: int) -> Item | None:
        """Take one of the first `most` events that may go, another one each turn. Parked events leave the queue."""
        self.hold(())
        candidates: dict[object, Item] = {}
        for item in self._waiting:
            candidates.setdefault(self.key(item) if self.ordered else item, item)
            if len(candidates) == most:
                break
        return self._taken(list(candidates.values())[turn % len(candidates)]) if candidates else None

    def take_untried(self) -> Item | None:
        """Take the first event that was never sent to the destination. Parked events leave the queue."""
        self.hold(())
        seen: set[OrderKey] = set()
        for item in self._waiting:
            if not item.tried and not (self.ordered and self.key(item) in seen):
                return self._taken(item)
            seen.add(self.key(item))
        return None

    def done(self, item: Item) -> None:
        """Let the next event of the key go: this one is settled."""
        waiting = self.withdraw(item)
        if waiting:
            first = waiting.popleft()
            self._chains[self.key(item)] = Chain(first, waiting)
            self._ready.append(first)

    def withdraw(self, item: Item) -> deque[Item]:
        """Free the key of an event that is parked or must not go; returns the events that waited for it."""
        key = self.key(item)
        chain = self._chains.get(key)
        if chain is None or chain.first is not item:
            return deque()
        del self._chains[key]
        return chain.waiting

    def pass_by(self, item: Item) -> deque[Item]:
        """Return the events that waited for one that is parked but still under way: its key stays busy."""
        chain = self._chains.get(self.key(item))
        if chain is None or chain.first is not item:
            return deque()
        waiting, chain.waiting = chain.waiting, deque()
        return waiting

    def hold(self, items: Iterable[Item]) -> None:
        """Put events back, in the order of the log, with those that waited for them. Parked events leave the queue."""
        back = [*items, *self._ready]
        for item in back.copy():
            back.extend(self.withdraw(item))
        self._ready.clear()
        for chain in self._chains.values():
            chain.waiting = deque(item for item in chain.waiting if not item.parked)
        if back:
            waiting = [item for item in (*back, *self._waiting) if not item.parked]
            self._waiting = deque(sorted(waiting, key=attrgetter("position")))

    def drop(self, item: Item) -> None:
        """Remove an event, if it is in the queue."""
        if item in self._waiting:
            self._waiting.remove(item)

    def is_behind(self, item: Item) -> bool:
        """Whether an earlier event of its key is parked."""
        if not self._blocked or not self.ordered or item.parked:
            return False
        key = self.key(item)
        return key in self._blocked and item.position > self._first_parked.get(key, -1)

    def count_parked(self, blocked: Mapping[OrderKey, Blocked], position: int) -> None:
        """Take over how many events of each key are parked; `position` is the reader's."""
        self._blocked = {key: each.parked for key, each in blocked.items()}
        self._released = {key: None for key, each in blocked.items() if each.released}
        self._first_parked = {key: each.first for key, each in blocked.items() if each.first > position}

    def block(self, item: Item) -> None:
        """Count an event as parked."""
        key = self.key(item)
        self._blocked[key] = self._blocked.get(key, 0) + 1
        if item.position < self._first_parked.get(key, -1):
            self._released[key] = None

    def unblock(self, item: Item) -> None:
        """Count a parked event less: the next one of its key, if there is one, may go."""
        key = self.key(item)
        left = self._blocked.get(key, 0) - 1
        if left > 0:
            self._blocked[key] = left
            self._released[key] = None
        else:
            self._blocked.pop(key, None)
            self._released.pop(key, None)
            self._first_parked.pop(key, None)

    def has_due_time(self, item: Item) -> None:
        """Note that the first parked event of a key waits for its time now."""
        key = self.key(item)
        if key not in self._first_parked:
            self._released.pop(key, None)

    def released(self, most: int) -> list[OrderKey]:
        """Return keys of which the first parked event waits for no time and is not under way, other ones each turn."""
        found = list(islice((key for key in self._released if key not in self._chains), max(most, 0)))
        for key in found:
            self._released[key] = self._released.pop(key)
        return found

    def busy(self) -> list[OrderKey]:
        """Return keys with parked events of which one is under way or about to be."""
        return [key for key in self._chains if key in self._blocked]

    def is_busy(self, item: Item) -> bool:
        """Whether an event of the same key is under way or about to be."""
        return self.key(item) in self._chains

    def _may_go(self, item: Item) -> bool:
        if not self.ordered:
            return True
        key = self.key(item)
        chain = self._chains.get(key)
        if chain is None:
            self._chains[key] = Chain(item)
            return True
        chain.waiting.append(item)
        return False

    def _taken(self, item: Item) -> Item:
        self._waiting.remove(item)
        if self.ordered and not self.is_behind(item):
            self._chains[self.key(item)] = Chain(item)
        return item
