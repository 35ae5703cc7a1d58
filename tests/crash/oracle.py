"""Judges a campaign: ten promises, each with what broke it. Pure functions over `Records`, so that they can be tested.

A bound that depends on time is generous: what it must find is seconds and factors, not a busy machine.
"""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median

from tests.crash.records import Attempt, Reading, Records, Sent, Stored

REFUSED_SECONDS = 10.0
# An attempt may last five seconds and the next one comes two later, so a spell is seen no more exactly than that.
REFUSED_GRACE_SECONDS = 3.0
WORSE_THAN_BASELINE = 1.2
# What a hostile tenant may cost others on a machine of two cores that it shares with what attacks from there.
WORSE_BY_SECONDS = 0.5
# Fewer events have no p99 to speak of.
LEAST_LATENCIES = 20
# The p99 of a window is its second worst event: two or three windows on each side differ by a second on their own.
LEAST_WINDOWS = 4
MOST_MEMORY = 400 * 1024 * 1024
BUDGET_SECONDS = 60.0
# Where other programs take more of the machine than this, what depends on time has so many times as much of it.
MOST_FOR_OTHERS = 0.4
PATIENCE = 4.0


@dataclass(frozen=True)
class Verdict:
    """A promise, what broke it, and what it was judged by."""

    number: int
    promise: str
    broken: tuple[str, ...]
    judged_by: str = ""

    @property
    def holds(self) -> bool:
        return not self.broken


def judge(records: Records) -> list[Verdict]:
    """Every promise, in order."""
    return [
        Verdict(number, promise, tuple(look(records)), judged_by(records))
        for number, (promise, look, judged_by) in enumerate(PROMISES, start=1)
    ]


def acked_and_not_stored_once(records: Records) -> Iterator[str]:
    """(1) What was answered 200 is in the log; and nothing is there twice."""
    times = Counter(row.number for row in records.stored if row.number is not None)
    for number, sent in records.sent.items():
        if sent.is_acked and times[number] == 0:
            (acked,) = [attempt for attempt in sent.attempts if attempt.status == 200][:1]
            yield f"event {number}, answered 200 at {acked.ended:.1f} s, is not in the log"
    for number, count in times.items():
        if count > 1:
            places = [row.position for row in records.stored if row.number == number]
            yield f"event {number} is in the log {count} times, at {places}"


def skipped_by_the_follower(records: Records) -> Iterator[str]:
    """(2) A reader that follows the log page by page reads every row, once, in order."""
    for (earlier, _), (later, event_id) in pairwise(records.followed):
        if later <= earlier:
            yield f"the follower read {event_id} at {later} after {earlier}"
    there = {row.position: row.event_id for row in records.stored if row.position > records.followed_from}
    read = dict(records.followed)
    for position in sorted(there.keys() - read.keys()):
        yield f"the follower never read position {position} ({there[position]})"
    for position in sorted(read.keys() - there.keys()):
        yield f"the follower read position {position} ({read[position]}), which is not in the log"
    for position in sorted(read.keys() & there.keys()):
        if read[position] != there[position]:
            yield f"the follower read {read[position]} at {position}, where the log has {there[position]}"


def not_covered(records: Records) -> Iterator[str]:
    """(3) Every subscription's destination took everything it wants."""
    for reading in records.readings:
        taken = {one.event_id for one in reading.taken}
        missing = [row for row in _wanted(reading, records.stored) if row.event_id not in taken]
        if missing:
            some = ", ".join(f"{row.position} ({row.type})" for row in missing[:5])
            yield f"{reading.name}: {len(missing)} never arrived, at positions {some}"


def out_of_order(records: Records) -> Iterator[str]:
    """(4) Where order is promised, events of a subject or an installation are first taken in the order of the log."""
    for reading in records.readings:
        if reading.order == "none":
            continue
        newest: dict[str, int] = {}
        seen: set[str] = set()
        for one in reading.taken:
            if one.event_id in seen:
                continue
            seen.add(one.event_id)
            key = f"{one.installation_id} {one.subject}" if reading.order == "subject" else one.installation_id
            if one.position < newest.get(key, 0):
                yield f"{reading.name}: {newest[key]} was taken before {one.position} of {key}"
            newest[key] = max(newest.get(key, 0), one.position)


def refused_too_long(records: Records) -> Iterator[str]:
    """(5) However often an event is sent again, it is refused for ten seconds at most, whatever one fault happens."""
    limit = (REFUSED_SECONDS + REFUSED_GRACE_SECONDS) * _patience(records)
    for sent in records.sent.values():
        spell = _refused(sent)
        if spell is None:
            continue
        began, ended = spell
        seconds = ended - began - sum(_overlap(began, ended, *excuse) for excuse in records.excused)
        if seconds > limit:
            statuses = Counter(str(attempt.status) for attempt in sent.attempts)
            told = ", ".join(f"{count} x {status}" for status, count in statuses.items())
            during = _during(records, began)
            yield f"event {sent.number} was refused for {seconds:.1f} s from {began:.1f} s on ({told}){during}"


def slowed_down_by_another(records: Records) -> Iterator[str]:
    """(6) A tenant's p99 beside a hostile one is its p99 without one, nearly: medians over windows that alternate."""
    calm, hostile = (_p99s(records, hostile=hostile) for hostile in (False, True))
    if min(len(calm), len(hostile)) < LEAST_WINDOWS:
        return
    allowed = max(WORSE_THAN_BASELINE * median(calm), median(calm) + WORSE_BY_SECONDS) * _patience(records)
    if median(hostile) > allowed:
        yield f"p99 {median(hostile):.3f} s beside a hostile tenant, {median(calm):.3f} s without"


def too_large(records: Records) -> Iterator[str]:
    """(7) No process ever held 400 MB."""
    for name, size in records.peak_memory.items():
        if size > MOST_MEMORY:
            yield f"{name} held {size / 1024**2:.0f} MB"


def failed(records: Records) -> Iterator[str]:
    """(8) No answer was a 500, no process ended by itself, and PostgreSQL saw no deadlock."""
    for sent in records.sent.values():
        for attempt in sent.attempts:
            if attempt.status == 500:
                yield f"event {sent.number} was answered 500 at {attempt.ended:.1f} s"
    yield from records.failures
    yield from records.deadlocks


def on_here_and_off_there(records: Records) -> Iterator[str]:
    """(9) What is active here is switched on at Aircall, a quarter of an hour after the last fault."""
    for one in records.standings:
        if one.status == "active" and not (one.webhook_on and one.integration_on):
            off = "its webhook" if not one.webhook_on else "the integration"
            yield f"{one.installation_id} is active here, and {off} is off at Aircall ({one.here})"


def over_asked(records: Records) -> Iterator[str]:
    """(10) No minute, wherever it begins, holds more of a company's requests than the budget.

    PostgreSQL's clock is the only one that counts. Where it is set, a minute begins anew.
    """
    by_company: dict[int, list[float]] = defaultdict(list)
    for call in records.calls:
        by_company[call.company_id].append(call.at)
    for company_id, times in by_company.items():
        worst, began = _fullest_minute(sorted(times))
        settings = sum(began <= at <= began + BUDGET_SECONDS for at in records.clock_set_at)
        if worst > records.budget_per_minute * (1 + settings):
            when = datetime.fromtimestamp(began, UTC)
            yield (
                f"company {company_id} was asked {worst} times in the minute from {when:%H:%M:%S},"
                f" {records.budget_per_minute} are allowed"
            )


def _patience(records: Records) -> float:
    return PATIENCE if records.others_share > MOST_FOR_OTHERS else 1.0


def _wanted(reading: Reading, stored: Sequence[Stored]) -> list[Stored]:
    """A subscription is told of others that are down, and never of itself."""
    return [row for row in stored if row.position > reading.start and row.about != reading.name and reading.wants(row)]


def _refused(sent: Sent) -> tuple[float, float] | None:
    """From the beginning of the first attempt that failed to the end of the last one. A 401 is the token's fault."""
    failures: list[Attempt] = []
    for attempt in sent.attempts:
        if attempt.status == 200:
            break
        if attempt.status != 401:
            failures.append(attempt)
    return (failures[0].began, failures[-1].ended) if failures else None


def _overlap(began: float, ended: float, other_began: float, other_ended: float) -> float:
    return max(0.0, min(ended, other_ended) - max(began, other_began))


def _during(records: Records, at: float) -> str:
    """The fault that had begun last."""
    before = [one for one in records.occurrences if one.began <= at + REFUSED_GRACE_SECONDS]
    return f", after: {before[-1].fault} {before[-1].detail}".rstrip() if before else ""


def _p99s(records: Records, *, hostile: bool) -> list[float]:
    windows = [window.latencies for window in records.windows if window.hostile == hostile]
    return [percentile(latencies, 0.99) for latencies in windows if len(latencies) >= LEAST_LATENCIES]


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def _fullest_minute(times: Sequence[float]) -> tuple[int, float]:
    """The most requests in any minute, and when that minute began."""
    counts = [(bisect_left(times, began + BUDGET_SECONDS) - first, began) for first, began in enumerate(times)]
    return max(counts)


def _by_latencies(records: Records) -> str:
    calm, hostile = (_p99s(records, hostile=hostile) for hostile in (False, True))
    if not calm or not hostile:
        return "too few events in calm windows: not judged"
    found = f"p99 {median(calm) * 1000:.0f} ms without, {median(hostile) * 1000:.0f} ms beside one"
    return found if min(len(calm), len(hostile)) >= LEAST_WINDOWS else f"{found}; too short a run to judge it"


def _by_refusals(records: Records) -> str:
    spells = [spell for sent in records.sent.values() if (spell := _refused(sent))]
    longest = max((ended - began for began, ended in spells), default=0.0)
    return f"{len(spells)} events refused at first, the longest for {longest:.1f} s (PostgreSQL's own absence included)"


def _by_minutes(records: Records) -> str:
    by_company: dict[int, list[float]] = defaultdict(list)
    for call in records.calls:
        by_company[call.company_id].append(call.at)
    worst = max((_fullest_minute(sorted(times))[0] for times in by_company.values()), default=0)
    return f"{len(records.calls)} requests, at most {worst} a minute and company"


Look = Callable[[Records], Iterator[str]]
PROMISES: tuple[tuple[str, Look, Callable[[Records], str]], ...] = (
    (
        "what was answered 200 is in the log, once",
        acked_and_not_stored_once,
        lambda r: f"{sum(sent.is_acked for sent in r.sent.values())} acknowledged, {len(r.stored)} in the log",
    ),
    (
        "a reader that follows reads every row, in order",
        skipped_by_the_follower,
        lambda r: f"{len(r.followed)} rows followed",
    ),
    (
        "each subscription's destination takes all it wants",
        not_covered,
        lambda r: f"{len(r.readings)} subscriptions, {sum(len(one.taken) for one in r.readings)} deliveries",
    ),
    (
        "first deliveries ascend where order is promised",
        out_of_order,
        lambda r: f"{sum(len(one.taken) for one in r.readings if one.order != 'none')} deliveries in order",
    ),
    ("events are refused for at most 10 s after a fault", refused_too_long, _by_refusals),
    ("a hostile tenant slows another one down by a fifth at most", slowed_down_by_another, _by_latencies),
    (
        "no process holds 400 MB",
        too_large,
        lambda r: f"the largest held {max(r.peak_memory.values(), default=0) / 1024**2:.0f} MB",
    ),
    ("no answer is a 500, and there is no deadlock", failed, lambda r: f"{len(r.occurrences)} faults"),
    (
        "what is active here is on at Aircall within 15 minutes",
        on_here_and_off_there,
        lambda r: f"{sum(one.status == 'active' for one in r.standings)} active of {len(r.standings)} installations",
    ),
    ("Aircall is never asked more than the budget", over_asked, _by_minutes),
)
