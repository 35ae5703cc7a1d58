"""Lifecycle of an installation: connected, unauthorized, revived, removed, for all rooms that need these changes.

A token is permanent and never announces its own end: a refusal by Aircall is the only sign. So every room that is
refused reports it, and the installation's status is changed here.
"""

from datetime import timedelta
from enum import StrEnum, auto
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.events import store
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import (
    Claim,
    Farewell,
    Gap,
    Installation,
    RetiredWebhook,
    Uninstall,
    Webhook,
)
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.statuses import InstallationStatus, WebhookStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# A request to Aircall to switch an integration off takes less, however it ends.
SWITCHING_OFF = timedelta(seconds=90)
# A flow or a claim switches the integration on at once; after this the worker makes sure of it.
SWITCHED_ON_AFTER = timedelta(seconds=30)


class TokenState(StrEnum):
    """What probing a token found."""

    ALIVE = auto()
    DEAD = auto()
    FOREIGN = auto()  # it answers for another company or integration
    UNCERTAIN = auto()  # Aircall is away or says neither yes nor no, or there is no token to ask with


def for_change(
    installations: SelectOfScalar[Installation], *, skip_locked: bool = False
) -> SelectOfScalar[Installation]:
    """Add a row lock to a query for installations.

    A transaction that changes an installation, or what belongs to it, locks the installation first. So two transactions
    meet there and never deadlock: none holds a webhook, a gap or a claim that the other waits for. The lock is FOR NO
    KEY UPDATE: adding a row that refers to the installation does not wait for it.
    """
    return installations.with_for_update(key_share=True, skip_locked=skip_locked)


async def lock(session: AsyncSession, installation_id: str) -> None:
    """Lock an installation before changing rows that belong to it."""
    await session.exec(for_change(select(Installation).where(col(Installation.id) == installation_id)))


async def note_switching_off(session: AsyncSession, *installation_ids: str) -> None:
    """Record that Aircall is about to be told to switch these integrations off. The caller has locked their rows.

    Commit before telling Aircall: then a customer that comes back meanwhile is switched on again afterwards, even if
    the process that switched off is killed.
    """
    over_at = func.now() + SWITCHING_OFF
    about_to_be_off = update(Installation).where(col(Installation.id).in_(installation_ids))
    await session.exec(about_to_be_off.values(switch_on_at=over_at))


async def mark_unauthorized(resources: Resources, installation: Installation, state: TokenState) -> None:
    """Mark an active installation `unauthorized`, with its event, unless its token was renewed meanwhile."""
    if state == TokenState.FOREIGN:
        logger.error("a token answers for another company", alarm=True, installation_id=installation.id)
    ended = (
        update(Installation)
        .where(_same(installation), col(Installation.status) == InstallationStatus.ACTIVE)
        .values(status=InstallationStatus.UNAUTHORIZED)
        .returning(Installation)
    )
    async with resources.database.session() as session:
        changed = (await session.exec(ended)).scalars().first()
        if changed is not None:
            await store.append(session, changed, "installation.unauthorized", {"token": str(state)})
            logger.warning("installation unauthorized", installation_id=installation.id, token_is=str(state))


async def revive(resources: Resources, installation: Installation) -> bool:
    """Make an `unauthorized` installation active again, once Aircall accepts its token. Returns whether it was."""
    revived = (
        update(Installation)
        .where(_same(installation), col(Installation.status) == InstallationStatus.UNAUTHORIZED)
        .values(status=InstallationStatus.ACTIVE)
        .returning(Installation)
    )
    async with resources.database.session() as session:
        changed = (await session.exec(revived)).scalars().first()
        if changed is None:
            return False
        await session.exec(_webhook_wanted(changed))
        await store.append(session, changed, "installation.connected", {"company_name": changed.company_name})
    logger.info("installation authorized again", installation_id=installation.id)
    return True


async def keep_facts(
    resources: Resources, installation: Installation, integration: Integration, company_name: str | None = None
) -> bool:
    """Keep the facts that Aircall tells about an installation, with an event if they changed. Returns whether they did.

    Nothing is kept if the token was renewed since Aircall was asked. Facts that Aircall left out stay as they were.
    """
    async with resources.database.session() as session:
        now_there = (await session.exec(for_change(select(Installation).where(_same(installation))))).first()
        if now_there is None:
            return False
        if now_there.integration_id is None and not await _is_known(session, integration.id):
            now_there.integration_id = integration.id
        before = _facts(now_there)
        if set(integration.number_ids) != set(now_there.number_ids):
            now_there.number_ids = integration.number_ids
        now_there.company_name = company_name or now_there.company_name
        if integration.active is not None:
            now_there.integration_active = integration.active
        if _facts(now_there) == before:
            return False
        await store.append(session, now_there, "installation.changed", _facts(now_there))
    logger.info("installation changed", installation_id=installation.id)
    return True


async def connect(session: AsyncSession, installation: Installation) -> None:
    """Make an installation active with the token it has: its webhook is made due, uninstalls and farewells dropped.

    Appends an event, so call it last in the session's transaction.
    """
    installation.status = InstallationStatus.ACTIVE
    # If it is off, it is switched on next.
    installation.integration_active = True
    installation.connected_at = now()
    session.add(installation)
    await session.flush()
    await session.exec(_webhook_wanted(installation))
    await session.exec(delete(Uninstall).where(col(Uninstall.installation_id) == installation.id))
    await session.exec(delete(Farewell).where(col(Farewell.installation_id) == installation.id))
    make_sure_at = func.coalesce(col(Installation.switch_on_at), func.now() + SWITCHED_ON_AFTER)
    is_wanted = update(Installation).where(col(Installation.id) == installation.id)
    await session.exec(is_wanted.values(switch_on_at=make_sure_at))
    await store.append(session, installation, "installation.connected", {"company_name": installation.company_name})


async def remove(session: AsyncSession, installation: Installation, *, reason: str) -> None:
    """End an installation, with its event. The caller has locked its row."""
    await erase(session, installation)
    await store.append(session, installation, "installation.removed", {"reason": reason})


async def erase(session: AsyncSession, installation: Installation) -> None:
    """Delete token, claims and gaps, and forget the webhook: its events are no longer recognised."""
    installation.status = InstallationStatus.REMOVED
    installation.token_sealed = installation.token_fingerprint = None
    session.add(installation)
    await session.exec(delete(Claim).where(col(Claim.installation_id) == installation.id))
    await session.exec(delete(Uninstall).where(col(Uninstall.installation_id) == installation.id))
    await session.exec(delete(RetiredWebhook).where(col(RetiredWebhook.installation_id) == installation.id))
    # Missed events are not back-filled: a customer that comes back later did not mean the time in between.
    await session.exec(delete(Gap).where(col(Gap.installation_id) == installation.id))
    retired = update(Webhook).where(col(Webhook.installation_id) == installation.id)
    await session.exec(
        retired.values(
            status=WebhookStatus.MISSING, webhook_id=None, token_fingerprint=None, due_at=None, leased_until=None
        )
    )


def is_of(integration: Integration, installation: Installation) -> bool:
    """Return whether what Aircall told is about this installation."""
    same_integration = integration.id is None or installation.integration_id in {None, integration.id}
    return integration.company_id == installation.company_id and same_integration


async def _is_known(session: AsyncSession, integration_id: int | None) -> bool:
    """Return whether an installation has this integration's id already."""
    another = select(Installation.id).where(col(Installation.integration_id) == integration_id)
    return (await session.exec(another)).first() is not None


def _facts(installation: Installation) -> dict[str, Any]:
    return {
        "company_name": installation.company_name,
        "number_ids": installation.number_ids,
        "integration_active": installation.integration_active,
    }


def _same(installation: Installation) -> ColumnElement[bool]:
    """Match the installation while its token is still the one that was read."""
    return and_(
        col(Installation.id) == installation.id,
        col(Installation.token_fingerprint) == installation.token_fingerprint,
    )


def _webhook_wanted(installation: Installation) -> Any:
    """Return a statement that makes the installation's webhook due now, and adds its row where there is none.

    A registered webhook is still recognised meanwhile. One reported as off keeps that status until it is reported as
    on again.
    """
    reported_off = and_(
        col(Webhook.webhook_id).is_not(None), col(Webhook.status).in_([WebhookStatus.DISABLED, WebhookStatus.MISSING])
    )
    due_now = {"due_at": func.now(), "attempts": 0, "last_error": None, "refused_at": None}
    return (
        insert(Webhook)
        .values(id=new_id("whk"), installation_id=installation.id, status=WebhookStatus.PENDING, **due_now)
        .on_conflict_do_update(
            index_elements=["installation_id"],
            set_={"status": case((reported_off, col(Webhook.status)), else_=WebhookStatus.PENDING.value), **due_now},
        )
    )
