"""An event as every reader sees it, and which ones a reader wants, in SQL: the same for all kinds of readers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

# `data` as bytes: it goes out as it is, so it is not turned into text and back on the way.
COLUMNS = """
    id, position, type, resource, installation_id, company_id, owner, occurred_at, received_at, source,
    convert_to(data, 'UTF8') AS data
"""


class EventJson(msgspec.Struct):
    """An event as every reader sees it; `data` is the text that Aircall sent."""

    id: str
    position: int
    type: str
    resource: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: Any
    received_at: Any
    source: str
    data: msgspec.Raw


def event_of(row: Any) -> EventJson:
    """The event of a row of `COLUMNS`."""
    *fields, data = row
    fields.append(msgspec.Raw(data))
    return EventJson(*fields)


def next_events(conditions: str) -> str:
    """The statement for events past position $1 and up to $2, $3 of them at most; `conditions` begin at $5.

    A few events may be as large as thousands of others: only so many bytes ($4) of them come, and one event at least.
    `found` is how many there are without that bound.
    """
    return f"""
        SELECT {COLUMNS}, found FROM (
            SELECT *, count(*) OVER () AS found,
                   sum(octet_length(data)) OVER (ORDER BY position) - octet_length(data) AS past
            FROM (
                SELECT * FROM event WHERE position > $1 AND position <= $2 {conditions} ORDER BY position LIMIT $3
            ) AS next
        ) AS next
        WHERE past < $4 ORDER BY position
    """  # noqa: S608 - conditions are ours, values are bound


def like(pattern: str) -> str:
    """`call.*` as SQL says it."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped[:-1] + "%" if escaped.endswith("*") else escaped


def _matches(type_: str, pattern: str) -> bool:
    return type_.startswith(pattern[:-1]) if pattern.endswith("*") else type_ == pattern


@dataclass(frozen=True)
class Filter:
    """Which events a subscription wants; an empty list leaves nothing out."""

    types: Sequence[str] = ()
    owners: Sequence[str] = ()
    installations: Sequence[str] = ()

    def sql(self, *, first: int) -> tuple[str, list[Any]]:
        """The conditions, and the values for their parameters from number `first` on."""
        wanted = (
            ("type LIKE ANY (${}::text[])", [like(pattern) for pattern in self.types]),
            ("owner = ANY (${}::text[])", list(self.owners)),
            ("installation_id = ANY (${}::text[])", list(self.installations)),
        )
        asked = [(condition, values) for condition, values in wanted if values]
        conditions = [f"AND {condition.format(number)}" for number, (condition, _) in enumerate(asked, start=first)]
        return " ".join(conditions), [values for _, values in asked]

    def takes(self, event: EventJson) -> bool:
        """The same in memory: whether an event is wanted."""
        return (
            (not self.owners or event.owner in self.owners)
            and (not self.installations or event.installation_id in self.installations)
            and (not self.types or any(_matches(event.type, pattern) for pattern in self.types))
        )
