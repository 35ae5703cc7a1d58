"""What a drill measured, and whether a promise was broken."""

from collections import Counter
from itertools import pairwise
from typing import Any

from tests.crash.availability.stage import Spell, Stage
from tests.crash.oracle import Verdict, judge

# Of the oracle's: kept once, no reader skips, all delivered, in order, refused for ten seconds at most, no 500.
JUDGED = {1, 2, 3, 4, 5, 8}
# What asynchronous replication does not promise: a promoted standby may lack the newest events.
NOT_ASYNCHRONOUS = {1, 2}


def broken(stage: Stage) -> list[Verdict]:
    """The promises that did not hold."""
    judged = JUDGED - NOT_ASYNCHRONOUS if stage.ground.standby == "asynchronous" else JUDGED
    return [verdict for verdict in judge(stage.records) if verdict.number in judged and not verdict.holds]


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
        "delivered_twice": sum(count > 1 for count in delivered),
        "missing": sum(count == 0 for count in delivered),
        "refused_answers": sum(
            attempt.status != 200
            for sent in stage.records.sent.values()
            for attempt in sent.attempts
            if spell.began <= attempt.ended < end
        ),
    }


def _first(times: Any) -> float:
    return min(times, default=float("nan"))
