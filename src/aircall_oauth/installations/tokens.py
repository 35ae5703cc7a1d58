"""The access token of an installation: probe it, suspect it, seal and open it, and ask Aircall within the budget."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from pydantic import SecretStr
from sqlmodel import col, select

from aircall_oauth.aircall import budget
from aircall_oauth.aircall.counting import counted
from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.errors import AircallBusy, AircallError, AircallRefused, BudgetSpent, DatabaseAway, SealError
from aircall_oauth.installations.lifecycle import TokenState, is_of, keep_facts, mark_unauthorized
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Installation
from aircall_oauth.storage.sealed import TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.statuses import InstallationStatus
from aircall_oauth.storage.vault import SealedAt
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Asker

logger = log.get(__name__)

PROBE_SECONDS = 15.0

# What asking Aircall for an installation may raise. A sealed token that does not open is among them: the vault has
# raised the alarm already, and the other installations must not be held up.
ASKING_ERRORS = (AircallError, BudgetSpent, SealError, TimeoutError)

# The statuses with which Aircall refuses a token it does not know (any more). They never mean a missing permission:
# Aircall has none.
DEAD_TOKEN = {401, 403}


async def probe_token(
    resources: Resources, installation: Installation, *, chore: bool = True
) -> tuple[TokenState, Integration | None]:
    """Ask Aircall with an installation's token. Returns the token's state, and the integration where it answered."""
    try:
        async with (
            within_budget(resources, installation.company_id, chore=chore),
            asyncio.timeout(PROBE_SECONDS),
        ):
            integration = await resources.aircall.integration(token_of(resources, installation))
    except AircallRefused as refused:
        return (TokenState.DEAD if refused.aircall_status in DEAD_TOKEN else TokenState.UNCERTAIN), None
    except ASKING_ERRORS:
        return TokenState.UNCERTAIN, None
    return (TokenState.ALIVE if is_of(integration, installation) else TokenState.FOREIGN), integration


async def suspect_token(resources: Resources, installation_id: str, *, chore: bool = True) -> bool:
    """Probe a token that Aircall refused, and mark the installation `unauthorized` if it is refused again.

    Returns whether the token is dead. The event log gets one event, however many processes suspect the token at once;
    a token renewed meanwhile is left alone.
    """
    suspected = select(Installation).where(
        col(Installation.id) == installation_id, col(Installation.status) == InstallationStatus.ACTIVE
    )
    async with resources.database.session() as session:
        installation = (await session.exec(suspected)).first()
    if installation is None:
        return True
    state, _ = await probe_token(resources, installation, chore=chore)
    if state in {TokenState.DEAD, TokenState.FOREIGN}:
        await mark_unauthorized(resources, installation, state)
        return True
    return False


async def refresh(resources: Resources, installation_id: str) -> bool:
    """Keep the newest facts about an active installation, and switch its integration on if it is off.

    Returns whether the integration is on. A token that answers for another company or integration than before marks
    the installation `unauthorized`.
    """
    async with resources.database.session() as session:
        installation = await session.get(Installation, installation_id)
    if installation is None or installation.status != InstallationStatus.ACTIVE:
        return False
    state, integration = await probe_token(resources, installation)
    if state in {TokenState.DEAD, TokenState.FOREIGN}:
        await mark_unauthorized(resources, installation, state)
    if state != TokenState.ALIVE or integration is None:
        return False
    if integration.active is False and await switch_on(resources, installation):
        integration = integration.model_copy(update={"active": True})
    await keep_facts(resources, installation, integration)
    return integration.active is not False


async def switch_on(resources: Resources, installation: Installation) -> bool:
    """Switch the integration on at Aircall. Returns whether it is on."""
    try:
        async with within_budget(resources, installation.company_id, chore=False):
            await resources.aircall.enable_integration(token_of(resources, installation))
    except ASKING_ERRORS as error:
        logger.warning("integration not switched on", installation_id=installation.id, reason=str(error))
        return False
    return True


@asynccontextmanager
async def within_budget(
    resources: Resources, company_id: int, *, calls: int = 1, chore: bool = True
) -> AsyncIterator[None]:
    """Draw `calls` from the company's budget, chores from the part left to them, and run the block.

    Requests beyond `calls`, made because Aircall failed and was asked again, are charged afterwards. Raises
    `BudgetSpent` where the budget does not suffice.
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
    """Count it in the metrics when the budget refuses a draw within the block."""
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
