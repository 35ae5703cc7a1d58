"""What an acceptance run measured, each with what is allowed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tests.crash.availability.figures import broken
from tests.crash.poolers.acceptance import Run
from tests.crash.records import Attempt

WAKE_SECONDS = 0.15
# Before the restart was noted, what was under way then may have been answered.
AROUND_SECONDS = 1.0


@dataclass(frozen=True)
class Figure:
    """A line of the table; `is_missed` if it is not what is promised."""

    name: str
    value: str
    wanted: str = ""
    is_missed: bool = False
    is_timed: bool = False  # worse on a busy machine


def figures(run: Run, events: int) -> list[Figure]:
    stage, records = run.stage, run.stage.records
    acked = {number: at for number, sent in records.sent.items() if (at := _acked_at(sent.attempts)) is not None}
    event_of = {row.number: row.event_id for row in records.stored if row.number is not None}
    times = Counter(row.number for row in records.stored)
    lost = sum(times[number] == 0 for number in acked)
    twice = sum(times[number] > 1 for number in acked)
    missing = sum(number not in stage.destination.arrived for number in acked)
    again = sum(count > 1 for count in Counter(one.event_id for one in stage.destination.reading.taken).values())
    (spell,) = stage.spells
    calm = {number: at for number, at in acked.items() if not spell.began - AROUND_SECONDS <= at <= spell.home}
    read = [
        stage.follower.read_at[event_of[n]] - at for n, at in calm.items() if event_of.get(n) in stage.follower.read_at
    ]
    delivered = [stage.destination.arrived[n] - at for n, at in calm.items() if n in stage.destination.arrived]
    first_ack = min((at for at in acked.values() if at >= spell.cured), default=float("nan"))
    promises = broken(stage)
    return [
        Figure("events acknowledged", str(len(acked)), f"{events} or more", len(acked) < events),
        _none("acknowledged and not in the log", lost),
        _none("in the log twice", twice),
        _none("acknowledged and not delivered", missing),
        Figure("delivered twice", str(again)),
        *_wakes("from the 200 to a waiting reader", read),
        *_wakes("from the 200 to the destination", delivered),
        Figure("events measured", str(len(calm))),
        Figure("schema migrated under no load, and nothing to do under load", run.migrated),
        Figure("secrets sealed again under a new key", str(run.sealed_again), "1 or more", not run.sealed_again),
        _none("left under the old key", run.left_under_old_key),
        Figure("PgBouncer away, s", f"{spell.cured - spell.began:.1f}"),
        Figure("first ack after it was back, s", f"{first_ack - spell.cured:.2f}"),
        Figure("all well after it was back, s", f"{spell.home - spell.cured:.1f}"),
        Figure("sessions of PgBouncer's, at most", str(run.sessions["pooled"])),
        Figure("sessions past it, at most", str(run.sessions["direct"])),
        Figure("others' share of the machine", f"{records.others_share:.0%}"),
        Figure("promises broken", "; ".join(promises) or "none", "none", bool(promises), _all_timed(promises)),
    ]


def _all_timed(promises: list[str]) -> bool:
    return all(promise.startswith("(5)") for promise in promises)


def _acked_at(attempts: Iterable[Attempt]) -> float | None:
    return next((attempt.ended for attempt in attempts if attempt.status == 200), None)


def _none(name: str, count: int) -> Figure:
    return Figure(name, str(count), "0", bool(count))


def _wakes(name: str, seconds: list[float]) -> list[Figure]:
    """An event may be there before its 200 is."""
    each = sorted(max(one, 0.0) for one in seconds) or [float("inf")]
    p50, p99 = (each[min(int(share * len(each)), len(each) - 1)] for share in (0.5, 0.99))
    wanted = f"under {WAKE_SECONDS * 1000:.0f}"
    return [
        Figure(f"{name}, p50, ms", f"{p50 * 1000:.0f}"),
        Figure(f"{name}, p99, ms", f"{p99 * 1000:.0f}", wanted, p99 >= WAKE_SECONDS, is_timed=True),
    ]
