"""What can need a person, and what is said of it: its cause, since when, whom it touches."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, auto

from aircall_oauth.operations.doctor import Level

# How many are named; the rest is counted.
MOST_NAMED = 3


class Cause(StrEnum):
    """What can need a person."""

    WORKER = auto()
    SLOW_ANSWERS = auto()
    TOKENS_REFUSED = auto()
    WEBHOOKS_OFF = auto()
    WEBHOOKS_PENDING = auto()
    UNCLAIMED = auto()
    SILENT = auto()
    NO_NUMBERS = auto()
    DESTINATION = auto()
    REFUSING = auto()
    FAILING = auto()
    BEHIND = auto()
    DEAD_EVENTS = auto()


@dataclass(frozen=True)
class Touched:
    """A customer or a destination that a need is about."""

    id: str
    name: str


@dataclass(frozen=True)
class Need:
    """Something that needs a person: how bad it is, what, since when, whom it touches, and how many there are.

    `failures` are the words of the last failed deliveries, such as `http_501`: one of a single destination, the most
    frequent ones first of several.
    """

    cause: Cause
    level: Level
    what: str
    advice: str
    since: datetime | None = None
    touched: tuple[Touched, ...] = ()
    count: int = 1
    failures: tuple[str, ...] = ()
