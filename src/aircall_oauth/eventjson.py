"""An event as every reader sees it, and which ones a reader wants, in SQL: the same for all kinds of readers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

# `data` as bytes: it goes out as it is, so it is not turned into text and back on the way.
COLUMNS = """
    id, position, type, resource, installation_id, company_id, owner, occurred_at, received_at, source,
    convert_to(data, 'UTF8')
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


def like(pattern: str) -> str:
    """`call.*` as SQL says it."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped[:-1] + "%" if escaped.endswith("*") else escaped


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
