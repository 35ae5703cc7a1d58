"""A customer leaves: here it is over at once, and what we made at Aircall is undone there as soon as it answers.

Undoing needs the token. So it is kept for that alone, sealed, in a farewell: until all is undone, and three days at
most (`docs/decisions/0009-a-farewell-keeps-the-token.md`). A customer who comes back in between calls it off.
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
from aircall_oauth.storage.database import again_if_undone, commit_durably
from aircall_oauth.storage.models.base import new_id, now
from aircall_oauth.storage.models.installations import Farewell, Installation, InstallationStatus, Webhook
from aircall_oauth.storage.models.sealed import FAREWELL_TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.vault import SealedAt
from aircall_oauth.telemetry import log

logger = log.get(__name__)

KEPT = timedelta(days=3)
# Who is at a farewell has it for this long; the calls to Aircall stay well below.
LEASE = timedelta(seconds=90)
GOODBYE_SECONDS = 20.0
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
BATCH = 20
# To look for our webhooks, to delete one, and to switch the integration off.
CALLS_TO_LEAVE = 3


async def disconnect(resources: Resources, key: Caller, who: Who, installation_id: str) -> None:
    """End an installation; one that has ended already stays so.

    Raises `InstallationNotFound`. Where Aircall can't be reached now, the worker goes on with the rest.
    """
    farewell_id = await _end(resources, key, who, installation_id)
    if farewell_id is None:
        return
    try:
        await say_goodbye(resources, farewell_id)
    except DatabaseAway:
        logger.warning("goodbye left to the worker", installation_id=installation_id)


@again_if_undone
async def _end(resources: Resources, key: Caller, who: Who, installation_id: str) -> str | None:
    """End an installation here; its farewell's id, None where there is none to say."""
    mine = select(Installation).where(col(Installation.id) == installation_id, *key.sees(Installation))
    async with resources.database.session() as session:
        installation = (await session.exec(lifecycle.for_change(mine))).first()
        if installation is None:
            raise InstallationNotFound
        if installation.status == InstallationStatus.REMOVED:
            await commit_durably(session)
            return None
        await audit.record(session, who, Action.INSTALLATION_DISCONNECTED, installation_id=installation.id)
        farewell_id = await take_leave(resources, session, installation, reason="disconnected")
    logger.info("installation disconnected", installation_id=installation_id, actor=who.actor)
    return farewell_id


async def take_leave(
    resources: Resources, session: AsyncSession, installation: Installation, *, reason: str
) -> str | None:
    """Remove an installation whose row the caller has locked, and keep what its farewell needs; the farewell's id.

    Without a token that opens nothing can be undone at Aircall: it is removed here, and there is no farewell.
    """
    farewell = await _farewell(resources, session, installation)
    if farewell is not None:
        session.add(farewell)
        await lifecycle.note_switching_off(session, installation.id)
    if installation.status == InstallationStatus.UNCLAIMED:
        # Nobody ever heard of it.
        await lifecycle.erase(session, installation)
    else:
        await lifecycle.remove(session, installation, reason=reason)
    return None if farewell is None else farewell.id


async def _farewell(resources: Resources, session: AsyncSession, installation: Installation) -> Farewell | None:
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


async def say_goodbyes(resources: Resources) -> None:
    """The worker's chore: undo at Aircall what could not be undone at once, and drop tokens kept too long."""
    due = select(Farewell.id).where(leases.is_due(Farewell)).order_by(col(Farewell.due_at)).limit(BATCH)
    async with resources.database.session() as session:
        farewell_ids = (await session.exec(due)).all()
    await asyncio.gather(*(say_goodbye(resources, farewell_id) for farewell_id in farewell_ids))


class Goodbye(StrEnum):
    """What came of saying it."""

    SAID = auto()
    REFUSED = auto()  # for good: nothing more can be done with this token
    UNOPENED = auto()  # for good: nobody has the token any more
    PUT_OFF = auto()
    NOT_DUE = auto()


async def say_goodbye(resources: Resources, farewell_id: str) -> Goodbye:
    """Undo at Aircall what we made there, if it is due and nobody else is at it."""
    taken = await _take(resources, farewell_id)
    if taken is None:
        return Goodbye.NOT_DUE
    farewell, installation = taken
    try:
        async with (
            tokens.within_budget(resources, installation.company_id, calls=CALLS_TO_LEAVE),
            asyncio.timeout(GOODBYE_SECONDS),
        ):
            await _undo(resources, farewell)
    except AircallRefused as refused:
        # A dead token is the usual reason: our app was removed there too, with all that it had.
        logger.warning("goodbye refused", installation_id=farewell.installation_id, reason=str(refused))
        said = Goodbye.REFUSED
    except SealError:
        logger.error(
            "left behind at Aircall", installation_id=farewell.installation_id, reason="its token does not open"
        )
        said = Goodbye.UNOPENED
    except tokens.NotNow as error:
        await _postpone(resources, farewell, error)
        return Goodbye.PUT_OFF
    else:
        said = Goodbye.SAID
    await _finish(resources, farewell)
    return said


async def _take(resources: Resources, farewell_id: str) -> tuple[Farewell, Installation] | None:
    """Have the farewell for the length of the lease; None where it is not due, or its time is over.

    Not by `leases.claim`: it is one farewell, and its installation is locked before it.
    """
    take = (
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
        row = (await session.exec(take)).first()
        if row is None:
            return None
        farewell, installation, at = row
        # Old by both clocks: what is deleted here is the only way to undo it at Aircall.
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
    """The webhook we know, and every other one that points here and is no other installation's."""
    url = resources.settings.webhook_url
    ours = {w.webhook_id async for w in resources.aircall.list_webhooks(token) if w.url == url}
    if farewell.webhook_id is not None:
        ours.add(farewell.webhook_id)
    of_others = select(Webhook.webhook_id).where(col(Webhook.webhook_id).in_(ours))
    async with resources.database.session() as session:
        return ours - {taken for taken in (await session.exec(of_others)).all() if taken is not None}


async def _finish(resources: Resources, farewell: Farewell) -> None:
    """Drop the token. Whoever came back meanwhile may have lost to us what he had just made: it is looked at again."""
    async with resources.database.session() as session:
        last = (await session.exec(delete(Farewell).where(col(Farewell.id) == farewell.id))).rowcount == 1
        if not last:
            again = update(Webhook).where(col(Webhook.installation_id) == farewell.installation_id)
            await session.exec(again.values(due_at=func.now()))
    if not last:
        await schedule.ensure_webhook(resources, farewell.installation_id)
        await tokens.refresh(resources, farewell.installation_id)


async def _postpone(resources: Resources, farewell: Farewell, error: Exception) -> None:
    pause = leases.backoff(farewell.attempts, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
    told = getattr(error, "retry_after_seconds", None)
    if told is not None:
        pause = min(timedelta(seconds=told), LONGEST_PAUSE)
    reason = str(error) or "timeout"
    logger.warning("goodbye put off", installation_id=farewell.installation_id, reason=reason)
    async with resources.database.session() as session:
        await leases.put_off(session, farewell, pause, last_error=reason)
