"""Writes out what is held about one customer, a line of JSON for each thing; never a secret.

Each page is read by statements of its own, so that a reader that is slow holds no connection and no transaction.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import LargeBinary, Table
from sqlmodel import SQLModel, select

from aircall_oauth.access import audit, known_keys
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import OPERATOR, Caller
from aircall_oauth.errors import DataKeyUnusable, InstallationNotFound
from aircall_oauth.events.query import EventJson, Filter, events_of, next_events
from aircall_oauth.events.spans import HEAD
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.access import Audit
from aircall_oauth.storage.models.data_keys import DataKeyRow
from aircall_oauth.storage.models.deliveries import Attempt, Parked
from aircall_oauth.storage.models.installations import (
    Claim,
    Farewell,
    Flow,
    Gap,
    Installation,
    InstallAttempt,
    RetiredWebhook,
    Rhythm,
    Uninstall,
    Webhook,
)
from aircall_oauth.telemetry import log

logger = log.get(__name__)

FORMAT = 1
PAGE = 200
PAGE_BYTES = 512 * 1024
# Few rows each: one statement is enough.
SMALL: tuple[type[SQLModel], ...] = (
    *(Webhook, RetiredWebhook, Claim, Flow),
    *(InstallAttempt, Uninstall, Farewell, Rhythm),
)
MANY: tuple[tuple[type[SQLModel], str], ...] = (
    *((Gap, "id"), (Parked, "subscription_id, position")),
    *((Audit, "id"), (DataKeyRow, "id")),
)
OF_OWNER = "SELECT id FROM subscription WHERE owners = ARRAY[${}::text]"


def shown(table: type[SQLModel]) -> list[str]:
    """Return the names of a table's columns but for secrets and their fingerprints."""
    columns: Table = table.__table__  # type: ignore[attr-defined]
    return [c.name for c in columns.columns if not isinstance(c.type, LargeBinary) and not c.name.endswith("_sealed")]


async def begin(resources: Resources, key: Caller, who: Who, installation_id: str) -> dict[str, Any]:
    """Record an export in the audit and return its first line; raises `InstallationNotFound`."""
    query = select(Installation).where(Installation.id == installation_id, *key.sees(Installation))
    async with resources.database.session() as session:
        installation = (await session.exec(query)).first()
        if installation is None:
            raise InstallationNotFound
        owner = installation.owner
        await audit.record(session, who, Action.INSTALLATION_EXPORTED, installation_id=installation_id, owner=owner)
    async with resources.database.driver_connection() as connection:
        head, at = await connection.fetchrow(f"SELECT ({HEAD}), clock_timestamp()")
    return {"format": FORMAT, "installation_id": installation_id, "at": at, "up_to_position": head}


async def lines(resources: Resources, key: Caller, first: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield the lines of an export that was begun, some at a time. Only a whole one ends with a line `end`.

    It ends early if the API key is revoked meanwhile, or if an event does not open. A key that is bound to an owner
    gets that owner's part.
    """
    installation_id, head = first["installation_id"], first["up_to_position"]
    yield _line("export", first)
    counts = {"events": 0, "attempts": 0}
    async for rows in _of_the_installation(resources, key, installation_id):
        yield b"".join(rows)
    after = 0
    while True:
        try:
            events = await _events(resources, key, installation_id, after, head)
        except DataKeyUnusable:
            logger.warning("export ended: an event does not open", installation_id=installation_id)
            return
        if not events:
            break
        attempts = await _attempts(resources, key, [event.id for event in events])
        yield b"".join([*(_line("event", event) for event in events), *attempts])
        counts["events"] += len(events)
        counts["attempts"] += len(attempts)
        after = events[-1].position
        if key is not OPERATOR and not await known_keys.still_opens(resources, key):
            return
    yield _line("end", counts)


async def _of_the_installation(resources: Resources, key: Caller, installation_id: str) -> AsyncIterator[list[bytes]]:
    """Yield what is held beside the log, in pages."""
    yield await _rows(resources, key, Installation, "id", installation_id)
    for table in SMALL:
        yield await _rows(resources, key, table, "installation_id", installation_id)
    for table, order in MANY:
        async for page in _pages(resources, key, table, order, installation_id):
            yield page


async def _rows(
    resources: Resources, key: Caller, table: type[SQLModel], column: str, installation_id: str
) -> list[bytes]:
    conditions, values = _owners(table, key, first=2)
    statement = _reading(table, f"{column} = $1 {conditions}")
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(statement, installation_id, *values)
    return [_line(str(table.__tablename__), dict(row)) for row in rows]


async def _pages(
    resources: Resources, key: Caller, table: type[SQLModel], order: str, installation_id: str
) -> AsyncIterator[list[bytes]]:
    """Yield a table's rows of an installation; `order` is its key."""
    names = order.split(", ")
    name = str(table.__tablename__)
    last: Sequence[Any] | None = None
    while True:
        conditions, values = _owners(table, key, first=2)
        if last is not None:
            places = ", ".join(f"${n}" for n in range(2 + len(values), 2 + len(values) + len(last)))
            conditions, values = f"{conditions} AND ({order}) > ({places})", [*values, *last]
        statement = _reading(table, f"installation_id = $1 {conditions} ORDER BY {order} LIMIT {PAGE}")
        async with resources.database.driver_connection() as connection:
            rows = await connection.fetch(statement, installation_id, *values)
        yield [_line(name, dict(row)) for row in rows]
        if len(rows) < PAGE:
            return
        last = [rows[-1][one] for one in names]


async def _events(resources: Resources, key: Caller, installation_id: str, after: int, head: int) -> list[EventJson]:
    conditions, values = Filter(installations=[installation_id], bound_to=key.owner).sql(first=5)
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(next_events(conditions), after, head, PAGE, PAGE_BYTES, *values)
        return await events_of(connection, resources.data_keys, rows)


async def _attempts(resources: Resources, key: Caller, event_ids: list[str]) -> list[bytes]:
    conditions, values = _owners(Attempt, key, first=2)
    statement = _reading(Attempt, f"event_id = ANY ($1) {conditions} ORDER BY id")
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(statement, event_ids, *values)
    return [_line("attempt", dict(row)) for row in rows]


def _owners(table: type[SQLModel], key: Caller, *, first: int) -> tuple[str, list[Any]]:
    """Return the condition for what an API key sees of an installation that may have had another owner before."""
    if key.owner is None:
        return "", []
    if table in {Attempt, Parked}:
        return f"AND subscription_id IN ({OF_OWNER.format(first)})", [key.owner]
    if "owner" in shown(table):
        return f"AND owner = ${first}", [key.owner]
    return "", []


def _reading(table: type[SQLModel], conditions: str) -> str:
    columns = ", ".join(f"{name}::text" if name == "spoke" else name for name in shown(table))
    return f"SELECT {columns} FROM {table.__tablename__} WHERE {conditions}"  # noqa: S608 - names of ours


def _line(kind: str, content: Any) -> bytes:
    return msgspec.json.encode({"kind": kind, kind: content}, enc_hook=str) + b"\n"
