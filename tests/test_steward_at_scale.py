"""A thousand installations, with Aircall counting sixty requests a minute for each company."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from aircall_oauth.installations import retiring, upkeep
from aircall_oauth.models import TOKEN_COLUMN, TOKEN_PURPOSE, WEBHOOK_TOKEN_PURPOSE, now
from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.aircall import Webhook
from aircall_oauth.sandbox.aircall import create_app as create_aircall_app
from aircall_oauth.sandbox.aircall.companies import Company, Integration
from aircall_oauth.sandbox.aircall.grants import Token
from aircall_oauth.vault import Place
from tests.fakes import Service, run_service, settings_for

MANY = 1000
FIRST_COMPANY = 100_000
LIMIT = 60
WORKERS = 2
INSTALLATIONS = """
    INSERT INTO installation (id, status, company_id, integration_id, company_name, number_ids, token_sealed,
        token_fingerprint, connected_at)
    VALUES ($1, 'active', $2, $2, 'Demo', ARRAY[55010], $3, $4, $5)
"""
WEBHOOKS = """
    INSERT INTO webhook (id, installation_id, status, webhook_id, token_fingerprint, checked_at, thorough_at, due_at)
    VALUES ($1, $2, 'active', $3, $4, $5, $5, $5)
"""


@pytest.fixture
async def busy(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, AIRCALL_RATE_PER_MINUTE=str(LIMIT))) as service:
        service.aircall.habits.rate_per_minute = LIMIT
        await install_many(service)
        yield service


async def install_many(service: Service) -> None:
    """So many installations, each with its token and its webhook, here and at Aircall."""
    vault, aircall, at = service.resources.vault, service.aircall, now()
    installations, webhooks = [], []
    for number in range(MANY):
        company, installation_id, token = FIRST_COMPANY + number, f"ins_{number:032x}", f"{number:040x}"
        integration = Integration(company, [55010])
        aircall.companies.append(Company(company, "Demo", 1, {55010: "Desk"}, integration))
        aircall.grants.tokens[token] = Token(token, company, 0)
        hook = our_webhook(service, company)
        sealed = vault.seal(token, Place(TOKEN_COLUMN, installation_id))
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


async def look_at_all(service: Service) -> None:
    """All due, and several workers."""
    await service.sql("UPDATE webhook SET due_at = now() WHERE due_at IS NOT NULL")
    await asyncio.gather(*(a_worker(service) for _ in range(WORKERS)))


async def a_worker(service: Service) -> None:
    """Another process, as far as the database and Aircall can tell."""
    to_aircall = httpx.ASGITransport(create_aircall_app(service.aircall))
    async with open_resources(service.settings, aircall_transport=to_aircall) as resources:
        await upkeep.look_after_webhooks(resources)


async def count(service: Service, statement: str) -> dict[str, int]:
    return {row[0]: row[1] for row in await service.sql(statement)}


async def test_a_thousand_installations_are_looked_after_within_every_companys_minute(busy: Service) -> None:
    of_company = {hook.company_id: hook for hook in busy.aircall.webhooks.all}
    off, gone, doubled, dead, changed = (range(start, MANY, 20) for start in range(5))
    for number in off:
        of_company[FIRST_COMPANY + number].switch(active=False)
    for number in gone:
        busy.aircall.webhooks.all.remove(of_company[FIRST_COMPANY + number])
    for number in doubled:
        our_webhook(busy, FIRST_COMPANY + number)
        await busy.sql("UPDATE webhook SET thorough_at = NULL WHERE id = $1", f"whk_{number:032x}")
    for number in dead:
        busy.aircall.grants.revoke_company(FIRST_COMPANY + number)
    for number in changed:
        of_company[FIRST_COMPANY + number].events = ["call.ended"]

    await look_at_all(busy)
    await busy.sql("UPDATE webhook SET refused_at = refused_at - interval '3 minutes' WHERE refused_at IS NOT NULL")
    await busy.sql("UPDATE webhook SET due_at = now() + interval '1 hour' WHERE refused_at IS NULL")
    await busy.sql("UPDATE webhook SET due_at = now() WHERE refused_at IS NOT NULL")
    await upkeep.look_after_webhooks(busy.resources)
    for _ in range(len(doubled) // retiring.BATCH + 1):
        await retiring.delete_retired(busy.resources)

    living = MANY - len(dead)
    hooks = Counter(hook.company_id for hook in busy.aircall.webhooks.all)
    assert await count(busy, "SELECT status, count(*) FROM installation GROUP BY 1") == {
        "active": living,
        "unauthorized": len(dead),
    }
    assert await count(busy, "SELECT type, count(*) FROM event GROUP BY 1") == {
        "webhook.disabled": len(off) + len(gone),
        "webhook.restored": len(off) + len(gone),
        "installation.unauthorized": len(dead),
    }
    assert await count(busy, "SELECT status, count(*) FROM webhook GROUP BY 1") == {"active": MANY}
    assert set(hooks.values()) == {1}
    assert all(hook.active and len(hook.events) > 1 for hook in busy.aircall.webhooks.all)
    asked = Counter(request.company_id for request in busy.aircall.requests if request.company_id is not None)
    assert {request.status for request in busy.aircall.requests} <= {200, 201, 204, 403, 404}
    assert max(asked.values()) <= LIMIT // 2
    well = set(range(MANY)) - {number for odd in (off, gone, doubled, dead, changed) for number in odd}
    assert {asked[FIRST_COMPANY + number] for number in well} == {1}
