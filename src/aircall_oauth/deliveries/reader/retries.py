"""Retries: when a parked event is tried again, by a schedule over three days. After that it is dead."""

import random
from datetime import datetime, timedelta

SCHEDULE = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
# Spreads events that failed together, so that they do not come back together.
JITTER = 0.2
SLOW = "slow"  # the reason of an event that is still under way: those after it need not wait for it to end
SLOW_TAKES = timedelta(seconds=20)  # a little longer than a delivery may take, so that it is no longer under way
BEHIND = "behind"  # the reason of an untried event: an earlier one that it must not pass is parked


def due_at(attempts: int, at: datetime, *, pause_seconds: float | None = None) -> datetime | None:
    """Return when to try again after so many attempts, but not before a pause that was asked for; None for never."""
    if attempts > len(SCHEDULE):
        return None
    pause = SCHEDULE[attempts - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311 - spreads load, guards nothing
    return at + max(pause, timedelta(seconds=pause_seconds or 0))
