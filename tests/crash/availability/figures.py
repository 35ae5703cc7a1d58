"""What a drill measured, and whether a promise was broken."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.crash.availability.stage import Spell, Stage
from tests.crash.oracle import judge

# Of the oracle's: kept once, no reader skips, all delivered, in order, refused for ten seconds at most, no 500.
JUDGED = {1, 2, 3, 4, 5, 8}
# What is different where the log may lose its end: a promoted standby may lack what was acknowledged and read.
NOT_ASYNCHRONOUS = {1, 2}


def broken(stage: Stage) -> list[str]:
    """Each promise that did not hold, with its number and what broke it."""
    judged, more = JUDGED, []
    if stage.ground.standby == "asynchronous":
        judged, more = JUDGED - NOT_ASYNCHRONOUS, list(_of_a_shorter_log(stage))
        # Positions of events that were lost were given again.
        there = {row.event_id for row in stage.records.stored}
        reading = stage.destination.reading
        reading.taken = [one for one in reading.taken if one.event_id in there]
    verdicts = [verdict for verdict in judge(stage.records) if verdict.number in judged and not verdict.holds]
    return [f"({verdict.number}) {verdict.promise}: {'; '.join(verdict.broken[:3])}" for verdict in verdicts] + more


def _of_a_shorter_log(stage: Stage) -> Iterator[str]:
    stored = [row.number for row in stage.records.stored if row.number is not None]
    if len(stored) > len(set(stored)):
        yield f"{len(stored) - len(set(stored))} events are in the log more than once"
    read = {event_id for _, event_id in stage.records.followed}
    behind = [row for row in stage.records.stored if row.position > stage.records.followed_from]
    if skipped := [row.position for row in behind if row.event_id not in read]:
        yield f"the follower, which went on where it was told to, skipped {len(skipped)} rows, {skipped[:3]} the first"


def figures(stage: Stage) -> list[dict[str, Any]]:
    """A row of numbers for each fault, in order."""
    ends = [spell.began for spell in stage.spells[1:]] + [float("inf")]
    return [_of(stage, spell, end) for spell, end in zip(stage.spells, ends, strict=True)]


def _of(stage: Stage, spell: Spell, end: float) -> dict[str, Any]:
    first_acks = {
        number: next(attempt for attempt in sent.attempts if attempt.status == 200)
        for number, sent in stage.records.sent.items()
        if sent.is_acked
    }
    mine = {number: ack for number, ack in first_acks.items() if spell.began <= ack.ended < end}
    acks = sorted(ack.ended for ack in mine.values())
    before = [ack.ended for ack in first_acks.values() if ack.ended < spell.began]
    answers = Counter(
        attempt.status
        for sent in stage.records.sent.values()
        for attempt in sent.attempts
        if spell.began <= attempt.ended < end
    )
    times = Counter(row.number for row in stage.records.stored)
    event_of = {row.number: row.event_id for row in stage.records.stored}
    deliveries = Counter(one.event_id for one in stage.destination.reading.taken)
    delivered = [deliveries[event_of[number]] for number in mine if number in event_of]
    return {
        "fault": spell.name,
        "lasted": round(spell.cured - spell.began, 1),
        "first_ack_after_fault": _first(ack.ended for ack in mine.values() if ack.began > spell.began) - spell.began,
        "first_ack_after_cure": _first(at for at in acks if at >= spell.cured) - spell.cured,
        "longest_without_ack": max((b - a for a, b in pairwise([*before[-1:], *acks])), default=0.0),
        "home_after_cure": spell.home - spell.cured,
        "acknowledged": len(mine),
        "lost": sum(times[number] == 0 for number in mine),
        "lost_and_delivered": sum(times[number] == 0 and number in stage.destination.arrived for number in mine),
        "delivered_twice": sum(count > 1 for count in delivered),
        "missing": sum(count == 0 for count in delivered),
        "answered_503": answers[503],
        "not_answered": answers[None],
    }


def _first(times: Any) -> float:
    return min(times, default=float("nan"))
