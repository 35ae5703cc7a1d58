"""Facts that Aircall tells about an installation besides its webhook: company, name, numbers, whether it is on."""

import asyncio

from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.lifecycle import TokenState
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Installation

# One for the integration, one for the company's name.
CALLS = 2
LEARN_SECONDS = 15.0


async def learn(resources: Resources, installation: Installation, *, chore: bool) -> tuple[Integration, bool]:
    """Ask Aircall for the facts and keep them. Returns the integration, and whether anything had changed.

    A token that answers for another company or integration than before marks the installation `unauthorized`. Raises
    what `Aircall` raises, `BudgetSpent`, and `TimeoutError`.
    """
    token = tokens.token_of(resources, installation)
    async with (
        tokens.within_budget(resources, installation.company_id, calls=CALLS, chore=chore),
        asyncio.timeout(LEARN_SECONDS),
    ):
        told = await resources.aircall.integration(token)
        company = await resources.aircall.company(token)
    if not lifecycle.is_of(told, installation):
        await lifecycle.mark_unauthorized(resources, installation, TokenState.FOREIGN)
        return told, False
    return told, await lifecycle.keep_facts(resources, installation, told, company.name)
