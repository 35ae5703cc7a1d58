"""How a gap is listed: part by part, since Aircall lists a bounded number of calls, and page by page within a part.

`listed_to` and `part_to` bound the part that is being listed, `page` is its next page. Nothing here asks or writes.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func

from aircall_oauth.aircall import calls, payloads
from aircall_oauth.aircall.calls import CallPage, ListedCall
from aircall_oauth.events.store import Missed
from aircall_oauth.installations.outages.gaps import MARGIN, SETTLING
from aircall_oauth.storage.models.installations import Gap

# Aircall lists calls by their start, and a gap misses their ends: a call may have begun this long before the gap.
LONGEST_CALL = timedelta(hours=4)
SHORTEST_PART = timedelta(seconds=1)
# How long a process has a gap, anew with each page.
LEASE = timedelta(seconds=60)


def begin(gap: Gap, *, oldest: datetime) -> None:
    """Set where the listing goes on, not before `oldest`: the log has dropped older events, and can't tell repeats."""
    begin = max(gap.listed_to or gap.since - LONGEST_CALL, oldest)
    if begin != gap.listed_to:
        gap.listed_to, gap.page = begin, 1
    gap.part_to = max(gap.part_to or end(gap), begin)


def share(gap: Gap, in_this_part: int) -> float:
    """Return how much of the gap is listed, between 0 and 1, measured in time."""
    if gap.done_at is not None:
        return 1.0
    if gap.listed_to is None or gap.part_to is None:
        return 0.0
    begin = gap.since - LONGEST_CALL
    of_this_part = min(1.0, (gap.page - 1) * calls.PER_PAGE / (in_this_part or calls.MOST_LISTED))
    return (gap.listed_to - begin + (gap.part_to - gap.listed_to) * of_this_part) / (end(gap) - begin)


def end(gap: Gap) -> datetime:
    """Return the end of what is listed for a gap."""
    assert gap.until is not None
    return gap.until + MARGIN


def asked_at(gap: Gap) -> datetime:
    """Return the database's time when the gap was claimed, or its last page kept."""
    assert gap.due_at is not None
    return gap.due_at - LEASE


def is_cut_off(gap: Gap, page: CallPage) -> bool:
    """Return whether the part has more calls than Aircall lists. Some of its lists tell a total, up to that bound."""
    return page.total >= calls.MOST_LISTED or (page.more and not has_next(gap, page))


def has_next(gap: Gap, page: CallPage) -> bool:
    """Return whether Aircall lists a page after this one: a page past its bound is refused."""
    return page.more and gap.page * calls.PER_PAGE < calls.MOST_LISTED


def missed(gap: Gap, call: ListedCall) -> Missed | None:
    """Return a call that ended in the gap. A call that goes on, or ended just now, is left to its own event."""
    latest = min(end(gap), asked_at(gap) - SETTLING)
    if call.ended_at is None or not gap.since - MARGIN <= call.ended_at <= latest:
        return None
    return Missed(calls.key(call.id), call.ended_at, call.text, payloads.subject(calls.RESOURCE, call.id))


def half(gap: Gap) -> dict[str, Any]:
    """Return where to go on when a part is cut off: its first half."""
    assert gap.listed_to is not None
    assert gap.part_to is not None
    return {"part_to": gap.listed_to + (gap.part_to - gap.listed_to) / 2, "page": 1}


def after_page(gap: Gap, page: CallPage) -> dict[str, Any]:
    """Return where to go on after a page: the next page, the next part, or the end of the gap."""
    assert gap.listed_to is not None
    assert gap.part_to is not None
    if has_next(gap, page):
        return {"page": gap.page + 1}
    if gap.part_to >= end(gap):
        return done()
    # The next part is as long as this one, and twice as long if this one had less than half of what Aircall lists: so
    # one crowded second does not make all later parts as short. The second where two parts meet is listed twice.
    length = gap.part_to - gap.listed_to
    if 2 * gap.page * calls.PER_PAGE <= calls.MOST_LISTED:
        length *= 2
    next_part_to = min(gap.part_to + length, end(gap))
    return {"listed_to": gap.part_to, "part_to": next_part_to, "page": 1}


def done() -> dict[str, Any]:
    """Return the values of a gap that is filled."""
    return {"done_at": func.now(), "due_at": None}
