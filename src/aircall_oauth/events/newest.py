"""Reads the log backwards, newest first: for people who look for something, where the feed is for programs."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from aircall_oauth.access.callers import Caller
from aircall_oauth.events import spans
from aircall_oauth.events.feed import LOOK_SECONDS, MOST_BYTES, Page
from aircall_oauth.events.query import EventJson, Filter, events_of, previous_events
from aircall_oauth.events.spans import EVER, Span
from aircall_oauth.resources import Resources
from aircall_oauth.storage import epochs

# Positions that the first statement searches. Each next one searches twice as many, as long as they take no longer.
WINDOW = 50_000
QUICK_SECONDS = 0.1


@dataclass(frozen=True)
class Search:
    """Which events to read, and below which position; `before` None is from the newest on."""

    limit: int
    filter: Filter
    span: Span = EVER
    before: int | None = None

    def below(self, position: int) -> "Search":
        return replace(self, before=position)

    def conditions(self, key: Caller, *, first: int) -> tuple[str, list[Any]]:
        """Return the SQL conditions and their values; a key bound to an owner finds that owner's events only."""
        wanted, values = replace(self.filter, bound_to=key.owner).sql(first=first)
        received, moments = self.span.sql(first=first + len(values))
        return f"{wanted} {received}".strip(), [*values, *moments]


async def read_back(resources: Resources, key: Caller, wanted: Search) -> Page:
    """Return at most `limit` events below a position, newest first: fewer if they are large, or rare.

    `next` is the `before` of the next page. A page that was searched for a second goes as it is, be it empty.
    """
    conditions, values = wanted.conditions(key, first=5)
    async with resources.database.driver_connection() as connection:
        epoch, _ = await epochs.newest(connection)
        past, last = await spans.ends(connection, wanted.span)
        past = max(past, await connection.fetchval(f"SELECT {epochs.DROPPED_TO}") or 0)
        before = last + 1 if wanted.before is None else min(wanted.before, last + 1)
        width = WINDOW if conditions and not wanted.span.is_indexed else before
        rows, end, full = await _walk(connection, conditions, values, past, before, wanted.limit, width)
        events = await events_of(connection, resources.data_keys, rows[: wanted.limit])
    if full or len(events) < len(rows):
        return Page(events, next=events[-1].position, more=True, epoch=epoch)
    return Page(events, next=end, more=end > past + 1, epoch=epoch)


async def _walk(
    connection: asyncpg.Connection, conditions: str, values: list[Any], past: int, before: int, limit: int, width: int
) -> tuple[list[asyncpg.Record], int, bool]:
    """Read back from one position to another; returns rows, the position that was reached, and whether there are more.

    One row more than `limit` is read, which tells that there are more.
    """
    enough_at = time.monotonic() + LOOK_SECONDS
    rows, left, end, full = list[asyncpg.Record](), MOST_BYTES, before, False
    while end > past + 1 and not full:
        started = time.monotonic()
        start = max(past, end - 1 - width)
        rows += await connection.fetch(previous_events(conditions), start, end, limit + 1 - len(rows), left, *values)
        left = MOST_BYTES - sum(len(row["data"]) for row in rows)
        end, full = start + 1, len(rows) > limit or left <= 0
        if time.monotonic() > enough_at:
            break
        if time.monotonic() - started < QUICK_SECONDS:
            width *= 2
    return rows, end, full


async def head(resources: Resources) -> int:
    """Return the position of the newest event; reading past it follows the log from here on."""
    async with resources.database.driver_connection() as connection:
        return int(await connection.fetchval(spans.HEAD))


async def search(resources: Resources, key: Caller, wanted: Search) -> AsyncIterator[EventJson]:
    """Yield the newest events that are wanted, `limit` at most, however far back they lie."""
    left, more = wanted.limit, True
    while more and left > 0:
        page = await read_back(resources, key, replace(wanted, limit=left))
        for event in page.events:
            yield event
        left, more, wanted = left - len(page.events), page.more, wanted.below(page.next)
