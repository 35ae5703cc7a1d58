"""What a process has counted for the numbers over time: additions in memory, taken and written down once a minute.

A figure has a name, a label and amounts, such as `deliveries` of a subscription: matched, delivered, failed. With the
label `""` it is about all of them together. Histograms are counted in buckets, so that those of several processes add
up. The buckets of a name never change: others would need another name.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, StrEnum

# Aircall waits five seconds; a commit is a few milliseconds.
ACK_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
# From the event's commit to its delivery: an event may be tried again for days.
DELIVERY_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400)
ALL = ""


class Name(StrEnum):
    """What is counted; the label of each, and its amounts."""

    ACKS = "acks"  # an answer to events, such as `stored`: [events]
    ACK_SECONDS = "ack_seconds"  # no label: events by `ACK_SECONDS`, and those that took longer
    DELIVERIES = "deliveries"  # a subscription: as `Delivery` says
    DELIVERY_SECONDS = "delivery_seconds"  # no label: deliveries by `DELIVERY_SECONDS`, and those that took longer
    LAG = "lag"  # a subscription for which events wait: as `Lag` says, the most at once
    PROXIED = "proxied"  # the class of Aircall's answer, such as `2xx`, or `none`: [calls]
    ALIVE = "alive"  # what a process does, `web` or `worker`: [processes]


class Delivery(IntEnum):
    """The amounts of `Name.DELIVERIES`."""

    MATCHED = 0  # events that were wanted, and are delivered or set aside
    DELIVERED = 1
    FAILED = 2  # tries


class Lag(IntEnum):
    """The amounts of `Name.LAG`; an earlier version wrote the first two."""

    EVENTS = 0  # of the log, past its position
    SECONDS = 1  # the age of the oldest of these
    PARKED = 2  # events that wait beside the log, to be tried again
    OLDEST = 3  # seconds: the age of the oldest event that waits, in the log or beside it


# The most at once counts, not the sum.
HIGHEST = frozenset({Name.LAG})
Counts = dict[tuple[Name, str], list[int]]


class Figures:
    """The counts since the last `take`."""

    def __init__(self) -> None:
        self._counts: Counts = {}

    def add(self, name: Name, label: str, place: int, of: int, amount: int = 1) -> None:
        """Add to one of a figure's amounts; `of` is how many it has."""
        amounts = self._counts.get((name, label))
        if amounts is None:
            amounts = self._counts[name, label] = [0] * of
        amounts[place] += amount

    def matched(self, subscription_id: str) -> None:
        """Count a wanted event that the position may move over."""
        self._delivery(subscription_id, Delivery.MATCHED)

    def delivered(self, subscription_id: str, seconds: float) -> None:
        """Count a live delivery, so many seconds after the event was received."""
        self._delivery(subscription_id, Delivery.DELIVERED)
        self.add(Name.DELIVERY_SECONDS, ALL, bisect_left(DELIVERY_SECONDS, seconds), len(DELIVERY_SECONDS) + 1)

    def failed(self, subscription_id: str) -> None:
        """Count a live try that failed."""
        self._delivery(subscription_id, Delivery.FAILED)

    def proxied(self, status: int | None) -> None:
        """Count a call that Aircall was asked on a caller's behalf; None where it did not answer."""
        self.add(Name.PROXIED, "none" if status is None else f"{status // 100}xx", 0, 1)

    def behind(self, label: str, lag: Mapping[Lag, float]) -> None:
        """Note what waits for a subscription, or with `ALL` for the one that is farthest behind."""
        if lag[Lag.EVENTS] or lag[Lag.PARKED]:
            keep_highest(self._counts, (Name.LAG, label), [round(lag[each]) for each in Lag])

    def take(self) -> Counts:
        """Return the counts, and begin anew."""
        counts, self._counts = self._counts, {}
        return counts

    def _delivery(self, subscription_id: str, outcome: Delivery) -> None:
        self.add(Name.DELIVERIES, subscription_id, outcome, len(Delivery))
        self.add(Name.DELIVERIES, ALL, outcome, len(Delivery))


def keep_highest(counts: Counts, key: tuple[Name, str], amounts: list[int]) -> None:
    counts[key] = [max(pair) for pair in zip(amounts, counts.get(key, amounts), strict=True)]


def merge(counts: Counts, later: Counts) -> None:
    """Add later counts to earlier ones."""
    for key, amounts in later.items():
        if key[0] in HIGHEST:
            keep_highest(counts, key, amounts)
        else:
            counts[key] = [sum(pair) for pair in zip(amounts, counts.get(key, [0] * len(amounts)), strict=True)]


def quantile(share: float, bounds: Sequence[float], amounts: Iterable[int]) -> float | None:
    """Return the seconds within which this share of a histogram lies; None if it is empty.

    Read between a bucket's bounds as if its entries were spread evenly. For what lies past the last bound, that bound
    is returned.
    """
    counts = list(amounts)
    wanted, below, lower = share * sum(counts), 0, 0.0
    if not wanted:
        return None
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below, lower = below + count, bound
    return lower
