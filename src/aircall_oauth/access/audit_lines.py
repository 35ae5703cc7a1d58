"""Reads the audit: newest first, by action, actor, installation, owner, subscription and time; as JSON or as CSV."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import col, select

from aircall_oauth.access.audit import OPERATOR, PERSON, PROXIED, SERVICE, Action, Outcome
from aircall_oauth.access.callers import Caller
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.access import ApiKey, Audit

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CURSOR = r"^[0-9]{1,16}_aud_[0-9a-f]{32}$"
PAGE = 1000
# A spreadsheet takes a cell that begins so for a formula, and carries it out.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class AuditLine(BaseModel):
    """One act: who did what to what, when, from where."""

    id: str = Field(examples=["aud_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    at: datetime
    actor: str = Field(
        description="An API key's id; `person:` with a name: in the console, by a link; `proxied:` with a name: there, "
        "as its authenticating proxy says; `operator`: the command line; `service`: a chore",
        examples=["key_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"],
    )
    actor_name: str | None = Field(description="The API key's name", examples=["crm"])
    action: str = Field(examples=["token.read"])
    outcome: Outcome
    installation_id: str | None = Field(examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    owner: str | None = Field(description="Whom it concerned, at that time", examples=["acme"])
    subscription_id: str | None = Field(examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    details: dict[str, Any] | None = Field(
        description="What was changed, from what, to what; never a secret",
        examples=[{"types": {"from": ["call.*"], "to": ["call.ended"]}}],
    )
    address: str | None = Field(description="The other end of the socket", examples=["192.0.2.7"])
    request_id: str | None = Field(examples=["req_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])


class AuditPage(BaseModel):
    items: list[AuditLine]
    next: str | None = Field(description="The `cursor` of the next page; null at the end.")


# Whether there are lines with a text as their actor, as their owner, as their request. The first value from the text on
# is one step in the column's index; where one actor has most lines, PostgreSQL would scan the table to find another.
FIRST = "(SELECT {0} FROM audit WHERE {0} >= {1} ORDER BY {0} LIMIT 1) = {1}"
HOLDS = f"""
    SELECT EXISTS (
        SELECT FROM (
            SELECT unnest(ARRAY[$1::text, '{PERSON}' || $1, '{PROXIED}' || $1])
            UNION ALL SELECT id FROM api_key WHERE name = $1
        ) AS named (called) WHERE {FIRST.format("actor", "called")}
    ), coalesce({FIRST.format("owner", "$1")}, false), coalesce({FIRST.format("request_id", "$1")}, false)
"""  # noqa: S608 - only constants of ours are put in

# Built once: that takes longer than to run it.
_LINES = (
    select(Audit, ApiKey.name, ApiKey.owner)
    .join(ApiKey, col(ApiKey.id) == col(Audit.actor), isouter=True)
    .order_by(col(Audit.at).desc(), col(Audit.id).desc())
)


@dataclass(frozen=True)
class Asked:
    """Which lines: what is empty or None leaves nothing out."""

    actions: Sequence[Action] = ()
    actor: str | None = None  # an API key's id or name, a person's name, `operator` or `service`
    installation_id: str | None = None
    owner: str | None = None
    subscription_id: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    cursor: str | None = None


def actions_of(patterns: Iterable[str]) -> list[Action]:
    """Return the actions that patterns such as `token.read` or `aircall.*` name; raises `ValueError` for one of none.

    An unknown action is refused: its answer would be empty, as if nothing had been done.
    """
    found: dict[Action, None] = {}
    for pattern in patterns:
        named = [one for one in Action if one == pattern or (pattern.endswith("*") and one.startswith(pattern[:-1]))]
        if not named:
            near = get_close_matches(pattern[:64], list(Action), n=1)
            raise ValueError(
                f"there is no such action; did you mean `{near[0]}`?"
                if near
                else f"there is no such action; there is {', '.join(Action)}"
            )
        found |= dict.fromkeys(named)
    return list(found)


async def page(resources: Resources, key: Caller, asked: Asked, *, limit: int) -> AuditPage:
    """Return a page of lines, newest first. An API key bound to an owner sees the lines that concern that owner only.

    Of actors that are not bound to the same owner such a key sees the id only, neither name nor address.
    """
    query = _LINES.where(*_conditions(key, asked)).limit(limit + 1)
    async with resources.database.session() as session:
        if asked.actor is not None:
            query = query.where(col(Audit.actor).in_(await _ids(session, key, asked.actor)))
        rows = (await session.exec(query)).all()
    items = [_line(key, row) for row in rows[:limit]]
    return AuditPage(items=items, next=_cursor(items[-1]) if len(rows) > limit else None)


async def holds(resources: Resources, text: str) -> tuple[bool, bool, bool]:
    """Tell whether any lines are of an actor of this name, of this owner, of a request with this id: for the console.

    Those of every owner count: it is not for an API key that is bound to one.
    """
    async with resources.database.driver_connection() as connection:
        actor, owner, request = await connection.fetchrow(HOLDS, text)
    return actor, owner, request


async def newest(resources: Resources, key: Caller, asked: Asked, *, limit: int) -> list[AuditLine]:
    """Return the newest lines, read page by page."""
    await resources.require_ready()
    lines: list[AuditLine] = []
    while len(lines) < limit:
        read = await page(resources, key, asked, limit=min(PAGE, limit - len(lines)))
        lines += read.items
        if read.next is None:
            break
        asked = replace(asked, cursor=read.next)
    return lines


def as_csv(lines: Iterable[AuditLine]) -> str:
    """Return lines as CSV with a heading; no cell can be taken for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*AuditLine.model_fields, "actor_kind"])
    writer.writerows([*map(_cell, line.model_dump(mode="json").values()), kind_of(line.actor)] for line in lines)
    return text.getvalue()


def kind_of(actor: str) -> str:
    """Return what an actor is: an API key may have a person's name."""
    if actor.startswith(PROXIED):
        return "person, by the proxy"
    if actor.startswith(PERSON):
        return "person"
    return {OPERATOR.actor: "command line", SERVICE.actor: "service"}.get(actor, "API key")


def name_of(actor: str) -> str:
    """Return the name of a person, without what stands before it in the audit."""
    return actor.removeprefix(PERSON).removeprefix(PROXIED)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    cell = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _conditions(key: Caller, asked: Asked) -> list[ColumnElement[bool]]:
    conditions = [] if key.owner is None else [col(Audit.owner) == key.owner]
    if asked.actions:
        conditions.append(_one_of(col(Audit.action), asked.actions))
    for column, value in (
        (col(Audit.installation_id), asked.installation_id),
        (col(Audit.owner), asked.owner),
        (col(Audit.subscription_id), asked.subscription_id),
        (col(Audit.request_id), asked.request_id),
    ):
        if value is not None:
            conditions.append(column == value)
    if asked.since is not None:
        conditions.append(col(Audit.at) >= asked.since)
    if asked.until is not None:
        conditions.append(col(Audit.at) < asked.until)
    if asked.cursor is not None:
        conditions.append(_past(asked.cursor))
    return conditions


def _one_of(column: Any, values: Sequence[str]) -> ColumnElement[bool]:
    """With one value the column's index gives the lines in order; with more they may have to be sorted."""
    match: ColumnElement[bool] = column == values[0] if len(values) == 1 else column.in_(values)
    return match


async def _ids(session: Any, key: Caller, actor: str) -> list[str]:
    """Return the actors that an id, an API key's name or a person's name means."""
    named = select(ApiKey.id).where(ApiKey.name == actor)
    if key.owner is not None:
        named = named.where(ApiKey.owner == key.owner)
    return [actor, f"{PERSON}{actor}", f"{PROXIED}{actor}", *(await session.exec(named)).all()]


def _line(key: Caller, row: Any) -> AuditLine:
    audit, name, owner = row
    line = AuditLine(
        **audit.model_dump() | {"actor_name": name, "address": None if audit.address == "-" else audit.address}
    )
    foreign = key.owner is not None and owner != key.owner
    return line.model_copy(update={"actor_name": None, "address": None}) if foreign else line


def _cursor(line: AuditLine) -> str:
    return f"{(line.at - EPOCH) // MICROSECOND}_{line.id}"


def _past(cursor: str) -> ColumnElement[bool]:
    """The lines older than the one that a cursor names."""
    micros, _, line_id = cursor.partition("_")
    at = EPOCH + int(micros) * MICROSECOND
    return and_(col(Audit.at) <= at, or_(col(Audit.at) < at, col(Audit.id) < line_id))
