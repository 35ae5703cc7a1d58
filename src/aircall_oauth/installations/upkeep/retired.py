"""Webhooks of ours that are to go: deleted at Aircall when it is their time, and forgotten a little later.

Until then their events are recognised, and nobody takes them into use: `steward` leaves alone what stands here.
"""

import asyncio
from datetime import timedelta

from sqlalchemy import func
from sqlmodel import col, delete, select, update

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.errors import AircallRefused, InstallationNotActive, InstallationNotFound
from aircall_oauth.installations import tokens
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.resources import Resources
from aircall_oauth.storage import leases
from aircall_oauth.storage.models.installations import Installation, InstallationStatus, RetiredWebhook, Webhook
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# Who deletes one has it for this long.
LEASE = timedelta(seconds=90)
DELETE_SECONDS = 20.0
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
# Somebody may have listed it just before it went; and what was under way when it went still arrives.
FORGOTTEN_AFTER = timedelta(minutes=10)
BATCH = 20


async def rotate(resources: Resources, who: Who, installation_id: str) -> bool:
    """Give an installation a webhook with another token; whether it is done already, or left to the worker.

    Both are recognised until the old one is deleted, ten minutes later. Raises `InstallationNotFound` or
    `InstallationNotActive`.
    """
    async with resources.database.session() as session:
        installation = await session.get(Installation, installation_id)
        if installation is None:
            raise InstallationNotFound
        if installation.status != InstallationStatus.ACTIVE:
            raise InstallationNotActive
        await audit.record(session, who, Action.WEBHOOK_ROTATED, installation_id=installation_id)
        wanted = update(Webhook).where(col(Webhook.installation_id) == installation_id)
        await session.exec(wanted.values(rotation_wanted=True, due_at=func.now()))
    await schedule.ensure_webhook(resources, installation_id)
    waits = select(Webhook.rotation_wanted).where(col(Webhook.installation_id) == installation_id)
    async with resources.database.session() as session:
        return (await session.exec(waits)).first() is False


async def delete_retired(resources: Resources) -> None:
    """The worker's chore: delete at Aircall what is due there, and forget what was deleted."""
    async with resources.database.session() as session:
        await session.exec(
            delete(RetiredWebhook).where(
                col(RetiredWebhook.deleted_at).is_not(None), col(RetiredWebhook.due_at) <= func.now()
            )
        )
    to_delete = (leases.is_due(RetiredWebhook), col(RetiredWebhook.deleted_at).is_(None))
    lease = {"due_at": leases.after(LEASE), "attempts": RetiredWebhook.attempts + 1}
    async with resources.database.session() as session:
        claimed = await leases.claim(session, RetiredWebhook, *to_delete, limit=BATCH, **lease)
    await asyncio.gather(*(_delete(resources, retired, installation) for retired, installation in claimed))


async def _delete(resources: Resources, retired: RetiredWebhook, installation: Installation) -> None:
    try:
        async with (
            tokens.within_budget(resources, installation.company_id),
            asyncio.timeout(DELETE_SECONDS),
        ):
            token = tokens.token_of(resources, installation)
            await resources.aircall.delete_webhook(token, retired.webhook_id)
    except AircallRefused as refused:
        # A dead token deletes nothing; where it is dead for good, Aircall has nothing of ours any more.
        logger.warning("retired webhook not deleted", installation_id=installation.id, reason=str(refused))
    except tokens.NotNow as error:
        await _put_off(resources, retired, error)
        return
    await _note_deleted(resources, retired)


async def _note_deleted(resources: Resources, retired: RetiredWebhook) -> None:
    gone = update(RetiredWebhook).where(col(RetiredWebhook.webhook_id) == retired.webhook_id)
    async with resources.database.session() as session:
        noted = (await session.exec(gone.values(deleted_at=func.now(), due_at=func.now() + FORGOTTEN_AFTER))).rowcount
        if not noted:
            # The installation ended meanwhile. If it came back, it may have taken this very webhook into use.
            look_again = update(Webhook).where(col(Webhook.installation_id) == retired.installation_id)
            await session.exec(look_again.where(col(Webhook.due_at).is_not(None)).values(due_at=func.now()))


async def _put_off(resources: Resources, retired: RetiredWebhook, error: Exception) -> None:
    reason = str(error) or "timeout"
    logger.warning("retired webhook not deleted yet", installation_id=retired.installation_id, reason=reason)
    pause = leases.backoff(retired.attempts, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
    async with resources.database.session() as session:
        await leases.put_off(session, retired, pause)
