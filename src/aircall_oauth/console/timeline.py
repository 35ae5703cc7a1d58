"""What happened to one customer, newest first: its install attempts, our own notices, gaps, and what people did."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from aircall_oauth.access import audit_lines
from aircall_oauth.access.audit_lines import Asked, AuditLine
from aircall_oauth.access.callers import Caller
from aircall_oauth.console import times, words
from aircall_oauth.events import newest
from aircall_oauth.events.newest import Search
from aircall_oauth.events.query import EventJson, Filter
from aircall_oauth.events.spans import Span
from aircall_oauth.installations.attempts import views as attempts
from aircall_oauth.installations.outages import backfill
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Gap
from aircall_oauth.storage.statuses import GapReason

MOST = 40
TYPES = {
    "installation.connected": ("Connected", "good"),
    "installation.claimed": ("Claimed by its owner", "good"),
    "installation.changed": ("Name, numbers or switch changed at Aircall", ""),
    "installation.unauthorized": ("Aircall no longer accepts the token", "bad"),
    "installation.removed": ("Disconnected", "bad"),
    "webhook.disabled": ("Aircall switched our webhook off", "bad"),
    "webhook.restored": ("The webhook is on again", "good"),
}
ACTIONS = {
    "token.read": "The access token was read",
    "aircall.read": "Aircall was asked through the proxy",
    "aircall.write": "Something was changed at Aircall through the proxy",
    "installation.claimed": "Claimed",
    "installation.disconnected": "Disconnect ordered",
    "installation.checked": "Checked on request",
    "webhook.rotated": "Webhook rotated",
    "backfill.asked": "Back-fill of a window ordered",
    "payload.revealed": "Personal data were shown",
}


@dataclass(frozen=True)
class Moment:
    """One line of the timeline; `address` leads to its evidence."""

    at: datetime
    what: str
    more: str = ""
    tone: str = ""
    address: str | None = None
    times: int = 1


async def of_installation(resources: Resources, caller: Caller, installation_id: str) -> list[Moment]:
    """Return the newest lines of a customer's timeline, newest first."""
    about = Search(MOST, Filter(), Span(subject=f"installation:{installation_id}"))
    notices = await newest.read_back(resources, caller, about)
    tried = await attempts.list_attempts(resources, caller, installation_id=installation_id, limit=MOST)
    gaps = await backfill.list_gaps(resources, installation_id=installation_id, limit=MOST)
    done = await audit_lines.page(resources, caller, Asked(installation_id=installation_id), limit=MOST)
    lines = [
        *map(_notice, notices.events),
        *(_attempt(each) for each in tried.items),
        *map(_gap, gaps),
        *_grouped(_act(each) for each in done.items),
    ]
    return sorted(lines, key=lambda line: line.at, reverse=True)[:MOST]


def _notice(event: EventJson) -> Moment:
    what, tone = TYPES.get(event.type, (event.type, ""))
    data: Any = json.loads(bytes(event.data))
    reason = data.get("reason") if isinstance(data, dict) else None
    return Moment(event.received_at, what, f"reason: {reason}" if reason else "", tone)


def _attempt(attempt: attempts.InstallAttemptView) -> Moment:
    standing = words.of_attempt(attempt)
    what = f"Install attempt {attempt.reference}"
    return Moment(attempt.created_at, what, standing.word, standing.tone, f"/attempts/{attempt.reference}")


def _gap(gap: Gap) -> Moment:
    length = "still open" if gap.until is None else f"for {times.exact_length(gap.until - gap.since)}"
    if gap.done_at is not None:
        filled = f"filled: {words.count(gap.found, 'call')} found, {gap.added} added"
    else:
        filled = f"not filled yet ({backfill.Step(gap).share:.0%})" if gap.until else "filled when it ends"
    if gap.reason == GapReason.BY_HAND:
        what = f"Calls looked for again by hand, {length}"
    else:
        what = f"Nothing could be received ({gap.reason.replace('_', ' ')}), {length}"
    return Moment(gap.since, what, filled, "" if gap.done_at else "warn")


def _act(line: AuditLine) -> Moment:
    kind, name = audit_lines.kind_of(line.actor), line.actor_name or audit_lines.name_of(line.actor)
    named = {"person": name, "person, by the proxy": f"{name}, by the proxy", "API key": f"the API key {name}"}
    actor = named.get(kind, f"the {kind}")
    outcome = "" if line.outcome == "done" else f", {line.outcome}"
    what = ACTIONS.get(line.action, line.action)
    return Moment(line.at, what, f"by {actor}{outcome}", "" if line.outcome == "done" else "bad")


def _grouped(lines: Iterable[Moment]) -> list[Moment]:
    """Put neighbours that say the same together: a system may read a token a thousand times a day."""
    grouped: list[Moment] = []
    for line in lines:
        if grouped and (grouped[-1].what, grouped[-1].more) == (line.what, line.more):
            grouped[-1] = replace(grouped[-1], times=grouped[-1].times + 1)
        else:
            grouped.append(line)
    return grouped
