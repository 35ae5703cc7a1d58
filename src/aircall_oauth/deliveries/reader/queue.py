"""Events that were read and are not settled yet: how far the position may move, and which may go out next."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter

from aircall_oauth.deliveries.destinations.outcomes import Message

# The memory that an event takes beside its body.
ITEM_BYTES = 1024


@dataclass(slots=True, eq=False)
class Item:
    """An event to be delivered."""

    message: Message
    position: int
    received_at: datetime
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

    @property
    def order_key(self) -> str:
        """Events with the same key keep their order if the subscription asks for order."""
        return self.message.installation_id


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

    def slow(self, before: float) -> list[Item]:
        """Return events under way since before then, if most of the window is settled and waits for them."""
        unsettled = [item for item in self._items if not item.settled]
        if len(unsettled) > len(self._items) // 2:
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
    """An event under way, or about to be, and the events with its order key that wait for it to end."""

    first: Item
    waiting: deque[Item] = field(default_factory=deque)


class Queue:
    """Decides which event is next. With `ordered`, one event of an order key at a time, and none past a parked one.

    Events are taken by `take`, `take_for_probe` or `take_untried`. One that `is_behind` must not go out.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._waiting: deque[Item] = deque()
        self._ready: deque[Item] = deque()
        self._chains: dict[str, Chain] = {}
        self.blocked: dict[str, int] = {}  # the number of parked events of each order key that has any

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

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
            candidates.setdefault(item.order_key if self._ordered else item, item)
            if len(candidates) == most:
                break
        return self._taken(list(candidates.values())[turn % len(candidates)]) if candidates else None

    def take_untried(self) -> Item | None:
        """Take the first event that was never sent to the destination. Parked events leave the queue."""
        self.hold(())
        seen: set[str] = set()
        for item in self._waiting:
            if not item.tried and not (self._ordered and item.order_key in seen):
                return self._taken(item)
            seen.add(item.order_key)
        return None

    def done(self, item: Item) -> None:
        """Let the next event of the order key go: this one is settled."""
        waiting = self.withdraw(item)
        if waiting:
            first = waiting.popleft()
            self._chains[item.order_key] = Chain(first, waiting)
            self._ready.append(first)

    def withdraw(self, item: Item) -> deque[Item]:
        """Free the order key of an event that is parked or must not go; returns the events that waited for it."""
        chain = self._chains.get(item.order_key)
        if chain is None or chain.first is not item:
            return deque()
        return self._chains.pop(item.order_key).waiting

    def pass_by(self, item: Item) -> deque[Item]:
        """Return the events that waited for one that is parked but still under way: its order key stays busy."""
        chain = self._chains.get(item.order_key)
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
        """Whether an earlier event of its order key is parked."""
        return self._ordered and not item.parked and item.order_key in self.blocked

    def block(self, order_key: str) -> None:
        """Count one more parked event of an order key."""
        self.blocked[order_key] = self.blocked.get(order_key, 0) + 1

    def unblock(self, order_key: str) -> None:
        """Count one parked event of an order key less."""
        left = self.blocked.get(order_key, 0) - 1
        if left > 0:
            self.blocked[order_key] = left
        else:
            self.blocked.pop(order_key, None)

    def is_busy(self, order_key: str) -> bool:
        """Whether an event of this order key is under way or about to be."""
        return order_key in self._chains

    def _may_go(self, item: Item) -> bool:
        if not self._ordered:
            return True
        chain = self._chains.get(item.order_key)
        if chain is None:
            self._chains[item.order_key] = Chain(item)
            return True
        chain.waiting.append(item)
        return False

    def _taken(self, item: Item) -> Item:
        self._waiting.remove(item)
        if self._ordered and not self.is_behind(item):
            self._chains[item.order_key] = Chain(item)
        return item
