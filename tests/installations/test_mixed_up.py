"""Answers of Aircall that do not fit together are refused by name, change nothing, and are never a fault of ours."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stamina

from tests.support.scenes import COMPANY, OTHER_COMPANY
from tests.support.service import Service


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


async def install(service: Service, company: int) -> httpx.Response:
    state = await service.begin()
    return await service.return_with(state=state, code=service.aircall.grant(company, state=state))


def integration_of(service: Service, company: int) -> Any:
    (found,) = [one.integration for one in service.aircall.companies if one.id == company]
    return found


async def rows(service: Service) -> list[dict[str, Any]]:
    return [dict(row) for row in await service.sql("SELECT * FROM installation ORDER BY id")]


async def test_an_integration_known_from_another_company_is_refused_by_name(service: Service) -> None:
    await service.install(COMPANY)
    before = await rows(service)
    integration_of(service, OTHER_COMPANY).id = integration_of(service, COMPANY).id

    answers = [await install(service, OTHER_COMPANY) for _ in range(2)]

    for answer in answers:
        assert (answer.status_code, "do not fit together" in answer.text) == (502, True)
    assert await rows(service) == before
    (kept,) = await service.sql("SELECT DISTINCT status, ending FROM flow WHERE status <> 'connected'")
    assert tuple(kept) == ("ended", "token_mixed_up")


async def test_an_integration_that_moved_is_adopted_once_its_old_installation_has_ended(service: Service) -> None:
    installation_id = await service.install(COMPANY)
    partner = await service.partner()
    await partner.delete(f"/v1/installations/{installation_id}")
    integration_of(service, OTHER_COMPANY).id = integration_of(service, COMPANY).id

    answer = await install(service, OTHER_COMPANY)

    (row,) = await rows(service)
    assert answer.status_code == 303
    assert (row["id"], row["company_id"], row["status"], row["owner"]) == (
        installation_id,
        OTHER_COMPANY,
        "active",
        None,
    )


async def test_an_integration_id_that_is_told_late_and_is_anothers_is_not_kept(service: Service) -> None:
    await service.install(COMPANY)
    service.aircall.habits.hide_integration_id = True
    installation_id = await service.install(OTHER_COMPANY)
    service.aircall.habits.hide_integration_id = False
    integration_of(service, OTHER_COMPANY).id = integration_of(service, COMPANY).id

    partner = await service.partner()
    checked = await partner.post(f"/v1/installations/{installation_id}/check")
    answer = await install(service, OTHER_COMPANY)

    assert (checked.status_code, checked.json()["installation"]["integration_id"]) == (200, None)
    assert (answer.status_code, "do not fit together" in answer.text) == (502, True)


async def test_two_webhooks_with_one_token_are_not_taken_into_use_both(service: Service) -> None:
    await service.install(COMPANY)
    (first,) = service.aircall.webhooks.of(COMPANY)
    request = {"url": service.settings.webhook_url, "custom_name": service.settings.webhook_name}
    service.aircall.webhooks.create(OTHER_COMPANY, request, service.aircall.clock()).token = first.token

    answer = await install(service, OTHER_COMPANY)

    assert answer.status_code == 303, "it is connected; its webhook is still to come"
    kept = await service.sql("""
        SELECT company_id, w.status, w.webhook_id, w.last_error FROM webhook w JOIN installation i
        ON i.id = w.installation_id ORDER BY company_id
    """)
    assert [tuple(row) for row in kept] == [
        (COMPANY, "active", first.webhook_id, None),
        (OTHER_COMPANY, "pending", None, "Aircall is unavailable: the webhook's token is another webhook's"),
    ]
