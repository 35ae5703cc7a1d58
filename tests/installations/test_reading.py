"""What the partner's systems can read, with which API key, and what they never get to see."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from dirty_equals import IsDatetime, IsStr

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.storage.stamps import new_id
from tests.support.service import Service

ISO = IsDatetime(iso_string=True)
DOORS = {
    "/v1/installations": Scope.INSTALLATIONS_READ,
    f"/v1/installations/{new_id('ins')}": Scope.INSTALLATIONS_READ,
    f"/v1/installations/{new_id('ins')}/token": Scope.TOKENS_READ,
    "/v1/events": Scope.EVENTS_READ,
}


@pytest.fixture
async def installations(service: Service) -> list[str]:
    """Two installations, the first of the owner `acme`, the second of `globex`; their ids."""
    ids = [await service.install(company) for company in service.aircall.companies[:2]]
    for installation_id, owner in zip(ids, ("acme", "globex"), strict=True):
        await service.sql("UPDATE installation SET owner = $2 WHERE id = $1", installation_id, owner)
    return ids


async def test_an_installation_is_shown_with_its_webhook_and_no_secret(service: Service) -> None:
    installation_id = await service.installed()
    company, (webhook,) = service.aircall.companies[0], service.aircall.webhooks.of(service.aircall.companies[0].id)
    await service.post_event(_event(service.webhook_token()))

    answer = await (await service.partner(Scope.INSTALLATIONS_READ)).get(f"/v1/installations/{installation_id}")

    assert answer.status_code == 200
    assert answer.json() == {
        "id": installation_id,
        "status": "active",
        "owner": None,
        "company_id": company.id,
        "integration_id": company.integration.id,
        "company_name": company.name,
        "number_ids": company.integration.number_ids,
        "connected_at": ISO,
        "last_event_at": ISO,
        "webhook": {"status": "active", "webhook_id": webhook.webhook_id, "checked_at": ISO},
    }
    for secret in (webhook.token, *service.aircall.tokens_of(company)):
        assert secret not in answer.text


async def test_an_installation_that_had_no_event_yet_says_so(service: Service) -> None:
    installation_id = await service.installed()
    await service.sql("UPDATE webhook SET status = 'pending', webhook_id = NULL, checked_at = NULL")

    shown = (await (await service.partner()).get(f"/v1/installations/{installation_id}")).json()

    assert shown["last_event_at"] is None
    assert shown["webhook"] == {"status": "pending", "webhook_id": None, "checked_at": None}


async def test_installations_are_listed_page_by_page(service: Service, installations: list[str]) -> None:
    partner = await service.partner(Scope.INSTALLATIONS_READ)

    whole = (await partner.get("/v1/installations")).json()
    first = (await partner.get("/v1/installations", params={"limit": 1})).json()
    second = (await partner.get("/v1/installations", params={"limit": 1, "cursor": first["next"]})).json()

    assert _ids(whole) == sorted(installations)
    assert whole["next"] is None
    assert first["next"] == installations[0]
    assert first["items"] + second["items"] == whole["items"]
    assert second["next"] is None


async def test_installations_are_filtered_by_owner_and_status(service: Service, installations: list[str]) -> None:
    partner = await service.partner(Scope.INSTALLATIONS_READ)
    await service.sql("UPDATE installation SET status = 'unauthorized' WHERE id = $1", installations[1])

    async def found(**filters: str) -> list[str]:
        return _ids((await partner.get("/v1/installations", params=filters)).json())

    assert await found(owner="acme") == installations[:1]
    assert await found(owner="nobody") == []
    assert await found(owner="") == []
    assert await found(owner="' OR '1'='1") == []
    assert await found(status="active") == installations[:1]
    assert await found(status="unauthorized") == installations[1:]
    assert await found(status="removed") == []
    assert await found(owner="acme", status="unauthorized") == []


async def test_a_key_of_an_owner_sees_that_owner_only(service: Service, installations: list[str]) -> None:
    partner = await service.partner(owner="acme")

    listed = (await partner.get("/v1/installations")).json()
    of_another = (await partner.get("/v1/installations", params={"owner": "globex"})).json()
    own = await partner.get(f"/v1/installations/{installations[0]}")
    foreign = await partner.get(f"/v1/installations/{installations[1]}")
    foreign_token = await partner.get(f"/v1/installations/{installations[1]}/token")
    unknown = await partner.get(f"/v1/installations/{new_id('ins')}")

    assert _ids(listed) == installations[:1]
    assert _ids(of_another) == []
    assert own.status_code == 200
    assert [foreign.status_code, foreign_token.status_code] == [404, 404]
    assert _without_request_id(foreign) == _without_request_id(unknown)
    assert await service.sql("SELECT * FROM audit WHERE action NOT LIKE 'api_key.%'") == []


async def test_a_key_of_an_owner_sees_nothing_that_has_no_owner(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner(owner="acme")

    assert _ids((await partner.get("/v1/installations")).json()) == []
    assert (await partner.get(f"/v1/installations/{installation_id}")).status_code == 404
    assert (await partner.get("/v1/events")).json() == {"events": [], "next": 1, "more": False, "epoch": IsStr()}


async def test_a_key_of_an_owner_reads_the_events_of_that_owner_only(
    service: Service, installations: list[str]
) -> None:
    for company in service.aircall.companies[:2]:
        (webhook,) = service.aircall.webhooks.of(company.id)
        await service.post_event(_event(webhook.token))

    page = (await (await service.partner(owner="globex")).get("/v1/events")).json()

    assert [(event["installation_id"], event["owner"]) for event in page["events"]] == [(installations[1], "globex")]


async def test_an_id_that_cannot_be_one_is_refused(shared_service: Service) -> None:
    partner = await shared_service.partner()
    wrong = ["x", "ins_", "ins_" + "0" * 31, "ins_" + "0" * 33, "ins_" + "G" * 32, "evt_" + "0" * 32, "%00", "%0A"]

    for installation_id in (*wrong, "ins_" + "0" * 32 + "%0A"):
        for path in (installation_id, f"{installation_id}/token"):
            answer = await partner.get(f"/v1/installations/{path}")

            assert answer.status_code == 422, path
            assert answer.json()["code"] == "invalid_request"
            assert "path.installation_id" in answer.json()["detail"]


async def test_a_parameter_that_cannot_be_right_is_refused(shared_service: Service) -> None:
    partner = await shared_service.partner()
    wrong = {
        "/v1/installations": [
            *("owner=%00", "owner=a%00b", "owner=" + "x" * 256, "status=%00", "status=gone", "status="),
            *("cursor=%00", "cursor=x", "cursor=", "cursor=" + "9" * 300, "cursor=ins_" + "0" * 32 + "%0A"),
            *("limit=%00", "limit=0", "limit=-1", "limit=1001", "limit=all", "limit=1.5", "limit=" + "9" * 40),
        ],
        "/v1/events": [
            *("after=%00", "after=-1", "after=now", "after=9223372036854775808", "after=1e3", "after="),
            *("limit=%00", "limit=0", "limit=1001", "limit=" + "9" * 5000),
        ],
    }

    for door, queries in wrong.items():
        for query in queries:
            answer = await partner.get(f"{door}?{query}")

            assert answer.status_code == 422, query
            assert answer.headers["content-type"] == "application/problem+json"
            assert f"query.{query.partition('=')[0]}" in answer.json()["detail"]


async def test_bytes_that_are_no_text_are_no_trouble(shared_service: Service) -> None:
    partner = await shared_service.partner()

    for query in ("owner=%ED%A0%80", "owner=%FF", "owner=%F0%9F%98%80", "owner=%2500", "&&"):
        assert (await partner.get(f"/v1/installations?{query}")).status_code == 200, query
    for unknown in ("%00=%00", "%FF=1", "%", "="):
        assert (await partner.get(f"/v1/installations?{unknown}")).status_code == 422, unknown


async def test_reading_a_token_gives_it_and_leaves_a_trace(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner(Scope.TOKENS_READ)

    answer = await partner.get(f"/v1/installations/{installation_id}/token", headers={"x-request-id": "trace-me.1"})

    assert answer.status_code == 200
    (access_token,) = service.aircall.tokens_of()
    assert answer.json() == {"access_token": access_token, "token_type": "Bearer"}
    assert answer.headers["cache-control"] == "no-store"
    (key,), (audit,) = (
        await service.sql("SELECT id FROM api_key"),
        await service.sql("SELECT * FROM audit WHERE action NOT LIKE 'api_key.%'"),
    )
    assert dict(audit) == {
        "id": IsStr(regex="aud_[0-9a-f]{32}"),
        "at": IsDatetime,
        "actor": key["id"],
        "action": "token.read",
        "installation_id": installation_id,
        "request_id": "trace-me.1",
        "address": "127.0.0.1",
        "outcome": "done",
        "owner": None,
        "subscription_id": None,
        "details": None,
    }


@pytest.mark.parametrize("when", ["IMMEDIATE", "DEFERRED"])
async def test_no_token_is_given_that_leaves_no_trace(service: Service, when: str) -> None:
    """`DEFERRED`: the audit's row is refused no sooner than at the commit."""
    installation_id, partner = await service.installed(), await service.partner()
    await service.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full'; END $$"
    )
    await service.sql(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON audit "
        f"DEFERRABLE INITIALLY {when} FOR EACH ROW EXECUTE FUNCTION refuse()"
    )

    answer = await partner.get(f"/v1/installations/{installation_id}/token")

    assert answer.status_code == 500
    assert service.aircall.tokens_of()[0] not in answer.text
    assert "disk full" not in answer.text


@pytest.mark.parametrize("status", ["removed", "unclaimed", "unauthorized"])
async def test_the_token_of_an_installation_that_is_not_active_is_not_given(service: Service, status: str) -> None:
    installation_id = await service.installed()
    if status == "removed":
        await service.sql("UPDATE installation SET status = $1, token_sealed = NULL, token_fingerprint = NULL", status)
    else:
        await service.sql("UPDATE installation SET status = $1", status)

    answer = await (await service.partner()).get(f"/v1/installations/{installation_id}/token")

    assert answer.status_code == 409
    assert answer.json()["code"] == "installation_not_active"
    assert await service.sql("SELECT * FROM audit WHERE action NOT LIKE 'api_key.%'") == []


async def test_events_are_read_past_a_position(service: Service) -> None:
    await service.installed()
    for number in range(5):
        await service.post_event(_event(service.webhook_token(), number))
    partner = await service.partner(Scope.EVENTS_READ)

    async def page(**query: int) -> dict[str, Any]:
        answer = await partner.get("/v1/events", params=query)
        assert answer.status_code == 200
        read: dict[str, Any] = answer.json()
        del read["epoch"]
        return read

    whole = await page()
    positions = [event["position"] for event in whole["events"]]
    assert positions == sorted(set(positions))
    assert (whole["next"], whole["more"]) == (positions[-1], False)
    some = await page(after=positions[0], limit=2)
    assert some == {"events": whole["events"][1:3], "next": positions[2], "more": True}
    rest = await page(after=some["next"], limit=len(positions) - 3)
    assert rest == {"events": whole["events"][3:], "next": positions[-1], "more": False}
    nothing = await page(after=positions[-1])
    assert nothing == {"events": [], "next": positions[-1], "more": False}
    far = await partner.get("/v1/events", params={"after": 2**63 - 1})
    assert (far.status_code, far.json()["code"], far.json()["newest"]) == (409, "position_unknown", positions[-1])


async def test_a_page_has_a_hundred_events_unless_told_and_a_thousand_at_most(service: Service) -> None:
    await service.installed()
    await service.sql(
        "INSERT INTO event (id, installation_id, company_id, type, received_at, source, data) "
        "SELECT 'evt_' || n, 'ins_x', 1, 'call.created', now(), 'aircall', '{}' FROM generate_series(1, 1100) n"
    )
    partner = await service.partner(Scope.EVENTS_READ)

    usual = (await partner.get("/v1/events")).json()
    most = (await partner.get("/v1/events", params={"limit": 1000})).json()

    assert (len(usual["events"]), usual["more"]) == (100, True)
    assert (len(most["events"]), most["more"]) == (1000, True)


async def test_every_reader_sees_an_event_in_the_same_form(service: Service) -> None:
    installation_id = await service.installed()
    await service.post_event(_event(service.webhook_token()))

    page = (await (await service.partner(Scope.EVENTS_READ)).get("/v1/events")).json()

    assert page["events"][-1] == {
        "id": IsStr(regex="evt_[0-9a-f]{32}"),
        "position": page["next"],
        "type": "call.created",
        "resource": "call",
        "installation_id": installation_id,
        "company_id": service.aircall.companies[0].id,
        "owner": None,
        "occurred_at": "2026-01-01T10:00:00Z",
        "received_at": ISO,
        "source": "aircall",
        "subject": "call:0",
        "data": {"id": 0},
    }


async def test_a_key_needs_the_scope_of_the_door(shared_service: Service) -> None:
    for door, scope in DOORS.items():
        with_all_others = await shared_service.partner(*(other for other in Scope if other != scope))
        with_it = await shared_service.partner(scope)

        refused, admitted = await with_all_others.get(door), await with_it.get(door)

        assert refused.status_code == 403, door
        assert refused.json()["code"] == "scope_missing"
        assert scope in refused.json()["detail"]
        assert admitted.status_code in {200, 404}


async def test_a_wrong_key_is_answered_as_none_is(service: Service) -> None:
    revoked, expired = await service.partner(), await service.partner()
    await service.sql(
        "UPDATE api_key SET revoked_at = now() WHERE id = (SELECT id FROM api_key ORDER BY created_at LIMIT 1)"
    )
    await service.sql("UPDATE api_key SET expires_at = now() WHERE revoked_at IS NULL")
    fingerprint = (await service.sql("SELECT fingerprint FROM api_key LIMIT 1"))[0]["fingerprint"].hex()
    wrong = [
        revoked.headers["authorization"],
        expired.headers["authorization"],
        revoked.headers["authorization"].replace("Bearer", "Basic"),
        revoked.headers["authorization"] + "x",
        *("Bearer", "Bearer ", "Bearer x", "Bearer aok_", f"Bearer {fingerprint}", "Bearer aok_x y", "aok_x", ""),
        *("Basic eDp5", "Bearer \xff", "Bearer " + "x" * 4000),
    ]

    for door in DOORS:
        none = await service.browser.get(door)
        assert none.status_code == 401
        assert none.headers["www-authenticate"] == "Bearer"
        for authorization in wrong:
            answer = await service.browser.get(door, headers={b"authorization": authorization.encode("latin-1")})

            assert _without_request_id(answer) == _without_request_id(none), authorization


async def test_without_a_key_nothing_is_learned_about_the_parameters(shared_service: Service) -> None:
    for door in ("/v1/installations?limit=0", "/v1/installations/x", "/v1/installations/x/token", "/v1/events?after=x"):
        assert (await shared_service.browser.get(door)).status_code == 401, door


async def test_a_key_that_is_revoked_or_past_its_time_stops_at_once(service: Service) -> None:
    revoked = await service.partner()
    key = await keys.create(service.resources, name="short", scopes=[Scope.EVENTS_READ], lifetime=timedelta(hours=1))
    short = {"authorization": f"Bearer {key}"}
    before = [await revoked.get("/v1/events"), await service.browser.get("/v1/events", headers=short)]

    assert await keys.revoke(service.resources, "test") == 1
    await service.sql("UPDATE api_key SET expires_at = now() - interval '1 second' WHERE name = 'short'")
    after = [await revoked.get("/v1/events"), await service.browser.get("/v1/events", headers=short)]

    assert [answer.status_code for answer in before] == [200, 200]
    assert [answer.status_code for answer in after] == [401, 401]


async def test_when_a_key_was_last_used_is_noted_and_not_at_every_request(service: Service) -> None:
    partner = await service.partner(Scope.EVENTS_READ)

    async def last_used_at() -> Any:
        return (await service.sql("SELECT last_used_at FROM api_key"))[0]["last_used_at"]

    assert await last_used_at() is None
    await partner.get("/v1/events")
    first = await last_used_at()
    await partner.get("/v1/events")
    assert first is not None
    assert await last_used_at() == first
    await service.sql("UPDATE api_key SET last_used_at = now() - interval '2 minutes'")
    await partner.get("/v1/events")
    assert await last_used_at() > first


async def test_one_key_serves_many_at_once(shared_service: Service) -> None:
    partner = await shared_service.partner(Scope.EVENTS_READ)

    answers = await asyncio.gather(*(partner.get("/v1/events") for _ in range(30)))

    assert {answer.status_code for answer in answers} == {200}


async def test_a_refused_key_is_not_noted_as_used(service: Service) -> None:
    partner = await service.partner()
    await service.sql("UPDATE api_key SET revoked_at = now()")

    await partner.get("/v1/events")

    assert [row["last_used_at"] for row in await service.sql("SELECT last_used_at FROM api_key")] == [None]


def _event(token: str, number: int = 0) -> bytes:
    return b'{"resource":"call","event":"call.created","timestamp":1767261600,"token":"%s","data":{"id":%d}}' % (
        token.encode(),
        number,
    )


def _ids(page: dict[str, Any]) -> list[str]:
    return [item["id"] for item in page["items"]]


def _without_request_id(answer: httpx.Response) -> tuple[int, dict[str, Any], dict[str, str]]:
    body = {name: value for name, value in answer.json().items() if name != "request_id"}
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, body, headers
