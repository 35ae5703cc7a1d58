"""What is handed over, what that can come to, and what every kind of destination does."""

from dataclasses import dataclass
from typing import Protocol

DELIVERED = "delivered"


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
    """It may work later. `reason` is one word; a destination that asked for a pause is given it."""

    reason: str
    pause_seconds: float | None = None


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
