"""Forwards a request of a partner's system to Aircall, once it is allowed, within the budget and in the audit."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.aircall import ai_plan, budget
from aircall_oauth.aircall.asked import Asked, ConnectionFault
from aircall_oauth.errors import (
    AircallUnavailable,
    DatabaseAway,
    InstallationNotActive,
    InstallationNotFound,
    PathNotAllowed,
    RedirectRefused,
)
from aircall_oauth.installations import tokens
from aircall_oauth.resources import Resources
from aircall_oauth.storage.sealed import TOKEN_COLUMN
from aircall_oauth.storage.statuses import InstallationStatus
from aircall_oauth.storage.vault import SealedAt

if TYPE_CHECKING:
    from aircall_oauth.aircall.relay import Answer

# Methods that change nothing are sent once more where the connection broke.
REPEATED = {"GET", "HEAD"}
READING = {"GET", "HEAD", "OPTIONS"}
REDIRECTS = {300, 301, 302, 303, 307, 308}
UNAUTHORIZED = "Aircall no longer accepts this installation's token: its customer must install again."
# Reads the installation, draws one request from the budget and writes the audit, in one statement: each statement more
# would cost a caller as much as all of them. Does not wait for the disk where $3 (the method only reads) is true.
ADMIT = f"""
    WITH installed AS MATERIALIZED (
        SELECT status, company_id, token_sealed, owner FROM installation
        WHERE id = $1 AND ($2::text IS NULL OR owner = $2)
    ), active AS MATERIALIZED (
        SELECT company_id FROM installed
        WHERE status = '{InstallationStatus.ACTIVE}'
          AND (NOT $3 OR set_config('synchronous_commit', 'off', true) = 'off')
    ), drawn AS (
        {budget.drawing("active", calls="1")} {budget.within(calls="1", allowed="$4")}
    ), told AS (
        INSERT INTO audit ({audit.COLUMNS})
        SELECT $5, $6, $7, $8, $9, $10, $11, (SELECT owner FROM installed) FROM drawn
    )
    SELECT status, company_id, token_sealed, EXISTS (SELECT FROM drawn) AS drawn FROM installed
"""  # noqa: S608 - pieces are ours, values are bound


@dataclass(frozen=True)
class Passage:
    """What a request is sent with: the company that its budget belongs to, and the installation's token."""

    company_id: int
    token: SecretStr


async def pass_on(resources: Resources, key: Caller, who: Who, installation_id: str, asked: Asked) -> "Answer":
    """Send a request to Aircall and return the answer, whatever its status. Use the answer as a context manager.

    Raises `PathNotAllowed`, `InstallationNotFound`, `InstallationNotActive`, `BudgetSpent`, `TooManyAtOnce`, and
    `AircallUnavailable` or `RedirectRefused` where there is no answer to pass on.
    """
    if not key.may_ask(asked.method, asked.path.decode()):
        raise PathNotAllowed
    passage = await _admit(resources, key, who, installation_id, asked.method)
    answer = await _ask(resources, passage, asked)
    try:
        await _believe(resources, passage, answer)
        await _judge(resources, installation_id, asked, answer)
    except BaseException:
        await answer.close()
        raise
    return answer


async def _admit(resources: Resources, key: Caller, who: Who, installation_id: str, method: str) -> Passage:
    """Require an active installation, draw one request from the budget, and write the audit; returns what to send with.

    A crash of PostgreSQL may lose the audit's rows of the last second, but none of a request that may change something.
    """
    reads, allowed = method in READING, _per_minute(resources)
    action = Action.AIRCALL_READ if reads else Action.AIRCALL_WRITE
    audited = audit.values(who, action, installation_id=installation_id)
    async with resources.database.driver_connection() as connection:
        row = await connection.fetchrow(ADMIT, installation_id, key.owner, reads, allowed, *audited)
        if row is None:
            raise InstallationNotFound
        if row["status"] != InstallationStatus.ACTIVE:
            raise InstallationNotActive(UNAUTHORIZED if row["status"] == InstallationStatus.UNAUTHORIZED else None)
        if not row["drawn"]:
            with tokens.refusals_counted(resources):
                raise await budget.refusal(connection, row["company_id"], calls=1, allowed=allowed)
    token = resources.vault.open(row["token_sealed"], SealedAt(TOKEN_COLUMN, installation_id))
    return Passage(row["company_id"], token)


async def _ask(resources: Resources, passage: Passage, asked: Asked) -> "Answer":
    try:
        return await _send(resources, passage, asked)
    except ConnectionFault as fault:
        if asked.method not in REPEATED:
            raise AircallUnavailable(fault.reason) from None
    with tokens.refusals_counted(resources):
        await budget.draw(resources.database, passage.company_id, per_minute=_per_minute(resources))
    try:
        return await _send(resources, passage, asked)
    except ConnectionFault as fault:
        raise AircallUnavailable(fault.reason) from None


async def _send(resources: Resources, passage: Passage, asked: Asked) -> "Answer":
    """Send a request once, and count it by what Aircall answers."""
    try:
        answer = await resources.relay.send(asked, passage.token)
    except AircallUnavailable:
        resources.metrics.figures.proxied(None)
        raise
    resources.metrics.figures.proxied(answer.status)
    return answer


async def _judge(resources: Resources, installation_id: str, asked: Asked, answer: "Answer") -> None:
    """Raise our own error for a redirect, and for the refusal of a token that turns out to be dead."""
    if answer.status in REDIRECTS:
        raise RedirectRefused
    if answer.status == ai_plan.MISSING and ai_plan.is_needed(asked.path):
        return
    if answer.status in tokens.DEAD_TOKEN and await tokens.suspect_token(resources, installation_id):
        raise InstallationNotActive(UNAUTHORIZED)


async def _believe(resources: Resources, passage: Passage, answer: "Answer") -> None:
    told = budget.told(answer.status, answer.headers)
    if told is not None:
        with suppress(DatabaseAway):
            await budget.correct(resources.database, passage.company_id, told, per_minute=_per_minute(resources))


def _per_minute(resources: Resources) -> int:
    return resources.settings.aircall_rate_per_minute
