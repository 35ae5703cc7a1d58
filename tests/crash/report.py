"""What is told of a campaign in the end: a table, and its numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.crash.oracle import Verdict, percentile
from tests.crash.records import Records

SHOWN = 3


def figures(records: Records, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The run in numbers."""
    tries = Counter(str(attempt.status) for sent in records.sent.values() for attempt in sent.attempts)
    latencies = {
        ("beside_a_hostile_tenant" if hostile else "baseline"): [
            {"p50": percentile(window.latencies, 0.5), "p99": percentile(window.latencies, 0.99)}
            for window in records.windows
            if window.hostile == hostile and window.latencies
        ]
        for hostile in (False, True)
    }
    return {
        **records.figures,
        "others_share_of_the_machine": round(records.others_share, 2),
        "sent": len(records.sent),
        "acknowledged": sum(sent.is_acked for sent in records.sent.values()),
        "stored": len(records.stored),
        "followed": len(records.followed),
        "deliveries": sum(len(reading.taken) for reading in records.readings),
        "attempts_by_status": dict(tries),
        "latency_seconds": latencies,
        "peak_memory_mb": {name: round(size / 1024**2) for name, size in records.peak_memory.items()},
        "happened": [
            {"fault": one.fault, "detail": one.detail, "began": one.began, "ended": one.ended}
            for one in records.occurrences
        ],
        "verdicts": [
            {"number": one.number, "promise": one.promise, "holds": one.holds, "judged_by": one.judged_by}
            | {"broken": list(one.broken[:20]), "times": len(one.broken)}
            for one in verdicts
        ],
    }


def show(verdicts: Sequence[Verdict]) -> None:
    """The table, with the first counterexamples."""
    print()
    for verdict in verdicts:
        word = "ok" if verdict.holds else "BROKEN"
        print(f"{verdict.number:3}  {word:7} {verdict.promise}  ({verdict.judged_by})")
        for example in Counter(verdict.broken).most_common(SHOWN):
            print(f"             - {example[0]}" + (f" ({example[1]} times)" if example[1] > 1 else ""))
        if len(set(verdict.broken)) > SHOWN:
            print(f"             … {len(verdict.broken)} in all")
