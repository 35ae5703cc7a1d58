"""What Aircall tells of an installation besides its webhook: whose token it is, its name, its numbers, its switch."""

import asyncio

from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.lifecycle import Look
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Installation

# Whose token it is, and the company's name.
CALLS = 2
LEARN_SECONDS = 15.0


async def learn(resources: Resources, installation: Installation, *, chore: bool) -> tuple[Integration, bool]:
    """Ask, and keep what changed; what Aircall told, and whether that was news.

    A token that answers for another company or integration than before is not used any further. Raises what `Aircall`
    raises, `BudgetSpent`, and `TimeoutError`.
    """
    token = tokens.token_of(resources, installation)
    async with (
        tokens.within_budget(resources, installation.company_id, calls=CALLS, chore=chore),
        asyncio.timeout(LEARN_SECONDS),
    ):
        told = await resources.aircall.integration(token)
        company = await resources.aircall.company(token)
    if not lifecycle.is_of(told, installation):
        await lifecycle.mark_unauthorized(resources, installation, Look.FOREIGN)
        return told, False
    return told, await lifecycle.keep_facts(resources, installation, told, company.name)
