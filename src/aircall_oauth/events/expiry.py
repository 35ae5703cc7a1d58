"""Which events of a day are past the time that they are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from aircall_oauth.resources import Resources
from aircall_oauth.storage import partitions
from aircall_oauth.storage.keeping import Keeping, KeepRule

KINDS = """
    SELECT DISTINCT type, CASE WHEN owner = ANY ($1::text[]) THEN owner END AS own FROM {} WHERE erased_at IS NULL
"""
OWN = "SELECT owner, types, seconds FROM owner_retention"


@dataclass(frozen=True)
class Past:
    """The kinds of events of a day that are past it: types, and for owners with rules of their own, pairs."""

    kinds: frozenset[tuple[str, str | None]]
    is_all: bool  # of what the day still holds
    owners: Sequence[str]

    def condition(self, *, first: int) -> tuple[str, list[Any]]:
        """Return the SQL condition, and the values for its parameters, numbered from `first`."""
        types = [type_ for type_, owner in self.kinds if owner is None]
        own = [(type_, owner) for type_, owner in self.kinds if owner is not None]
        of_types = f"type = ANY (${first}::text[]) AND (owner IS NULL OR owner <> ALL (${first + 1}::text[]))"
        of_pairs = f"(type, owner) IN (SELECT * FROM unnest(${first + 2}::text[], ${first + 3}::text[]))"  # noqa: S608
        condition = f"({of_types} OR {of_pairs})"
        return condition, [types, list(self.owners), [type_ for type_, _ in own], [owner for _, owner in own]]


async def keeping_of(resources: Resources, connection: asyncpg.Connection) -> Keeping:
    """Return how long events are kept now."""
    settings = resources.settings
    of_owners = {row["owner"]: rules_of(row) for row in await connection.fetch(OWN)}
    return Keeping(settings.event_retention, settings.event_type_retention, of_owners)


def rules_of(row: Any) -> list[KeepRule]:
    """Return the rules of a row of `owner_retention`."""
    return [KeepRule(type_, timedelta(seconds=n)) for type_, n in zip(row["types"], row["seconds"], strict=True)]


async def past(connection: asyncpg.Connection, day: str, keeping: Keeping, now: datetime) -> Past:
    """Look through a day for the kinds of events that are past their time; reads it as a whole."""
    owners = list(keeping.of_owners)
    rows = await connection.fetch(KINDS.format(day), owners)
    kinds = {
        (row["type"], row["own"])
        for row in rows
        if partitions.ends_before(day, now - keeping.of(row["type"], row["own"]))
    }
    return Past(frozenset(kinds), len(kinds) == len(rows), owners)
