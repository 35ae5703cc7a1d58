"""Disconnect an installation: removed here at once, then undone at Aircall as soon as Aircall answers.

Undoing needs the token. So a farewell keeps it, sealed and for that alone, until all is undone, and for three days at
most (`docs/decisions/0009-a-farewell-keeps-the-token.md`). A customer that comes back meanwhile cancels the farewell.
"""

import asyncio
from datetime import timedelta
from enum import StrEnum, auto

from pydantic import SecretStr
from sqlalchemy import func
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import (
    AircallRefused,
    DatabaseAway,
    InstallationNotFound,
    SealError,
)
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.resources import Resources
from aircall_oauth.storage import leases
from aircall_oauth.storage.away import again_if_undone
from aircall_oauth.storage.models.installations import Farewell, Installation, Webhook
from aircall_oauth.storage.sealed import FAREWELL_TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.sessions import commit_durably
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.statuses import InstallationStatus
from aircall_oauth.storage.vault import SealedAt
from aircall_oauth.telemetry import log

logger = log.get(__name__)

KEPT = timedelta(days=3)
# Finishing a farewell, calls to Aircall included, takes far less.
LEASE = timedelta(seconds=90)
FINISH_SECONDS = 20.0
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
BATCH = 20
# To list our webhooks, to delete one, and to switch the integration off.
CALLS_TO_UNDO = 3
DUE = select(Farewell.id).where(leases.is_due(Farewell))
HAS_DUE = DUE.exists()


async def disconnect(resources: Resources, key: Caller, who: Who, installation_id: str) -> None:
    """End an installation; one that has ended already stays so.

    What can't be undone at Aircall now is left to the worker. Raises `InstallationNotFound`.
    """
    farewell_id = await _end(resources, key, who, installation_id)
    if farewell_id is None:
        return
    try:
        await finish_farewell(resources, farewell_id)
    except DatabaseAway:
        logger.warning("goodbye left to the worker", installation_id=installation_id)


@again_if_undone
async def _end(resources: Resources, key: Caller, who: Who, installation_id: str) -> str | None:
    """End an installation here. Returns its farewell's id, or None where there is nothing to undo at Aircall."""
    mine = select(Installation).where(col(Installation.id) == installation_id, *key.sees(Installation))
    async with resources.database.session() as session:
        installation = (await session.exec(lifecycle.for_change(mine))).first()
        if installation is None:
            raise InstallationNotFound
        if installation.status == InstallationStatus.REMOVED:
            await commit_durably(session)
            return None
        await audit.record(
            session,
            who,
            Action.INSTALLATION_DISCONNECTED,
            installation_id=installation.id,
            owner=installation.owner,
        )
        farewell_id = await begin_farewell(resources, session, installation, reason="disconnected")
    logger.info("installation disconnected", installation_id=installation_id, actor=who.actor)
    return farewell_id


async def begin_farewell(
    resources: Resources, session: AsyncSession, installation: Installation, *, reason: str
) -> str | None:
    """Remove an installation and add its farewell. Returns the farewell's id. The caller has locked the installation.

    Without a token that opens, nothing can be undone at Aircall: the installation is removed, and there is no farewell.
    """
    farewell = await _new_farewell(resources, session, installation)
    if farewell is not None:
        session.add(farewell)
        await lifecycle.note_switching_off(session, installation.id)
    if installation.status == InstallationStatus.UNCLAIMED:
        # It was never in use, so there is no event about its end.
        await lifecycle.erase(session, installation)
    else:
        await lifecycle.remove(session, installation, reason=reason)
    return None if farewell is None else farewell.id


async def _new_farewell(resources: Resources, session: AsyncSession, installation: Installation) -> Farewell | None:
    try:
        token = tokens.token_of(resources, installation)
    except SealError:
        logger.error("left behind at Aircall", installation_id=installation.id, reason="its token does not open")
        return None
    webhook_ids = select(Webhook.webhook_id).where(col(Webhook.installation_id) == installation.id)
    farewell = Farewell(
        id=new_id("bye"),
        installation_id=installation.id,
        token_fingerprint=resources.vault.fingerprint(token, TOKEN_PURPOSE),
        webhook_id=(await session.exec(webhook_ids)).first(),
        begun_at=now(),
        due_at=now(),
    )
    farewell.token_sealed = resources.vault.seal(token, SealedAt(FAREWELL_TOKEN_COLUMN, farewell.id))
    return farewell


async def finish_farewells(resources: Resources) -> None:
    """Chore: undo at Aircall what could not be undone at once, and drop tokens kept too long."""
    due = DUE.order_by(col(Farewell.due_at)).limit(BATCH)
    async with resources.database.session() as session:
        farewell_ids = (await session.exec(due)).all()
    await asyncio.gather(*(finish_farewell(resources, farewell_id) for farewell_id in farewell_ids))


class Outcome(StrEnum):
    """What came of finishing a farewell."""

    UNDONE = auto()
    REFUSED = auto()  # for good: nothing more can be done with this token
    UNOPENED = auto()  # for good: the sealed token does not open
    PUT_OFF = auto()
    NOT_DUE = auto()


async def finish_farewell(resources: Resources, farewell_id: str) -> Outcome:
    """Undo at Aircall what we made there, if the farewell is due and no other process works on it."""
    claimed = await _claim(resources, farewell_id)
    if claimed is None:
        return Outcome.NOT_DUE
    farewell, installation = claimed
    try:
        async with (
            tokens.within_budget(resources, installation.company_id, calls=CALLS_TO_UNDO),
            asyncio.timeout(FINISH_SECONDS),
        ):
            await _undo(resources, farewell)
    except AircallRefused as refused:
        # The usual reason is a dead token: our app was removed at Aircall too, with its webhooks.
        logger.warning("goodbye refused", installation_id=farewell.installation_id, reason=str(refused))
        outcome = Outcome.REFUSED
    except SealError:
        logger.error(
            "left behind at Aircall", installation_id=farewell.installation_id, reason="its token does not open"
        )
        outcome = Outcome.UNOPENED
    except tokens.ASKING_ERRORS as error:
        await _put_off(resources, farewell, error)
        return Outcome.PUT_OFF
    else:
        outcome = Outcome.UNDONE
    await _delete(resources, farewell)
    return outcome


async def _claim(resources: Resources, farewell_id: str) -> tuple[Farewell, Installation] | None:
    """Lease a farewell. Returns None if it is not due, or is older than three days: that one is deleted.

    Not `leases.claim`: one farewell is claimed by its id, and its installation must be locked before it.
    """
    claim = (
        update(Farewell)
        .where(
            col(Farewell.id) == farewell_id,
            leases.is_due(Farewell),
            col(Installation.id) == col(Farewell.installation_id),
        )
        .values(due_at=leases.after(LEASE), attempts=Farewell.attempts + 1)
        .returning(Farewell, Installation, func.now())
    )
    of_it = select(Farewell.installation_id).where(col(Farewell.id) == farewell_id)
    async with resources.database.session() as session:
        await session.exec(lifecycle.for_change(select(Installation).where(col(Installation.id).in_(of_it))))
        row = (await session.exec(claim)).first()
        if row is None:
            return None
        farewell, installation, at = row
        # Too old only if both clocks say so: without the farewell, nothing can be undone at Aircall any more.
        if farewell.begun_at > min(at, now()) - KEPT:
            await lifecycle.note_switching_off(session, installation.id)
            return farewell, installation
        await session.delete(farewell)
    logger.error("left behind at Aircall", installation_id=installation.id, reason=farewell.last_error)
    return None


async def _undo(resources: Resources, farewell: Farewell) -> None:
    """Delete our webhooks, then switch the integration off."""
    token = resources.vault.open(farewell.token_sealed, SealedAt(FAREWELL_TOKEN_COLUMN, farewell.id))
    for webhook_id in await _our_webhooks(resources, farewell, token):
        await resources.aircall.delete_webhook(token, webhook_id)
    await resources.aircall.disable_integration(token)


async def _our_webhooks(resources: Resources, farewell: Farewell, token: SecretStr) -> set[str]:
    """Return the webhook we know, and all others with our URL that no other installation has adopted."""
    url = resources.settings.webhook_url
    ours = {w.webhook_id async for w in resources.aircall.list_webhooks(token) if w.url == url}
    if farewell.webhook_id is not None:
        ours.add(farewell.webhook_id)
    of_others = select(Webhook.webhook_id).where(col(Webhook.webhook_id).in_(ours))
    async with resources.database.session() as session:
        return ours - {taken for taken in (await session.exec(of_others)).all() if taken is not None}


async def _delete(resources: Resources, farewell: Farewell) -> None:
    """Delete the farewell and its token.

    If it was cancelled meanwhile, the customer came back, and we may have deleted the new webhook or switched the
    integration off: both are mended.
    """
    async with resources.database.session() as session:
        was_there = (await session.exec(delete(Farewell).where(col(Farewell.id) == farewell.id))).rowcount == 1
        if not was_there:
            again = update(Webhook).where(col(Webhook.installation_id) == farewell.installation_id)
            await session.exec(again.values(due_at=func.now()))
    if not was_there:
        await schedule.ensure_webhook(resources, farewell.installation_id)
        await tokens.refresh(resources, farewell.installation_id)


async def _put_off(resources: Resources, farewell: Farewell, error: Exception) -> None:
    pause = leases.backoff(farewell.attempts, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
    told = getattr(error, "retry_after_seconds", None)
    if told is not None:
        pause = min(timedelta(seconds=told), LONGEST_PAUSE)
    reason = str(error) or "timeout"
    logger.warning("goodbye put off", installation_id=farewell.installation_id, reason=reason)
    async with resources.database.session() as session:
        await leases.put_off(session, farewell, pause, last_error=reason)
