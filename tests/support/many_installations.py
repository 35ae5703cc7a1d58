"""Many installations at once, which no front door could take in as fast."""

import asyncpg

from aircall_oauth.sandbox.aircall import Webhook
from aircall_oauth.sandbox.aircall.companies import Company, Integration
from aircall_oauth.sandbox.aircall.grants import Token
from aircall_oauth.storage.sealed import TOKEN_COLUMN, TOKEN_PURPOSE, WEBHOOK_TOKEN_PURPOSE
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.vault import SealedAt
from tests.support.service import Service

FIRST_COMPANY = 100_000
INSTALLATIONS = """
    INSERT INTO installation (id, status, company_id, integration_id, company_name, number_ids, token_sealed,
        token_fingerprint, connected_at)
    VALUES ($1, 'active', $2, $2, 'Demo', ARRAY[55010], $3, $4, $5)
"""
WEBHOOKS = """
    INSERT INTO webhook (id, installation_id, status, webhook_id, token_fingerprint, checked_at, thorough_at, due_at)
    VALUES ($1, $2, 'active', $3, $4, $5, $5, $5)
"""


async def install_many(service: Service, count: int) -> None:
    """So many installations, each with its token and its webhook, here and at Aircall."""
    vault, aircall, at = service.resources.vault, service.aircall, now()
    installations, webhooks = [], []
    for number in range(count):
        company, installation_id, token = FIRST_COMPANY + number, f"ins_{number:032x}", f"{number:040x}"
        integration = Integration(company, [55010])
        aircall.companies.append(Company(company, "Demo", 1, {55010: "Desk"}, integration))
        aircall.grants.tokens[token] = Token(token, company, 0)
        hook = our_webhook(service, company)
        sealed = vault.seal(token, SealedAt(TOKEN_COLUMN, installation_id))
        installations.append((installation_id, company, sealed, vault.fingerprint(token, TOKEN_PURPOSE), at))
        fingerprint = vault.fingerprint(hook.token, WEBHOOK_TOKEN_PURPOSE)
        webhooks.append((f"whk_{number:032x}", installation_id, hook.webhook_id, fingerprint, at))
    connection = await asyncpg.connect(service.settings.database_url.get_secret_value())
    await connection.executemany(INSTALLATIONS, installations)
    await connection.executemany(WEBHOOKS, webhooks)
    await connection.close()


def our_webhook(service: Service, company: int) -> Webhook:
    request = {"url": service.settings.webhook_url, "custom_name": service.settings.webhook_name}
    return service.aircall.webhooks.create(company, request, service.aircall.clock())
