"""Warns of types in a filter that no event has: a filter that matches nothing looks healthy."""

import difflib

from pydantic import BaseModel, Field

from aircall_oauth.access.callers import Caller
from aircall_oauth.aircall.payloads import EVENT_NAMES
from aircall_oauth.events import query, store
from aircall_oauth.resources import Resources

# The newest events of the log, in which a type that is not known may have been seen.
LOOKED_THROUGH = 10_000
SEEN = f"""
    SELECT DISTINCT type FROM (
        SELECT type, owner FROM event ORDER BY position DESC LIMIT {LOOKED_THROUGH}
    ) AS newest WHERE $1::text IS NULL OR owner = $1
"""
KNOWN = (*EVENT_NAMES, *store.SERVICE_TYPES)


class FilterWarning(BaseModel):
    type: str = Field(examples=["call.endet"])
    nearest: str | None = Field(description="The known type that looks most like it", examples=["call.ended"])
    detail: str = Field(examples=["No known event type, and none seen lately, matches call.endet. Is it call.ended?"])


async def warnings(resources: Resources, key: Caller, types: list[str]) -> list[FilterWarning]:
    """Return a warning for each type that matches neither a known event type nor one of the newest events'.

    An API key bound to an owner learns of that owner's events only.
    """
    unknown = [pattern for pattern in types if not _matches_any(pattern, KNOWN)]
    if not unknown:
        return []
    async with resources.database.driver_connection() as connection:
        seen = [row["type"] for row in await connection.fetch(SEEN, key.owner)]
    return [_warning(pattern, seen) for pattern in unknown if not _matches_any(pattern, seen)]


def _matches_any(pattern: str, types: list[str] | tuple[str, ...]) -> bool:
    return any(query.matches(type_, pattern) for type_ in types)


def _warning(pattern: str, seen: list[str]) -> FilterWarning:
    names = {*KNOWN, *seen}
    if pattern.endswith("*"):
        names = {f"{name.partition('.')[0]}.*" for name in names}
    nearest = next(iter(difflib.get_close_matches(pattern.lower(), sorted(names), n=1)), None)
    hint = "" if nearest is None else f" Is it {nearest}?"
    detail = f"No known event type, and none seen lately, matches {pattern}.{hint}"
    return FilterWarning(type=pattern, nearest=nearest, detail=detail)
