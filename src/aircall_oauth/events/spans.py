"""What is looked for in the log: when events were received, when they happened, and what they are about."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from aircall_oauth.storage import epochs

HEAD = f"SELECT {epochs.END}"
# The primary key has both columns, so that one day's index is read at most.
FIRST_SINCE = "SELECT position FROM event WHERE received_at >= $1 ORDER BY position LIMIT 1"
LAST_BEFORE = "SELECT position FROM event WHERE received_at < $1 ORDER BY position DESC LIMIT 1"


@dataclass(frozen=True)
class Span:
    """From one moment on, and before another one; None leaves nothing out. `subject` is such as `call:123`.

    An event that Aircall gave no time happened in no span.
    """

    since: datetime | None = None
    until: datetime | None = None
    occurred_since: datetime | None = None
    occurred_until: datetime | None = None
    subject: str | None = None

    def sql(self, *, first: int) -> tuple[str, list[Any]]:
        """Return the conditions, and the values for their parameters, numbered from `first`."""
        wanted = (
            ("received_at >=", self.since),
            ("received_at <", self.until),
            ("occurred_at >=", self.occurred_since),
            ("occurred_at <", self.occurred_until),
            ("subject =", self.subject),
        )
        asked = [(condition, value) for condition, value in wanted if value is not None]
        conditions = [f"AND {condition} ${n}" for n, (condition, _) in enumerate(asked, start=first)]
        return " ".join(conditions), [value for _, value in asked]

    @property
    def is_indexed(self) -> bool:
        """Whether an index gives what is looked for in order, however far it lies apart."""
        return self.subject is not None


EVER = Span()


async def ends(connection: asyncpg.Connection, span: Span, head: int) -> tuple[int, int]:
    """Return the positions that what was received in a span lies between, in a log that goes up to `head`.

    It lies past the first and up to the second.
    """
    before, last = 0, head
    if span.since is not None:
        first = await connection.fetchval(FIRST_SINCE, span.since)
        before = head if first is None else first - 1
    if span.until is not None:
        last = await connection.fetchval(LAST_BEFORE, span.until) or 0
    return before, last
