"""What a campaign notes while it runs, and what it finds in the end: all that the oracle judges by.

Times are seconds of this machine's monotonic clock, since the campaign began; Aircall's are its own UNIX seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One POST of an event to the webhook door; `status` is None where no answer came."""

    began: float
    ended: float
    status: int | None


@dataclass
class Sent:
    """An event that Aircall tells, by its `data.n`, with every attempt up to the one that was acknowledged."""

    number: int
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def is_acked(self) -> bool:
        return any(attempt.status == 200 for attempt in self.attempts)


@dataclass(frozen=True)
class Stored:
    """One row of the log.

    `number` is None for what the campaign did not send; `about` is the name of the subscription that the row tells of.
    """

    position: int
    event_id: str
    installation_id: str
    type: str
    owner: str | None = None
    number: int | None = None
    about: str | None = None


@dataclass(frozen=True)
class Taken:
    """An event that a destination answered 2xx."""

    at: float
    position: int
    event_id: str
    installation_id: str
    number: int | None = None
    subject: str | None = None


@dataclass
class Reading:
    """A subscription: what it wants of the log after `start`, and what its destination took, in order."""

    name: str
    start: int = 0
    order: str = "none"  # what the subscription asked for
    wants: Callable[[Stored], bool] = lambda _: True
    taken: list[Taken] = field(default_factory=list)


@dataclass
class Occurrence:
    """A fault that was made to happen."""

    fault: str
    began: float
    ended: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Window:
    """Seconds between an event's first POST and its delivery, for a well-behaved tenant, in a calm stretch."""

    hostile: bool
    latencies: tuple[float, ...]


@dataclass(frozen=True)
class Call:
    """A request that came in at Aircall with the token of a company."""

    at: float
    company_id: int


@dataclass(frozen=True)
class Standing:
    """How an installation stands here, and whether Aircall has a webhook of ours and the integration switched on."""

    installation_id: str
    status: str
    webhook_on: bool
    integration_on: bool
    here: str = ""  # the webhook's row in words, for a counterexample


@dataclass
class Records:
    """All of one campaign."""

    budget_per_minute: int
    sent: dict[int, Sent] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    followed_from: int = 0
    followed: list[tuple[int, str]] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    occurrences: list[Occurrence] = field(default_factory=list)
    # When no service could have taken anything in: PostgreSQL was down, its disk full.
    excused: list[tuple[float, float]] = field(default_factory=list)
    # When PostgreSQL's clock was set, by Aircall's clock.
    clock_set_at: list[float] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    peak_memory: dict[str, int] = field(default_factory=dict)  # bytes, by process
    failures: list[str] = field(default_factory=list)  # 500s, tracebacks, processes that ended by themselves
    deadlocks: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    others_share: float = 0.0  # of the machine's processors, what other work than the campaign's took
    figures: dict[str, Any] = field(default_factory=dict)
