"""Where an installation stands: the verbs of its table that more than one room needs.

A token is permanent and says nothing of its own end, so an installation is doubted by whoever is refused with it, and
what it is then is found out here, once for all rooms.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum, auto
from typing import Any

from pydantic import SecretStr
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth import eventlog, log
from aircall_oauth.aircall import budget
from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.errors import AircallBusy, AircallError, AircallRefused, BudgetSpent
from aircall_oauth.models import (
    TOKEN_COLUMN,
    TOKEN_PURPOSE,
    Claim,
    Farewell,
    Gap,
    Installation,
    InstallationStatus,
    Uninstall,
    Webhook,
    WebhookStatus,
    new_id,
    now,
)
from aircall_oauth.resources import Resources
from aircall_oauth.vault import Place

logger = log.get(__name__)

LOOK_SECONDS = 15.0
# What Aircall answers to a token it does not know (any more). It never means a missing permission: there are none.
DEAD_TOKEN = {401, 403}


class Look(StrEnum):
    """What a look at a token came to."""

    ALIVE = auto()
    DEAD = auto()
    FOREIGN = auto()  # it answers for another company or integration
    UNCERTAIN = auto()  # Aircall is away, or says neither yes nor no


async def look(resources: Resources, installation: Installation) -> tuple[Look, Integration | None]:
    """Ask Aircall about an installation's token, and what it tells of the integration."""
    try:
        async with within_budget(resources, installation.company_id), asyncio.timeout(LOOK_SECONDS):
            integration = await resources.aircall.integration(token_of(resources, installation))
    except AircallRefused as refused:
        return (Look.DEAD if refused.aircall_status in DEAD_TOKEN else Look.UNCERTAIN), None
    except (AircallError, BudgetSpent, TimeoutError):
        return Look.UNCERTAIN, None
    return (Look.ALIVE if _is_of(integration, installation) else Look.FOREIGN), integration


async def suspect_token(resources: Resources, installation_id: str) -> bool:
    """Aircall refused an installation's token: ask once more, and where that is refused too, it is `unauthorized`.

    Whether it is dead. However many suspect at once, the log tells it once; a token renewed meanwhile is not touched.
    """
    suspected = select(Installation).where(
        col(Installation.id) == installation_id, col(Installation.status) == InstallationStatus.ACTIVE
    )
    async with resources.database.session() as session:
        installation = (await session.exec(suspected)).first()
    if installation is None:
        return True
    found, _ = await look(resources, installation)
    if found in {Look.DEAD, Look.FOREIGN}:
        await _mark_unauthorized(resources, installation, found)
        return True
    return False


async def refresh(resources: Resources, installation_id: str) -> None:
    """Bring up to date what Aircall tells of an installation, and switch its integration on where it is off.

    A token that answers for another company or integration than before is not used any further.
    """
    async with resources.database.session() as session:
        installation = await session.get(Installation, installation_id)
    if installation is None or installation.status != InstallationStatus.ACTIVE:
        return
    found, integration = await look(resources, installation)
    if found in {Look.DEAD, Look.FOREIGN}:
        await _mark_unauthorized(resources, installation, found)
    elif integration is not None:
        await _keep_facts(resources, installation, integration)
        if integration.active is False:
            await switch_on(resources, installation)


async def switch_on(resources: Resources, installation: Installation) -> None:
    """An integration that was switched off when its customer left is switched on when he is back."""
    try:
        async with within_budget(resources, installation.company_id):
            await resources.aircall.enable_integration(token_of(resources, installation))
    except (AircallError, BudgetSpent) as error:
        logger.warning("integration not switched on", installation_id=installation.id, reason=str(error))


@asynccontextmanager
async def within_budget(resources: Resources, company_id: int, *, calls: int = 1) -> AsyncIterator[None]:
    """Ask Aircall within the chores' part of the company's budget; raises `BudgetSpent` instead of asking."""
    per_minute = resources.settings.aircall_rate_per_minute
    await budget.draw(resources.database, company_id, per_minute=per_minute, chore=True, calls=calls)
    try:
        yield
    except AircallBusy as busy:
        told = budget.Told(0, busy.retry_after_seconds)
        await budget.correct(resources.database, company_id, told, per_minute=per_minute)
        raise


async def connect(session: AsyncSession, installation: Installation) -> None:
    """Make an installation active with the token it has: its webhook is wanted, what was to end it is called off.

    Tells it in the log, so it comes last in the session's transaction.
    """
    installation.status = InstallationStatus.ACTIVE
    installation.connected_at = now()
    session.add(installation)
    await session.flush()
    await session.exec(_webhook_wanted(installation))
    await session.exec(delete(Uninstall).where(col(Uninstall.installation_id) == installation.id))
    await session.exec(delete(Farewell).where(col(Farewell.installation_id) == installation.id))
    await eventlog.append(session, installation, "installation.connected", {"company_name": installation.company_name})


async def remove(session: AsyncSession, installation: Installation, *, reason: str) -> None:
    """End an installation and tell it in the log. Whoever calls has its row locked."""
    await erase(session, installation)
    await eventlog.append(session, installation, "installation.removed", {"reason": reason})


async def erase(session: AsyncSession, installation: Installation) -> None:
    """Forget token and claims, and retire the webhook: its events are recognised no more."""
    installation.status = InstallationStatus.REMOVED
    installation.token_sealed = installation.token_fingerprint = None
    session.add(installation)
    await session.exec(delete(Claim).where(col(Claim.installation_id) == installation.id))
    await session.exec(delete(Uninstall).where(col(Uninstall.installation_id) == installation.id))
    # What was missed was not told; whoever comes back later did not mean the time between.
    await session.exec(delete(Gap).where(col(Gap.installation_id) == installation.id))
    retired = update(Webhook).where(col(Webhook.installation_id) == installation.id)
    await session.exec(
        retired.values(
            status=WebhookStatus.MISSING, webhook_id=None, token_fingerprint=None, due_at=None, leased_until=None
        )
    )


def token_of(resources: Resources, installation: Installation) -> SecretStr:
    assert installation.token_sealed is not None
    return resources.vault.open(installation.token_sealed, Place(TOKEN_COLUMN, installation.id))


def keep_token(resources: Resources, installation: Installation, token: SecretStr) -> None:
    installation.token_sealed = resources.vault.seal(token, Place(TOKEN_COLUMN, installation.id))
    installation.token_fingerprint = resources.vault.fingerprint(token, TOKEN_PURPOSE)


def _is_of(integration: Integration, installation: Installation) -> bool:
    same_integration = integration.id is None or installation.integration_id in {None, integration.id}
    return integration.company_id == installation.company_id and same_integration


async def _mark_unauthorized(resources: Resources, installation: Installation, found: Look) -> None:
    if found == Look.FOREIGN:
        logger.error("a token answers for another company", alarm=True, installation_id=installation.id)
    ended = (
        update(Installation)
        .where(
            col(Installation.id) == installation.id,
            col(Installation.status) == InstallationStatus.ACTIVE,
            col(Installation.token_fingerprint) == installation.token_fingerprint,
        )
        .values(status=InstallationStatus.UNAUTHORIZED)
        .returning(Installation)
    )
    async with resources.database.session() as session:
        changed = (await session.exec(ended)).scalars().first()
        if changed is not None:
            await eventlog.append(session, changed, "installation.unauthorized", {"token": str(found)})
            logger.warning("installation unauthorized", installation_id=installation.id, token_is=str(found))


async def _keep_facts(resources: Resources, installation: Installation, integration: Integration) -> None:
    """Only while the token is the one that was asked with."""
    same = update(Installation).where(
        col(Installation.id) == installation.id,
        col(Installation.token_fingerprint) == installation.token_fingerprint,
    )
    async with resources.database.session() as session:
        await session.exec(
            same.values(
                number_ids=integration.number_ids,
                integration_id=func.coalesce(Installation.integration_id, integration.id),
            )
        )


def _webhook_wanted(installation: Installation) -> Any:
    """The installation's webhook, to be looked at now. An older one goes on being recognised meanwhile."""
    look_now = {"status": WebhookStatus.PENDING, "due_at": func.now(), "attempts": 0, "last_error": None}
    return (
        insert(Webhook)
        .values(id=new_id("whk"), installation_id=installation.id, **look_now)
        .on_conflict_do_update(index_elements=["installation_id"], set_=look_now)
    )
