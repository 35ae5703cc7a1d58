"""Reads the log backwards, newest first: for people who look for something, where the feed is for programs."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
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
# A statement that takes a tenth of the search's time lets the next one search twice as many.
QUICK_SHARE = 10
FIRST_FROM = "SELECT received_at FROM event WHERE position >= $1 ORDER BY position LIMIT 1"
HAS_SUBJECT = "SELECT EXISTS (SELECT FROM event WHERE subject = $1)"
OF_OWNER = "SELECT id FROM installation WHERE owner = $1 ORDER BY id LIMIT $2"


@dataclass(frozen=True)
class Search:
    """Which events to read, and below which position; `before` None is from the newest on.

    It ends after so many seconds, one if None, and so many positions where no index gives what is looked for.
    """

    limit: int
    filter: Filter
    span: Span = EVER
    before: int | None = None
    seconds: float | None = None
    most_positions: int | None = None

    def below(self, position: int) -> "Search":
        return replace(self, before=position)

    def conditions(self, key: Caller, *, first: int) -> tuple[str, list[Any]]:
        """Return the SQL conditions and their values; a key bound to an owner finds that owner's events only."""
        wanted, values = replace(self.filter, bound_to=key.owner).sql(first=first)
        received, moments = self.span.sql(first=first + len(values))
        return f"{wanted} {received}".strip(), [*values, *moments]

    def lowest(self, past: int, before: int) -> int:
        """Return the position past which is searched, of those past `past`."""
        if self.most_positions is None or self.filter == Filter() or self.span.is_indexed or self.filter.installations:
            return past
        return max(past, before - 1 - self.most_positions)


async def read_back(resources: Resources, key: Caller, wanted: Search) -> Page:
    """Return at most `limit` events below a position, newest first: fewer if they are large, or rare.

    `next` is the `before` of the next page. A page that was searched for long enough goes as it is, be it empty.
    """
    conditions, values = wanted.conditions(key, first=5)
    async with resources.database.driver_connection() as connection:
        log = await epochs.newest(connection)
        past, last = await spans.ends(connection, wanted.span, log.head)
        past = max(past, await connection.fetchval(f"SELECT {epochs.DROPPED_TO}") or 0)
        before = last + 1 if wanted.before is None else min(wanted.before, last + 1)
        width = WINDOW if conditions and not wanted.span.is_indexed else before
        lowest = wanted.lowest(past, before)
        rows, end, full = await _walk(connection, wanted, conditions, values, lowest, before, width)
        events = await events_of(connection, resources.data_keys, rows[: wanted.limit])
    if full or len(events) < len(rows):
        return Page(events, next=events[-1].position, more=True, epoch=log.epoch)
    return Page(events, next=end, more=end > past + 1, epoch=log.epoch)


async def _walk(
    connection: asyncpg.Connection,
    wanted: Search,
    conditions: str,
    values: list[Any],
    past: int,
    before: int,
    width: int,
) -> tuple[list[asyncpg.Record], int, bool]:
    """Read back from one position to another; returns rows, the position that was reached, and whether there are more.

    One row more than the limit is read, which tells that there are more.
    """
    limit, seconds = wanted.limit, LOOK_SECONDS if wanted.seconds is None else wanted.seconds
    enough_at = time.monotonic() + seconds
    rows, left, end, full = list[asyncpg.Record](), MOST_BYTES, before, False
    while end > past + 1 and not full:
        started = time.monotonic()
        start = max(past, end - 1 - width)
        rows += await connection.fetch(previous_events(conditions), start, end, limit + 1 - len(rows), left, *values)
        left = MOST_BYTES - sum(len(row["data"]) for row in rows)
        end, full = start + 1, len(rows) > limit or left <= 0
        if time.monotonic() > enough_at:
            break
        if time.monotonic() - started < seconds / QUICK_SHARE:
            width *= 2
    return rows, end, full


async def has_subject(resources: Resources, subject: str) -> bool:
    """Whether the log has an event about this."""
    async with resources.database.driver_connection() as connection:
        return bool(await connection.fetchval(HAS_SUBJECT, subject))


async def received_from(resources: Resources, position: int) -> datetime | None:
    """Return when the first event from a position on was received; None if there is none."""
    async with resources.database.driver_connection() as connection:
        found: datetime | None = await connection.fetchval(FIRST_FROM, position)
    return found


async def customers_of(resources: Resources, owner: str, *, most: int) -> list[str]:
    """Return the ids of the installations that an owner has now; none of them if there are more than so many."""
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(OF_OWNER, owner, most + 1)
    return [row["id"] for row in rows] if len(rows) <= most else []


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
