"""API keys over several replicas, and what they leave in the audit."""

from datetime import timedelta

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.resources import open_resources
from tests.support.service import Service, run_service


async def test_a_key_revoked_anywhere_is_refused_everywhere_with_the_next_request(service: Service) -> None:
    key = await keys.create(service.resources, name="shared", scopes=[Scope.EVENTS_READ])
    headers = {"authorization": f"Bearer {key}"}
    async with run_service(service.settings) as replica, open_resources(service.settings) as operator:
        before = [await each.browser.get("/v1/events", headers=headers) for each in (service, replica)]

        assert await keys.revoke(operator, "shared") == 1
        after = [await each.browser.get("/v1/events", headers=headers) for each in (service, replica)]

    assert [answer.status_code for answer in (*before, *after)] == [200, 200, 401, 401]


async def test_making_and_revoking_a_key_is_in_the_audit(service: Service) -> None:
    for name in ("one", "two", "one"):
        await keys.create(service.resources, name=name, scopes=[Scope.EVENTS_READ], lifetime=timedelta(days=1))

    assert await keys.revoke(service.resources, "one") == 2
    assert await keys.revoke(service.resources, "one") == 0

    lines = await service.sql("SELECT actor, action FROM audit ORDER BY id")
    assert [tuple(line) for line in lines] == [
        *[("operator", "api_key.created")] * 3,
        *[("operator", "api_key.revoked")] * 2,
    ]
