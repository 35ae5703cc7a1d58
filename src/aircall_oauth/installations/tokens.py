"""The access token of an installation: probe it, doubt it, renew it, read it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from pydantic import SecretStr
from sqlmodel import col, select

from aircall_oauth.aircall import budget
from aircall_oauth.aircall.client import counted
from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.errors import AircallBusy, AircallError, AircallRefused, BudgetSpent, DatabaseAway, SealError
from aircall_oauth.installations.lifecycle import Look, is_of, keep_facts, mark_unauthorized
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import (
    Installation,
    InstallationStatus,
)
from aircall_oauth.storage.models.sealed import TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.vault import SealedAt
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Asker

logger = log.get(__name__)

LOOK_SECONDS = 15.0

# Why Aircall could not be asked, or did not do what it was asked. A token that does not open is among them: the vault
# has raised the alarm, and nobody else is held up by it.
NotNow = (AircallError, BudgetSpent, SealError, TimeoutError)

# What Aircall answers to a token it does not know (any more). It never means a missing permission: there are none.
DEAD_TOKEN = {401, 403}


async def look(
    resources: Resources, installation: Installation, *, chore: bool = True
) -> tuple[Look, Integration | None]:
    """Ask Aircall about an installation's token, and what it tells of the integration."""
    try:
        async with (
            within_budget(resources, installation.company_id, chore=chore),
            asyncio.timeout(LOOK_SECONDS),
        ):
            integration = await resources.aircall.integration(token_of(resources, installation))
    except AircallRefused as refused:
        return (Look.DEAD if refused.aircall_status in DEAD_TOKEN else Look.UNCERTAIN), None
    except NotNow:
        return Look.UNCERTAIN, None
    return (Look.ALIVE if is_of(integration, installation) else Look.FOREIGN), integration


async def suspect_token(resources: Resources, installation_id: str, *, chore: bool = True) -> bool:
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
    found, _ = await look(resources, installation, chore=chore)
    if found in {Look.DEAD, Look.FOREIGN}:
        await mark_unauthorized(resources, installation, found)
        return True
    return False


async def refresh(resources: Resources, installation_id: str) -> bool:
    """Bring up to date what Aircall tells of an installation, and switch its integration on where it is off.

    Returns whether it is on. A token that answers for another company or integration than before is not used any
    further.
    """
    async with resources.database.session() as session:
        installation = await session.get(Installation, installation_id)
    if installation is None or installation.status != InstallationStatus.ACTIVE:
        return False
    found, integration = await look(resources, installation)
    if found in {Look.DEAD, Look.FOREIGN}:
        await mark_unauthorized(resources, installation, found)
    if found != Look.ALIVE or integration is None:
        return False
    if integration.active is False and await switch_on(resources, installation):
        integration = integration.model_copy(update={"active": True})
    await keep_facts(resources, installation, integration)
    return integration.active is not False


async def switch_on(resources: Resources, installation: Installation) -> bool:
    """Somebody wants his integration on: who came back after he had left, or who asks for a check. Whether it is."""
    try:
        async with within_budget(resources, installation.company_id, chore=False):
            await resources.aircall.enable_integration(token_of(resources, installation))
    except NotNow as error:
        logger.warning("integration not switched on", installation_id=installation.id, reason=str(error))
        return False
    return True


@asynccontextmanager
async def within_budget(
    resources: Resources, company_id: int, *, calls: int = 1, chore: bool = True
) -> AsyncIterator[None]:
    """Ask Aircall within the company's budget, a chore within the chores' part of it; raises `BudgetSpent` instead.

    What is asked beyond `calls`, because Aircall failed and was asked again, is counted too, afterwards.
    """
    per_minute = resources.settings.aircall_rate_per_minute
    with refusals_counted(resources, chore=chore):
        await budget.draw(resources.database, company_id, per_minute=per_minute, chore=chore, calls=calls)
    with counted() as sent:
        try:
            yield
        except AircallBusy as busy:
            told = budget.Told(0, busy.retry_after_seconds)
            await budget.correct(resources.database, company_id, told, per_minute=per_minute)
            raise
        finally:
            if sent.requests > calls:
                with suppress(DatabaseAway):
                    await budget.spend(resources.database, company_id, calls=sent.requests - calls)


@contextmanager
def refusals_counted(resources: Resources, *, chore: bool = False) -> Iterator[None]:
    """Draw from a budget, and have it counted where the budget refuses."""
    try:
        yield
    except BudgetSpent:
        resources.metrics.budget_refused(Asker.CHORE if chore else Asker.CALLER)
        raise


def token_of(resources: Resources, installation: Installation) -> SecretStr:
    assert installation.token_sealed is not None
    return resources.vault.open(installation.token_sealed, SealedAt(TOKEN_COLUMN, installation.id))


def keep_token(resources: Resources, installation: Installation, token: SecretStr) -> None:
    installation.token_sealed = resources.vault.seal(token, SealedAt(TOKEN_COLUMN, installation.id))
    installation.token_fingerprint = resources.vault.fingerprint(token, TOKEN_PURPOSE)
