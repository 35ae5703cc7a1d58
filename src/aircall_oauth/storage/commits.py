"""What this process commits to the log: told at once inside the process, and later announced to the others."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Committed:
    """The events of one commit as readers see them, in position order.

    `epoch` is the log's epoch when the connection was opened over which they were committed.
    """

    epoch: str
    events: Sequence[Any]


Listener = Callable[[Committed | None], None]


class Commits:
    """The events that this process committed, and the listeners in this process that are told of each commit."""

    def __init__(self) -> None:
        # The PostgreSQL process that announces them: its announcements tell this process nothing new.
        self.announced_by: int | None = None
        self._unannounced = 0
        self._committed = asyncio.Event()
        self._listeners: list[Listener] = []

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def note(self, events: int, committed: Committed | None = None) -> None:
        """Note that so many events were committed, and tell the listeners; `committed` has the events, if known."""
        self._unannounced += events
        self._committed.set()
        for listener in self._listeners:
            listener(committed)

    async def next(self, seconds: float) -> int:
        """Wait for a commit, for so many seconds at most; returns how many events are to be announced."""
        try:
            async with asyncio.timeout(seconds):
                await self._committed.wait()
        except TimeoutError:
            return 0
        self._committed.clear()
        events, self._unannounced = self._unannounced, 0
        return events

    @contextmanager
    def told_to(self, listener: Listener) -> Iterator[None]:
        """Call `listener` at each commit while the block lasts."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
