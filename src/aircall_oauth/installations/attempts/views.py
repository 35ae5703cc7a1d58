"""What the partner's systems and the operator may read about install attempts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement
from sqlalchemy import select as sqlalchemy_select
from sqlalchemy.dialects import postgresql
from sqlmodel import col, select

from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import InstallAttemptNotFound
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import InstallAttempt, InstallTally

STEPS = (
    *("made_at", "opened_at", "consented_at", "exchanged_at"),
    *("identified_at", "connected_at", "claimed_at", "live_at"),
)
# What is asked for by this name has no ending.
UNDER_WAY = "under_way"
# So many of the newest are counted.
MOST_COUNTED = 20_000
# Of the newest with some conditions: by how they ended, how many there are and how many of those reached each step.
FUNNEL = f"""
    WITH newest AS (
        SELECT ending, {", ".join(STEPS)} FROM install_attempt WHERE {{}} ORDER BY created_at DESC LIMIT {MOST_COUNTED}
    )
    SELECT ending, count(*) AS found, {", ".join(f"count({step}) AS {step}" for step in STEPS)}
    FROM newest GROUP BY ending ORDER BY found DESC, ending
"""  # noqa: S608 - only names of ours are put in
# The owners of the newest that begin with $1, in whatever case; first the one that is written exactly so, however old.
OWNERS_LIKE = f"""
    WITH newest AS (
        SELECT owner FROM install_attempt WHERE owner IS NOT NULL AND ($2::text IS NULL OR owner = $2)
        ORDER BY id DESC LIMIT {MOST_COUNTED}
    ), counted AS (
        SELECT owner, count(*) AS found FROM newest WHERE starts_with(lower(owner), lower($1))
        GROUP BY owner ORDER BY owner LIMIT $3
    ), exactly AS (
        SELECT $1::text AS owner WHERE ($2::text IS NULL OR $1 = $2) AND $1 NOT IN (SELECT owner FROM counted)
            AND EXISTS (SELECT FROM install_attempt WHERE owner = $1)
    )
    SELECT owner, 0 AS found FROM exactly UNION ALL SELECT owner, found FROM counted
"""  # noqa: S608 - likewise
TALLIES = "SELECT hour, what, count FROM install_tally WHERE hour >= $1 ORDER BY hour DESC, what"
_ATTEMPTS = select(InstallAttempt).order_by(col(InstallAttempt.id).desc())
# Known of a company before an owner has claimed it; not for a key bound to the owner of the link.
BEFORE_THE_CLAIM = ("installation_id", "company_id", "company_name")


class InstallAttemptView(BaseModel):
    """One install attempt. Each `…_at` is one step, in this order; null where it was not reached."""

    id: str = Field(examples=["att_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    reference: str = Field(description="Shown on every page it ended on; what support asks for", examples=["7KQ2MXNP"])
    step: str = Field(description="The last step that it reached", examples=["consented"])
    ending: str | None = Field(
        description="How it ended: `connected`; `unclaimed`, kept until its claim is used; `claimed`; or what went "
        "wrong, as in the `error` of the way home. Null while it is under way, or where its admin just stopped.",
        examples=["declined"],
    )
    shown: str | None = Field(
        description="What the browser was shown last: `consent` (Aircall's page), `page:…`, or where it was sent: "
        "`return_to:…`, `success_url`",
        examples=["return_to:declined"],
    )
    owner: str | None = Field(description="The link's, or who claimed it", examples=["acme"])
    link_id: str | None = Field(
        description="Null for a flow without a link", examples=["lnk_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"]
    )
    installation_id: str | None = Field(examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    company_id: int | None = Field(
        description="The Aircall company, with `company_name` and `installation_id`: an API key bound to an owner sees "
        "them once the owner has claimed the installation",
        examples=[70077],
    )
    company_name: str | None = Field(examples=["Northwind Demo Ltd"])
    created_at: datetime = Field(description="When it was first recorded; `since` and `until` go by it")
    made_at: datetime | None = Field(description="The link was made")
    opened_at: datetime | None = Field(description="The browser opened it and was sent to Aircall")
    consented_at: datetime | None = Field(description="It came back with a code")
    exchanged_at: datetime | None = Field(description="Aircall gave a token for the code")
    identified_at: datetime | None = Field(description="Aircall said whose it is")
    connected_at: datetime | None = Field(description="The installation was saved")
    claimed_at: datetime | None = Field(description="Its owner claimed it")
    live_at: datetime | None = Field(description="Its webhook at Aircall was live")
    ended_at: datetime | None


class InstallAttemptList(BaseModel):
    items: list[InstallAttemptView]
    next: str | None = Field(description="The `cursor` of the next page; null at the end.")


async def list_attempts(
    resources: Resources,
    key: Caller,
    *,
    owner: str | None = None,
    link: str | None = None,
    reference: str | None = None,
    ending: str | None = None,
    installation_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> InstallAttemptList:
    """List attempts, newest first; by `UNDER_WAY` those without an ending.

    An API key bound to an owner sees only that owner's.
    """
    query = _ATTEMPTS.where(*key.sees(InstallAttempt))
    equal = {"owner": owner, "link_id": link, "reference": reference, "installation_id": installation_id}
    query = query.where(*_like(equal, ending))
    if since is not None:
        query = query.where(col(InstallAttempt.created_at) >= since)
    if until is not None:
        query = query.where(col(InstallAttempt.created_at) < until)
    if cursor is not None:
        query = query.where(col(InstallAttempt.id) < cursor)
    async with resources.database.session() as session:
        rows = (await session.exec(query.limit(limit + 1))).all()
    items = [_view(row, key) for row in rows[:limit]]
    return InstallAttemptList(items=items, next=items[-1].id if len(rows) > limit else None)


async def show_attempt(resources: Resources, key: Caller, id_or_reference: str) -> InstallAttemptView:
    """Show one attempt; raises `InstallAttemptNotFound`."""
    name = InstallAttempt.id if id_or_reference.startswith("att_") else InstallAttempt.reference
    query = select(InstallAttempt).where(col(name) == id_or_reference, *key.sees(InstallAttempt))
    async with resources.database.session() as session:
        row = (await session.exec(query)).first()
    if row is None:
        raise InstallAttemptNotFound
    return _view(row, key)


@dataclass(frozen=True)
class Funnel:
    """How many attempts reached each step, and how many ended how; `under_way` have no ending."""

    steps: dict[str, int]
    endings: dict[str, int]
    under_way: int = 0


async def funnel(
    resources: Resources,
    key: Caller,
    *,
    since: datetime,
    owner: str | None = None,
    ending: str | None = None,
    reference: str | None = None,
) -> Funnel:
    """Count the attempts since then by the steps they reached and by their endings; of very many the newest."""
    conditions, values = ["created_at >= $1"], list[Any]([since])
    for name, value in (("owner", key.owner), ("owner", owner), ("reference", reference), ("ending", ending)):
        if name == "ending" and value == UNDER_WAY:
            conditions.append("ending IS NULL")
        elif value is not None:
            values.append(value)
            conditions.append(f"{name} = ${len(values)}")
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(FUNNEL.format(" AND ".join(conditions)), *values)
    steps = {step.removesuffix("_at"): sum(row[step] for row in rows) for step in STEPS}
    ended = {row["ending"]: row["found"] for row in rows}
    under_way = ended.pop(None, 0)
    return Funnel(steps, ended, under_way)


async def owners_of(resources: Resources, key: Caller, installation_ids: Collection[str]) -> dict[str, str]:
    """Return the owner that the newest link of each of some installations was made for; those without are left out."""
    newest = (
        sqlalchemy_select(col(InstallAttempt.installation_id), col(InstallAttempt.owner))
        .where(
            col(InstallAttempt.installation_id).in_(installation_ids),
            col(InstallAttempt.owner).is_not(None),
            *key.sees(InstallAttempt),
        )
        .ext(postgresql.distinct_on(col(InstallAttempt.installation_id)))
        .order_by(col(InstallAttempt.installation_id), col(InstallAttempt.id).desc())
    )
    async with resources.database.session() as session:
        rows = (await (await session.connection()).execute(newest)).all()
    return {row.installation_id: row.owner for row in rows}


async def owners_like(resources: Resources, key: Caller, beginning: str, *, limit: int) -> dict[str, int]:
    """Return owners of attempts that begin so, in whatever case, with how many of the newest attempts each has.

    One that is written exactly so is found however long ago its attempts are.
    """
    async with resources.database.driver_connection() as connection:
        return dict(await connection.fetch(OWNERS_LIKE, beginning, key.owner, limit))


async def tallies(resources: Resources, *, since: datetime) -> list[InstallTally]:
    """Return the hourly counts of what has no row of its own, newest hour first."""
    await resources.require_ready()
    async with resources.database.driver_connection() as connection:
        return [InstallTally(**dict(row)) for row in await connection.fetch(TALLIES, since)]


def _like(equal: Mapping[str, str | None], ending: str | None) -> list[ColumnElement[bool]]:
    """Return the conditions of attempts with these values and this ending."""
    conditions = [col(getattr(InstallAttempt, name)) == value for name, value in equal.items() if value is not None]
    if ending is not None:
        of_ending = col(InstallAttempt.ending)
        conditions.append(of_ending.is_(None) if ending == UNDER_WAY else of_ending == ending)
    return conditions


def _view(row: InstallAttempt, key: Caller) -> InstallAttemptView:
    fields: dict[str, Any] = row.model_dump()
    if key.owner is not None and row.claimed_at is None:
        # The company may have consented to a link that it was lured to: its owner has not said that it is theirs.
        fields |= dict.fromkeys(BEFORE_THE_CLAIM)
    reached = [step for step in STEPS if fields[step] is not None]
    return InstallAttemptView(step=reached[-1].removesuffix("_at") if reached else "opened", **fields)
