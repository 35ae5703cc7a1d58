"""Closes connections that were not needed for a while, also in a process that needs none any more."""

import asyncio
import time
from collections.abc import Callable

# A connection that was idle for so long is closed, at the next sweep.
IDLE_SECONDS = 60.0
SWEEP_SECONDS = 5.0


class Sweeper:
    """Calls `close_idle` every few seconds, from when a connection was opened until none is open.

    `close_idle` closes the connections that were last used before a time of the monotonic clock, and returns whether
    others are open. It is called between two steps of other tasks, so that nobody takes a connection meanwhile.
    """

    def __init__(self, close_idle: Callable[[float], bool]) -> None:
        self._close_idle = close_idle
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Begin to sweep, unless it has begun: a connection was opened."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def end(self) -> None:
        """Sweep no more: what is open is closed by others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        if self._close_idle(time.monotonic() - IDLE_SECONDS):
            self.begin()
