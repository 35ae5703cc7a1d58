"""What is handed over, what that can come to, and what every kind of destination does."""

import asyncio
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DELIVERED = "delivered"
UNEXPECTED = "internal_error"
# Longer than any destination takes by itself.
DEADLINE_SECONDS = 16.0
LONGEST_PAUSE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Message:
    """One event for one subscription; `body` is the event's JSON, to the byte what goes out."""

    event_id: str
    installation_id: str
    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has it, and said so."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """It may work later. `reason` is one word; a destination that asked for a pause is given an hour at most."""

    reason: str
    pause_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.pause_seconds is not None:
            object.__setattr__(self, "pause_seconds", _bounded(self.pause_seconds))


@dataclass(frozen=True, slots=True)
class Gone:
    """The destination wants no more of them: its subscription is disabled."""

    reason: str


Outcome = Delivered | TryAgain | Gone


def word(outcome: Outcome) -> str:
    """An outcome in one word, as the log of attempts has it."""
    return DELIVERED if isinstance(outcome, Delivered) else outcome.reason


class Destination(Protocol):
    """Where a subscription's events go. Everything that goes wrong is an `Outcome`, not an exception."""

    async def deliver(self, message: Message) -> Outcome:
        """Hand one event over; returns when the destination confirmed it or did not."""
        ...

    async def close(self) -> None: ...


async def attempt(destination: Destination, message: Message, unexpected: Callable[[BaseException], None]) -> Outcome:
    """Hand one event over. Whatever comes of it is an outcome, within `DEADLINE_SECONDS`.

    An error that a destination should have turned into an outcome itself is told to `unexpected`.
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await destination.deliver(message)
    except TimeoutError:
        return TryAgain("timeout")
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        # A client that cancels what it began is not our caller that cancels us.
        if task is None or task.cancelling():
            raise
        unexpected(error)
    except Exception as error:
        unexpected(error)
    return TryAgain(UNEXPECTED)


def raised_at(error: BaseException) -> str:
    """The file and line that raised it, for the log: its text may hold what must not be read."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _bounded(seconds: float) -> float:
    """From nothing to an hour; nothing for what is no number."""
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS)
