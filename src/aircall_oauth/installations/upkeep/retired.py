"""Retired webhooks: deleted at Aircall when they are due, and forgotten a little later.

Until then their events are recognised, and `reconcile` never takes one of them into use.
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
from aircall_oauth.storage.models.installations import Installation, RetiredWebhook, Webhook
from aircall_oauth.storage.statuses import InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# Deleting one takes less.
LEASE = timedelta(seconds=90)
DELETE_SECONDS = 20.0
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
# Another process may have listed the webhook just before it was deleted, and events under way then still arrive.
FORGOTTEN_AFTER = timedelta(minutes=10)
BATCH = 20
# To be deleted, or to be forgotten.
HAS_DUE = select(RetiredWebhook.webhook_id).where(leases.is_due(RetiredWebhook)).exists()


async def replace_webhook(resources: Resources, who: Who, installation_id: str) -> bool:
    """Give an installation a new webhook with another token. Returns False where it was left to the worker.

    Both webhooks are recognised until the old one is deleted, ten minutes later. Raises `InstallationNotFound` or
    `InstallationNotActive`.
    """
    async with resources.database.session() as session:
        installation = await session.get(Installation, installation_id)
        if installation is None:
            raise InstallationNotFound
        if installation.status != InstallationStatus.ACTIVE:
            raise InstallationNotActive
        await audit.record(
            session, who, Action.WEBHOOK_ROTATED, installation_id=installation_id, owner=installation.owner
        )
        wanted = update(Webhook).where(col(Webhook.installation_id) == installation_id)
        await session.exec(wanted.values(rotation_wanted=True, due_at=func.now()))
    await schedule.ensure_webhook(resources, installation_id)
    waits = select(Webhook.rotation_wanted).where(col(Webhook.installation_id) == installation_id)
    async with resources.database.session() as session:
        return (await session.exec(waits)).first() is False


async def delete_retired(resources: Resources) -> None:
    """Chore: delete the retired webhooks that are due at Aircall, and forget those deleted a while ago."""
    async with resources.database.session() as session:
        await session.exec(
            delete(RetiredWebhook).where(col(RetiredWebhook.deleted_at).is_not(None), leases.is_due(RetiredWebhook))
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
        # A dead token deletes nothing; where it is dead for good, Aircall no longer has webhooks of ours.
        logger.warning("retired webhook not deleted", installation_id=installation.id, reason=str(refused))
    except tokens.ASKING_ERRORS as error:
        await _put_off(resources, retired, error)
        return
    await _note_deleted(resources, retired)


async def _note_deleted(resources: Resources, retired: RetiredWebhook) -> None:
    gone = update(RetiredWebhook).where(col(RetiredWebhook.webhook_id) == retired.webhook_id)
    async with resources.database.session() as session:
        noted = (await session.exec(gone.values(deleted_at=func.now(), due_at=func.now() + FORGOTTEN_AFTER))).rowcount
        if not noted:
            # The installation ended meanwhile. If it came back, it may have taken this very webhook into use.
            reconcile_now = update(Webhook).where(col(Webhook.installation_id) == retired.installation_id)
            await session.exec(reconcile_now.where(col(Webhook.due_at).is_not(None)).values(due_at=func.now()))


async def _put_off(resources: Resources, retired: RetiredWebhook, error: Exception) -> None:
    reason = str(error) or "timeout"
    logger.warning("retired webhook not deleted yet", installation_id=retired.installation_id, reason=reason)
    pause = leases.backoff(retired.attempts, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
    async with resources.database.session() as session:
        await leases.put_off(session, retired, pause)
