"""Searches the log for what an erasure is about: one person's events, or all of one customer's."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from aircall_oauth.events import query
from aircall_oauth.events.query import EventJson, Filter, next_events
from aircall_oauth.events.spans import HEAD
from aircall_oauth.privacy import people
from aircall_oauth.privacy.people import Finder, Person
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.erasures import PATTERN_COLUMN
from aircall_oauth.storage.sealed import ERASURE_CALL_PURPOSE
from aircall_oauth.storage.statuses import ErasureKind
from aircall_oauth.storage.vault import SealedAt

BATCH = 500
BATCH_BYTES = 1024 * 1024
# A scope may leave out almost everything: one statement looks this many positions ahead.
FAR = 50_000
# Events that are read without a pause: the same process delivers events.
AT_ONCE = 20


@dataclass(frozen=True)
class Found:
    """What one step read: up to which position, how many events, those to erase, the calls they belong to."""

    read_to: int
    read: int
    events: Sequence[EventJson]
    calls: Sequence[bytes]
    head: int

    @property
    def is_end(self) -> bool:
        return self.read_to >= self.head


class Search:
    """Reads the log for one person, or for all of one customer's."""

    def __init__(
        self, resources: Resources, finder: Finder | None, scope: Filter, known_calls: set[bytes] | None = None
    ) -> None:
        self._resources = resources
        self._finder = finder
        conditions, self._values = scope.sql(first=5)
        self._conditions = f"AND erased_at IS NULL {conditions}"
        self._calls = known_calls or set()

    async def next(self, after: int, *, following: bool, last: int | None = None) -> Found:
        """Read the events past a position, and tell which are to be erased; `last` is the end, if not the log's."""
        async with self._resources.database.driver_connection() as connection:
            head = await connection.fetchval(HEAD)
            head = head if last is None else min(head, last)
            end = min(head, after + FAR)
            rows = await connection.fetch(next_events(self._conditions), after, end, BATCH, BATCH_BYTES, *self._values)
            events, is_cut = await self._read(connection, rows)
        read_to = events[-1].position if is_cut else max(end, after)
        chosen, calls = await self._chosen(events, following)
        return Found(read_to, len(events), chosen, calls, head)

    async def _read(self, connection: asyncpg.Connection, rows: Sequence[Any]) -> tuple[list[EventJson], bool]:
        """Return the events, and whether there are others; all of a customer's are erased unread."""
        if self._finder is None:
            return query.stubs_of(rows), query.is_cut(rows, BATCH)
        return await query.page_of(connection, self._resources.data_keys, rows, BATCH)

    async def _chosen(self, events: Sequence[EventJson], following: bool) -> tuple[list[EventJson], list[bytes]]:
        chosen: list[EventJson] = []
        calls: set[bytes] = set()
        for n, event in enumerate(events):
            if n % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            call = self._matches(event, following)
            if call is not None:
                chosen.append(event)
                calls |= call
        return chosen, sorted(calls)

    def _matches(self, event: EventJson, following: bool) -> set[bytes] | None:
        """Return the call that an event to be erased belongs to, if any; None for an event that is left as it is."""
        if self._finder is None:
            return set()
        data = bytes(event.data)
        worth = self._finder.may_be_in(data)
        if not worth and not following:
            return None
        told = people.read(event.resource, data)
        call = people.call_of(told)
        key = set() if call is None else {self._key(event.installation_id, call)}
        if key & self._calls or (worth and self._finder.finds(told)):
            return key
        return None

    def _key(self, installation_id: str, call: str) -> bytes:
        return self._resources.vault.fingerprint(f"{installation_id}/{call}", ERASURE_CALL_PURPOSE)


async def search_of(resources: Resources, row: dict[str, Any]) -> Search:
    kind = ErasureKind(row["kind"])
    finder = None
    if kind != ErasureKind.INSTALLATION:
        value = resources.vault.open(row["pattern_sealed"], SealedAt(PATTERN_COLUMN, row["id"]))
        finder = Finder(Person(kind, value.get_secret_value()))
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch("SELECT fingerprint FROM erasure_call WHERE erasure_id = $1", row["id"])
    return Search(resources, finder, scope_of(row["owner"], row["installation_id"]), {each[0] for each in rows})


def scope_of(owner: str | None, installation_id: str | None) -> Filter:
    """Return which events an erasure reads."""
    return Filter(
        owners=[] if owner is None else [owner],
        installations=[] if installation_id is None else [installation_id],
    )


async def preview(
    resources: Resources, person: Person, scope: Filter, tell: Callable[[int, int], None]
) -> tuple[int, int]:
    """Count the events that an erasure would read and erase now; `tell` is given how far it is, and the log's end."""
    calls: set[bytes] = set()
    found = set[int]()
    read = 0
    for following in (False, True):
        search = Search(resources, Finder(person), scope, calls)
        position, is_end = 0, following and not calls
        while not is_end:
            step = await search.next(position, following=following)
            position, is_end = step.read_to, step.is_end
            found |= {event.position for event in step.events}
            calls = calls | set(step.calls)
            read += 0 if following else step.read
            tell(position, step.head)
    return read, len(found)
