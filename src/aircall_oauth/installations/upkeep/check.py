"""Check an installation on request: token, integration, numbers, webhook; mend what can be mended."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from sqlmodel import col, select

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.errors import (
    AircallRefused,
    AircallUnavailable,
    CheckUnderWay,
    InstallationNotActive,
    InstallationNotFound,
)
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.upkeep import facts, leases, schedule
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Installation, Webhook
from aircall_oauth.storage.statuses import InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.2


class Token(StrEnum):
    """What Aircall says about an installation's token."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FOREIGN = "foreign"


class Code(StrEnum):
    """What a check can find: stable codes for programs to branch on."""

    TOKEN_REFUSED = "token_refused"
    TOKEN_FOREIGN = "token_foreign"
    TOKEN_ACCEPTED_AGAIN = "token_accepted_again"
    INTEGRATION_OFF = "integration_off"
    NO_NUMBERS = "no_numbers"
    FACTS_CHANGED = "facts_changed"
    WEBHOOK_NEW = "webhook_new"
    WEBHOOK_MISSING = "webhook_missing"
    WEBHOOK_DISABLED = "webhook_disabled"
    WEBHOOK_CHANGED = "webhook_changed"
    WEBHOOK_DOUBLED = "webhook_doubled"
    WEBHOOK_REFUSED = "webhook_refused"


@dataclass
class Check:
    """What a check found, each with whether it is mended."""

    token: Token
    found: list[tuple[Code, bool]] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether everything found is mended."""
        return all(mended for _, mended in self.found)


async def check(resources: Resources, key: Caller, who: Who, installation_id: str) -> Check:
    """Check an installation and mend what can be mended.

    Raises `InstallationNotFound`, `InstallationNotActive` (it is unclaimed or removed), `BudgetSpent`, `CheckUnderWay`,
    and `AircallUnavailable` where Aircall does not say enough.
    """
    installation = await _load(resources, key, who, installation_id)
    try:
        told, news = await facts.learn(resources, installation, chore=False)
    except AircallRefused as refused:
        if refused.aircall_status not in tokens.DEAD_TOKEN:
            raise
        return await _refused(resources, installation)
    except TimeoutError:
        raise AircallUnavailable("timeout") from None
    if not lifecycle.is_of(told, installation):
        return Check(Token.FOREIGN, [(Code.TOKEN_FOREIGN, False)])
    found = Check(Token.ACCEPTED)
    if installation.status == InstallationStatus.UNAUTHORIZED and await lifecycle.revive(resources, installation):
        found.found.append((Code.TOKEN_ACCEPTED_AGAIN, True))
    found.found += await _mend_facts(resources, installation, told, news=news)
    found.found += await _mend_webhook(resources, installation)
    return found


async def _load(resources: Resources, key: Caller, who: Who, installation_id: str) -> Installation:
    """Load the installation, and record the check in the audit."""
    mine = select(Installation).where(col(Installation.id) == installation_id, *key.sees(Installation))
    async with resources.database.session() as session:
        installation = (await session.exec(mine)).first()
        if installation is None:
            raise InstallationNotFound
        if installation.status not in schedule.KEPT_UP:
            raise InstallationNotActive
        await audit.record(
            session, who, Action.INSTALLATION_CHECKED, installation_id=installation.id, owner=installation.owner
        )
    return installation


async def _refused(resources: Resources, installation: Installation) -> Check:
    """Probe the token a second time at once, because a caller waits."""
    dead = await tokens.suspect_token(resources, installation.id, chore=False)
    if not dead:
        raise AircallUnavailable("it refuses the token now and then")
    return Check(Token.REFUSED, [(Code.TOKEN_REFUSED, False)])


async def _mend_facts(
    resources: Resources, installation: Installation, told: Integration, *, news: bool
) -> list[tuple[Code, bool]]:
    found = [(Code.FACTS_CHANGED, True)] if news else []
    if told.active is False:
        on = await tokens.switch_on(resources, installation)
        if on:
            await lifecycle.keep_facts(resources, installation, told.model_copy(update={"active": True}))
        found.append((Code.INTEGRATION_OFF, on))
    if not told.number_ids:
        # Only an admin can choose numbers, in Aircall's dashboard.
        found.append((Code.NO_NUMBERS, False))
    return found


async def _mend_webhook(resources: Resources, installation: Installation) -> list[tuple[Code, bool]]:
    webhook, installation = await _lease_webhook(resources, installation.id)
    try:
        odd = await schedule.reconcile_leased(resources, webhook, installation, chore=False)
    except AircallRefused as refused:
        logger.warning("webhook refused", installation_id=installation.id, reason=str(refused))
        return [(Code.WEBHOOK_REFUSED, False)]
    except TimeoutError:
        raise AircallUnavailable("timeout") from None
    return [(Code(oddity.value), True) for oddity in odd]


async def _lease_webhook(resources: Resources, installation_id: str) -> leases.Leased:
    """Lease the webhook, waiting until it is free. Raises `CheckUnderWay` after `WAIT_SECONDS`."""
    mine = col(Webhook.installation_id) == installation_id
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                if taken := await leases.take(resources, mine, statuses=[InstallationStatus.ACTIVE]):
                    return taken[0]
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise CheckUnderWay from None
