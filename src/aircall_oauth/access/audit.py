"""The audit: a row for each action, with actor, time and address, written in the transaction of the action.

Rows are only ever added; the database refuses everything else (`docs/decisions/0008-the-audit-only-grows.md`).
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, text
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.resources import Resources
from aircall_oauth.storage import batches, clocks, locks
from aircall_oauth.storage.models.access import Audit
from aircall_oauth.storage.stamps import new_id

MINUTE = timedelta(minutes=1)
COLUMNS = "id, actor, action, installation_id, request_id, address, outcome, owner"
FORGET = """
    DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 ORDER BY at LIMIT $2)
"""


class Action(StrEnum):
    """The actions that are audited."""

    TOKEN_READ = "token.read"
    AIRCALL_READ = "aircall.read"  # a proxied call that changes nothing
    AIRCALL_WRITE = "aircall.write"
    INSTALL_LINK_MADE = "install_link.made"
    INSTALLATION_CLAIMED = "installation.claimed"
    INSTALLATION_DISCONNECTED = "installation.disconnected"
    INSTALLATION_EXPORTED = "installation.exported"  # all that is held about it was read
    INSTALLATION_CHECKED = "installation.checked"
    WEBHOOK_ROTATED = "webhook.rotated"
    BACKFILL_ASKED = "backfill.asked"
    ALL_REVOKED = "all.revoked"
    API_KEY_CREATED = "api_key.created"
    API_KEY_REVOKED = "api_key.revoked"
    SECRETS_ROTATED = "secrets.rotated"
    SUBSCRIPTION_CREATED = "subscription.created"
    SUBSCRIPTION_CHANGED = "subscription.changed"
    SUBSCRIPTION_PAUSED = "subscription.paused"
    SUBSCRIPTION_RESUMED = "subscription.resumed"
    SUBSCRIPTION_MOVED = "subscription.moved"  # its live reader was moved to another position
    SUBSCRIPTION_SECRET_ROTATED = "subscription.secret_rotated"
    SUBSCRIPTION_DEAD_RETRIED = "subscription.dead_retried"
    SUBSCRIPTION_DELETED = "subscription.deleted"
    SUBSCRIPTION_TESTED = "subscription.tested"  # a sample event was sent
    REPLAY_STARTED = "replay.started"
    REPLAY_STOPPED = "replay.stopped"
    EVENT_RESENT = "event.resent"
    ERASURE_ASKED = "erasure.asked"  # of a person or a customer; never says whom
    ERASURE_DONE = "erasure.done"
    RETENTION_CHANGED = "retention.changed"  # of an owner's events
    CONSOLE_LINK_MADE = "console.link_made"
    CONSOLE_SIGNED_IN = "console.signed_in"
    CONSOLE_SIGNED_OUT = "console.signed_out"
    CONSOLE_SESSION_REVOKED = "console.session_revoked"
    PAYLOAD_REVEALED = "payload.revealed"  # personal data were shown in the console


class Outcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"  # by us
    FAILED = "failed"


@dataclass(frozen=True)
class Who:
    """An actor, its address and its request. `address` is the other end of the socket, `-` if there is none."""

    actor: str
    address: str = "-"
    request_id: str | None = None


# In front of a person's name in the console: signed in by a link, or named by the authenticating proxy.
PERSON, PROXIED = "person:", "proxied:"
OPERATOR = Who("operator")  # at the command line
SERVICE = Who("service")  # a chore of the worker


async def record(
    session: AsyncSession,
    who: Who,
    action: Action,
    *,
    installation_id: str | None = None,
    owner: str | None = None,
    subscription_id: str | None = None,
    details: dict[str, Any] | None = None,
    outcome: Outcome = Outcome.DONE,
) -> None:
    """Add a row; it is kept if, and only if, the session's transaction commits.

    `owner` is the one that the action concerns: API keys bound to it see the row. `details` must hold no secret.
    """
    session.add(
        Audit(
            id=new_id("aud"),
            actor=who.actor,
            action=action,
            installation_id=installation_id,
            request_id=who.request_id,
            address=who.address,
            outcome=outcome,
            owner=owner,
            subscription_id=subscription_id,
            details=details,
        )
    )
    await session.flush()


def values(who: Who, action: Action, *, installation_id: str) -> tuple[str | None, ...]:
    """Return a row's values for `COLUMNS` but for the owner, for a statement that does more than adding the row."""
    return new_id("aud"), who.actor, action, installation_id, who.request_id, who.address, Outcome.DONE


async def wait_after(
    session: AsyncSession, who: Who, action: Action, *, most: int, outcome: Outcome = Outcome.DONE
) -> timedelta | None:
    """Return how long an actor that did this `most` times within a minute must wait; None if it need not.

    Other calls for the same actor wait until this transaction ends, so the count holds over all processes.
    """
    connection = await session.connection()
    lock = text("SELECT pg_advisory_xact_lock(:lock, hashtext(:actor))")
    await connection.execute(lock, {"lock": locks.ACTOR_COUNT, "actor": who.actor})
    wait = (
        select(Audit.at + MINUTE - func.clock_timestamp())
        .where(
            col(Audit.actor) == who.actor,
            col(Audit.at) > func.clock_timestamp() - MINUTE,
            col(Audit.action) == action,
            col(Audit.outcome) == outcome,
        )
        .order_by(col(Audit.at).desc())
        .offset(most - 1)
        .limit(1)
    )
    left: timedelta | None = (await connection.execute(wait)).scalar()
    return left


async def forget_old(resources: Resources) -> None:
    """Delete the rows past `AIRCALL_OAUTH_AUDIT_RETENTION`, in batches: a chore of the worker."""
    before = await clocks.agreed_now(resources.database) - resources.settings.audit_retention
    await batches.delete(resources.database, FORGET, before)
