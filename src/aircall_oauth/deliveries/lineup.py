"""The events that were read and are not settled yet: how far the position may move, and which may go out next."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from aircall_oauth.deliveries.outcomes import Message


@dataclass(slots=True, eq=False)
class Item:
    """An event on its way to the destination."""

    message: Message
    position: int
    received_at: datetime
    attempts: int = 0  # that led to its being parked
    parked: bool = False  # it has a row beside the log
    tried: bool = False
    settled: bool = False
    out_since: float | None = None  # by the monotonic clock, while it is under way

    @property
    def installation_id(self) -> str:
        return self.message.installation_id


class Window:
    """What lies between the position and the place read to. The position moves over settled events only."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.read_to = position
        self.bytes = 0
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, items: Iterable[Item], read_to: int) -> None:
        """The next events of the log, and the place up to which there are no others."""
        for item in items:
            self._items.append(item)
            self.bytes += len(item.message.body)
        self.read_to = read_to
        self._move()

    def settle(self, item: Item) -> None:
        """Delivered, or parked."""
        item.settled = True
        self._move()

    def slow(self, before: float) -> list[Item]:
        """What has been under way since before then, where most others are settled and only wait for these."""
        unsettled = [item for item in self._items if not item.settled]
        if len(unsettled) > len(self._items) // 2:
            return []
        return [item for item in unsettled if item.out_since is not None and item.out_since < before]

    def _move(self) -> None:
        while self._items and self._items[0].settled:
            first = self._items.popleft()
            self.bytes -= len(first.message.body)
            self.position = first.position
        if not self._items:
            self.position = self.read_to


class Line:
    """Whose turn it is. With `ordered`, one event of an installation at a time, and none past a parked one."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._waiting: deque[Item] = deque()
        self._ready: deque[Item] = deque()
        # Installations with an event under way, and what waits for it to end.
        self._chains: dict[str, deque[Item]] = {}
        self.blocked: dict[str, int] = {}  # installations with parked events, and how many

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

    def join(self, items: Iterable[Item]) -> None:
        """Events of the log, in its order."""
        self._waiting.extend(items)

    def join_parked(self, items: Iterable[Item]) -> None:
        """Parked events that are due, in the order of the log; they go first."""
        for item in items:
            if self._may_go(item):
                self._ready.append(item)

    def take(self) -> Item | None:
        """The next event that may go out."""
        if self._ready:
            return self._ready.popleft()
        while self._waiting:
            item = self._waiting.popleft()
            if self._may_go(item):
                return item
        return None

    def take_for_probe(self, turn: int, most: int) -> Item | None:
        """One of the first that may go out, another one each turn."""
        self.hold(())
        candidates: dict[object, Item] = {}
        for item in self._waiting:
            candidates.setdefault(item.installation_id if self._ordered else item, item)
            if len(candidates) == most:
                break
        return self._taken(list(candidates.values())[turn % len(candidates)]) if candidates else None

    def take_untried(self) -> Item | None:
        """The first event that the destination has not seen yet."""
        seen: set[str] = set()
        for item in self._waiting:
            if not item.tried and not (self._ordered and item.installation_id in seen):
                return self._taken(item)
            seen.add(item.installation_id)
        return None

    def done(self, item: Item) -> None:
        """It is settled: the next of its installation may go."""
        if self._ordered:
            chain = self._chains.pop(item.installation_id, None)
            if chain:
                self._ready.append(chain.popleft())
                self._chains[item.installation_id] = chain

    def withdraw(self, item: Item) -> Iterable[Item]:
        """It is parked: what waited for it, which now waits beside the log too."""
        return self._chains.pop(item.installation_id, ())

    def hold(self, items: Iterable[Item]) -> None:
        """Back into the line, in the order of the log, with what waited for them."""
        back = [*items, *self._ready]
        if not back:
            return
        for item in back.copy():
            back.extend(self._chains.pop(item.installation_id, ()))
        self._ready.clear()
        self._waiting = deque(sorted([*back, *self._waiting], key=attrgetter("position")))

    def drop(self, item: Item) -> None:
        """It leaves the line, if it is there."""
        if item in self._waiting:
            self._waiting.remove(item)

    def drop_parked(self) -> None:
        """Parked events leave the line; their rows say when they are due again."""
        self._waiting = deque(item for item in self._waiting if not item.parked)

    def is_behind(self, item: Item) -> bool:
        """Whether an earlier event of its installation is parked."""
        return self._ordered and not item.parked and item.installation_id in self.blocked

    def block(self, installation_id: str) -> None:
        self.blocked[installation_id] = self.blocked.get(installation_id, 0) + 1

    def unblock(self, installation_id: str) -> None:
        left = self.blocked.get(installation_id, 0) - 1
        if left > 0:
            self.blocked[installation_id] = left
        else:
            self.blocked.pop(installation_id, None)

    def is_busy(self, installation_id: str) -> bool:
        return installation_id in self._chains

    def _may_go(self, item: Item) -> bool:
        if not self._ordered:
            return True
        chain = self._chains.get(item.installation_id)
        if chain is None:
            self._chains[item.installation_id] = deque()
            return True
        chain.append(item)
        return False

    def _taken(self, item: Item) -> Item:
        self._waiting.remove(item)
        if self._ordered:
            self._chains.setdefault(item.installation_id, deque())
        return item
