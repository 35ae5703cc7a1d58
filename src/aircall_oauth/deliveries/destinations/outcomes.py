"""A message, the outcomes of an attempt to deliver it, and what every kind of destination does."""

import asyncio
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DELIVERED = "delivered"
REPLAY_HEADER = "webhook-replay"
UNEXPECTED = "internal_error"
# Longer than any destination takes by itself.
DEADLINE_SECONDS = 16.0
LONGEST_PAUSE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Message:
    """One event for one subscription; `body` is the event's JSON, byte for byte as it goes out.

    `replay` is the id of the replay that sends it, or `resend`; none for the live reader.
    """

    event_id: str
    installation_id: str
    type: str
    body: bytes
    replay: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a broker's message."""
        of_event = {"event_id": self.event_id, "installation_id": self.installation_id, "type": self.type}
        return of_event | self.mark

    @property
    def mark(self) -> dict[str, str]:
        """The header that tells a replayed event from a live one."""
        return {} if self.replay is None else {REPLAY_HEADER: self.replay}


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination confirmed the message."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The attempt failed and may work later. `reason` is one word; a pause that is asked for is an hour at most."""

    reason: str
    pause_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.pause_seconds is not None:
            object.__setattr__(self, "pause_seconds", _bounded(self.pause_seconds))


@dataclass(frozen=True, slots=True)
class Gone:
    """The destination wants no more events: its subscription is to be disabled."""

    reason: str


Outcome = Delivered | TryAgain | Gone


def word(outcome: Outcome) -> str:
    """Return an outcome in one word, as the log of attempts has it."""
    return DELIVERED if isinstance(outcome, Delivered) else outcome.reason


class Destination(Protocol):
    """Where a subscription's events go. Every failure is an `Outcome`, not an exception."""

    async def deliver(self, message: Message) -> Outcome:
        """Deliver one message; returns once the destination confirmed it or the attempt failed."""
        ...

    async def close(self) -> None: ...


async def attempt(destination: Destination, message: Message, unexpected: Callable[[BaseException], None]) -> Outcome:
    """Deliver one message within `DEADLINE_SECONDS`; returns an outcome whatever happens.

    `unexpected` is called with an error that the destination should have turned into an outcome itself.
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await destination.deliver(message)
    except TimeoutError:
        return TryAgain("timeout")
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        # A client that cancels its own work raises this too: then our caller did not cancel this task.
        if task is None or task.cancelling():
            raise
        unexpected(error)
    except Exception as error:
        unexpected(error)
    return TryAgain(UNEXPECTED)


def raised_at(error: BaseException) -> str:
    """Return the file and line that raised an error, for the log: the error's text may hold secrets."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _bounded(seconds: float) -> float:
    """Bound a pause to between zero and an hour; zero if it is not a number."""
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS)
