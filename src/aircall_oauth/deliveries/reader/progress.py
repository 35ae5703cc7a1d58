"""What a reader writes down: how far it is, and what its deliveries came to."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from aircall_oauth.deliveries.reader import queries
from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.deliveries.reader.queries import Attempt, Checkpoint, Findings, ParkedEvent

KEEP_SECONDS = 0.25
KEEP_AT = 256
PAUSE_SECONDS = 0.5


class FencedOff(Exception):
    """Another worker reads for this subscription now, or the subscription is gone."""


class Progress:
    """Collects findings, and writes them down with the checkpoint in one statement, many at a time."""

    def __init__(self, connections: Connections, checkpoint: Callable[[], Checkpoint], wake: asyncio.Event) -> None:
        self.findings = Findings()
        self.due_at: float | None = None  # by the monotonic clock; None while there is nothing to write
        self._connections = connections
        self._checkpoint = checkpoint
        self._wake = wake
        self._writing = asyncio.Lock()
        self._being_written = Findings()
        self._written = checkpoint()

    @property
    def is_being_written(self) -> bool:
        return self._writing.locked()

    @property
    def concerns_parked(self) -> bool:
        """Whether rows of parked events are to be added, changed or deleted, or are at this moment."""
        return self.findings.concern_parked or self._being_written.concern_parked

    def add_attempt(self, attempt: Attempt) -> None:
        self.findings.attempts.append(attempt)

    def add_parked(self, event: ParkedEvent) -> None:
        self.findings.parked[event.item.position] = event

    def add_delivered(self, position: int) -> None:
        """Note that a parked event was delivered."""
        self.findings.delivered.append(position)
        self.findings.parked.pop(position, None)

    def write_within(self, seconds: float) -> None:
        """Have the findings written within so many seconds; an earlier time that was set stays."""
        at = time.monotonic() + seconds
        if self.due_at is None or at < self.due_at:
            self.due_at = at
            self._wake.set()

    def write_soon(self, count: int = 0) -> None:
        """Have the findings written within `KEEP_SECONDS`, or at once if their `count` has come to `KEEP_AT`."""
        self.write_within(KEEP_SECONDS if count < KEEP_AT else 0)

    @property
    def is_due(self) -> bool:
        return self.due_at is not None and self.due_at <= time.monotonic()

    async def write(self) -> tuple[int, bool]:
        """Write down the checkpoint and the findings in one statement; what could not be written is kept.

        One after the other, as positions only grow. Returns the subscription's version, and whether it is active.
        Raises `FencedOff`, and `DatabaseAway`.
        """
        async with self._writing:
            return await self._write()

    async def _write(self) -> tuple[int, bool]:
        findings, checkpoint = self.findings, self._checkpoint()
        self.findings, self.due_at, self._being_written = Findings(), None, findings
        try:
            async with self._connections.one() as connection:
                row = await queries.keep(connection, checkpoint, findings)
        except BaseException:
            self.findings = self.findings.after(findings)
            self.write_within(PAUSE_SECONDS)
            raise
        finally:
            self._being_written = Findings()
        if row is None:
            raise FencedOff
        self._written = checkpoint
        return row

    def unwritten_move(self) -> Checkpoint | None:
        """Return the checkpoint if only its position differs from what was written, and no write is due or running."""
        checkpoint = self._checkpoint()
        moved = checkpoint != self._written
        only_moved = moved and replace(self._written, position=checkpoint.position) == checkpoint
        return checkpoint if only_moved and not self.is_being_written and self.due_at is None else None

    def written(self, checkpoint: Checkpoint) -> None:
        """Take note that this checkpoint was written with those of other readers."""
        if checkpoint.position > self._written.position:
            self._written = checkpoint
