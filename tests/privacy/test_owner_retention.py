"""An owner's events are kept for as long as the owner's own rules say: set through the API and the command line."""

import json
from collections.abc import AsyncIterator

import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.events import retention
from aircall_oauth.privacy import expiring
from aircall_oauth.privacy import retention as owners
from aircall_oauth.sandbox.postgres import Postgres
from tests.privacy.test_retention import days, is_now, kept, of_a_day
from tests.support.fixtures import lasting_service
from tests.support.service import Service, command_environment, run_command, run_service, settings_for

RETENTION = {"EVENT_RETENTION": "60d", "EVENT_TYPE_RETENTION": "*=30d,transcription.*=7d"}


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, **RETENTION)) as it:
        yield it


@pytest.fixture(scope="module")
async def shared_service(postgres: Postgres) -> AsyncIterator[Service]:
    async with lasting_service(postgres, **RETENTION) as it:
        yield it


async def set_rules(service: Service, owner: str, **rules: str) -> None:
    answer = await (await service.partner()).put(f"/v1/retention/{owner}", json={"rules": rules or {"*": "1d"}})
    assert answer.status_code == 200, answer.text


async def test_an_owners_rules_go_before_those_for_all_longer_and_shorter(service: Service) -> None:
    types = ("transcription.created", "call.ended")
    for days_ago in (40, 10, 3):
        for owner in ("acme", "globex", None):
            await of_a_day(service, days_ago, *types, owner=owner)
    await is_now(service)
    await set_rules(service, "acme", **{"*": "50d"})
    await set_rules(service, "globex", **{"transcription.*": "2d"})

    await expiring.expire(service.resources)

    assert [name for name, left in await kept(service) if left] == [
        "40_acme_transcription.created",
        "40_acme_call.ended",
        "10_acme_transcription.created",
        "10_acme_call.ended",
        "10_globex_call.ended",
        "10_None_call.ended",
        "3_acme_transcription.created",
        "3_acme_call.ended",
        "3_globex_call.ended",
        "3_None_transcription.created",
        "3_None_call.ended",
    ]


async def test_the_day_stays_for_the_owner_whose_events_are_kept_longest_and_goes_after(service: Service) -> None:
    for days_ago in (41, 40):
        for owner in ("acme", "globex"):
            await of_a_day(service, days_ago, "call.ended", owner=owner)
    await is_now(service)
    partner = await service.partner()
    await set_rules(service, "acme", **{"*": "50d"})

    await expiring.expire(service.resources)
    await retention.drop_days(service.resources)
    stayed = await days(service)
    assert (await partner.delete("/v1/retention/acme")).status_code == 204
    await expiring.expire(service.resources)
    for _ in range(2):
        await retention.drop_days(service.resources)

    assert stayed == [41, 40]
    assert await days(service) == []


async def test_rules_that_are_set_later_count_for_what_is_in_the_log(service: Service) -> None:
    await of_a_day(service, 10, "call.ended", "user.created", owner="acme")
    await is_now(service)
    await expiring.expire(service.resources)
    assert [left for _, left in await kept(service)] == [True, True]

    await set_rules(service, "acme", **{"call.*": "9d"})
    await expiring.expire(service.resources)

    assert [left for _, left in await kept(service)] == [False, True]


async def test_what_is_set_is_shown_listed_replaced_and_reset(service: Service) -> None:
    partner = await service.partner(Scope.PRIVACY_RETENTION)
    await set_rules(service, "zeta", **{"*": "48h"})
    await set_rules(service, "acme/sub", **{"call.*": "14d", "transcription.*": "36h"})

    first = (await partner.get("/v1/retention", params={"limit": 1})).json()
    rest = (await partner.get("/v1/retention", params={"cursor": first["next"]})).json()
    shown = (await partner.get("/v1/retention/acme%2Fsub")).json()
    await set_rules(service, "acme/sub", **{"call.*": "1d"})
    replaced = (await partner.get("/v1/retention/acme%2Fsub")).json()
    gone = [(await partner.delete("/v1/retention/zeta")).status_code for _ in range(2)]
    none = (await partner.get("/v1/retention/zeta")).json()

    assert (first["longest"], first["rules"]) == ("60d", {"*": "30d", "transcription.*": "7d"})
    assert [one["owner"] for one in (*first["items"], *rest["items"])] == ["acme/sub", "zeta"]
    assert rest["items"][0]["rules"] == {"*": "2d"}
    assert rest["next"] is None
    assert shown == first["items"][0]
    assert shown["rules"] == {"call.*": "14d", "transcription.*": "36h"}
    assert replaced["rules"] == {"call.*": "1d"}
    assert gone == [204, 204]
    assert none == {"owner": "zeta", "rules": {}, "changed_at": None}


async def test_every_change_is_in_the_audit(service: Service) -> None:
    await set_rules(service, "acme", **{"call.*": "1d"})
    await (await service.partner()).delete("/v1/retention/acme")

    lines = await service.sql("SELECT actor, owner, details FROM audit WHERE action = 'retention.changed' ORDER BY at")

    assert [(line["owner"], json.loads(line["details"])) for line in lines] == [
        ("acme", {"rules": {"call.*": "1d"}}),
        ("acme", {"rules": {}}),
    ]
    assert all(line["actor"].startswith("key_") for line in lines)


@pytest.mark.parametrize(
    "body",
    [
        {"rules": {}},
        {"rules": {"call.*": "61d"}},
        {"rules": {"call.*": "0d"}},
        {"rules": {"call.*": 7}},
        {"rules": {"call.*": "a week"}},
        {"rules": {"call.**": "7d"}},
        {"rules": {"": "7d"}},
        {"rules": {"call ended": "7d"}},
        {"rules": {f"call.n{n}": "7d" for n in range(51)}},
        {"rules": {"call.*": "7d"}, "owner": "acme"},
    ],
)
async def test_wrong_rules_are_refused(shared_service: Service, body: dict[str, object]) -> None:
    answer = await (await shared_service.partner()).put("/v1/retention/acme", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert await shared_service.sql("SELECT 1 FROM owner_retention") == []


async def test_no_more_owners_have_rules_than_there_may_be(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "MOST_OWNERS", 1)
    await set_rules(service, "acme")
    await set_rules(service, "acme", **{"*": "2d"})

    refused = await (await service.partner()).put("/v1/retention/globex", json={"rules": {"*": "1d"}})

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


async def test_an_owners_key_sees_and_sets_that_owners_only(service: Service) -> None:
    await set_rules(service, "globex", **{"call.*": "5d"})
    own = await service.partner(Scope.PRIVACY_RETENTION, owner="acme")

    foreign = [
        await own.get("/v1/retention/globex"),
        await own.put("/v1/retention/globex", json={"rules": {"*": "1d"}}),
        await own.delete("/v1/retention/globex"),
    ]
    done = await own.put("/v1/retention/acme", json={"rules": {"*": "40d"}})
    listed = (await own.get("/v1/retention")).json()["items"]
    wrong_scope = await (await service.partner(Scope.EVENTS_READ)).get("/v1/retention")

    assert [answer.status_code for answer in foreign] == [404] * 3
    assert (done.status_code, [one["owner"] for one in listed]) == (200, ["acme"])
    assert wrong_scope.status_code == 403
    assert (await service.sql("SELECT types, seconds FROM owner_retention WHERE owner = 'globex'"))[0]["types"] == [
        "call.*"
    ]


async def test_rules_that_are_lengthened_while_events_expire_keep_what_is_left(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "BATCH", 1)
    await of_a_day(service, 10, "user.created", "call.a", "call.b", "call.c", owner="acme")
    await is_now(service)
    await set_rules(service, "acme", **{"call.*": "5d"})
    once = expiring._expire_some

    async def and_then_lengthened(*given: object) -> tuple[int | None, int]:
        done = await once(*given)  # type: ignore[arg-type]
        await set_rules(service, "acme", **{"call.*": "50d"})
        return done

    monkeypatch.setattr(expiring, "_expire_some", and_then_lengthened)

    await expiring.expire(service.resources)
    await expiring.expire(service.resources)

    assert [left for _, left in await kept(service)] == [True, False, True, True]


async def test_the_command_line_sets_lists_and_resets(service: Service) -> None:
    environment = command_environment(
        service.settings.database_url.get_secret_value(), EVENT_TYPE_RETENTION="call.*=7d"
    )

    set_ = await run_command("retention", "set", "acme", "call.*=3d", "*=20d", environment=environment)
    listed = await run_command("retention", "list", environment=environment)
    as_json = await run_command("retention", "list", "--json", environment=environment)
    wrong = await run_command("retention", "set", "acme", "call.*", environment=environment)
    twice = await run_command("retention", "set", "acme", "*=1d", "*=2d", environment=environment)
    reset = await run_command("retention", "reset", "acme", environment=environment)

    assert [each.exit_code for each in (set_, listed, as_json, wrong, twice, reset)] == [0, 0, 0, 2, 2, 0], (
        set_.stderr + wrong.stderr + listed.stderr
    )
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [
        ["(all)", "*", "30d"],
        ["(all)", "call.*", "7d"],
        ["acme", "call.*", "3d"],
        ["acme", "*", "20d"],
    ]
    assert json.loads(as_json.stdout)["items"][0]["rules"] == {"call.*": "3d", "*": "20d"}
    assert await service.sql("SELECT 1 FROM owner_retention") == []
