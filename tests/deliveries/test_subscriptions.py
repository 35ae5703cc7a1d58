"""The doors of subscriptions: which an API key may see and change, and what each answer says."""

import json
from typing import Any

import pytest
from dirty_equals import IsInt, IsStr

from aircall_oauth.access.scopes import Scope
from aircall_oauth.storage.stamps import new_id
from tests.support.receivers import LOOPBACK, subscription_body, tell
from tests.support.service import Service, run_service, settings_for

HTTPS = "https://203.0.114.7/hook"


async def create(service: Service, by: Any = None, **fields: Any) -> Any:
    partner = await service.partner(owner=by)
    return await partner.post("/v1/subscriptions", json=subscription_body(HTTPS) | fields)


async def test_a_subscription_is_made_shown_changed_and_deleted(service: Service) -> None:
    await service.installed()
    partner = await service.partner()

    made = await partner.post(
        "/v1/subscriptions",
        json=subscription_body(HTTPS, types=["call.*"], **{"from": "beginning"}),
    )
    door = f"/v1/subscriptions/{made.json()['id']}"
    shown = await partner.get(door)
    changed = await partner.patch(door, json={"name": "erp", "types": [], "order": "installation"})
    gone = await partner.delete(door)

    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert made.json()["secret"] == IsStr(regex=r"whsec_[A-Za-z0-9+/]{43}=")
    assert shown.json() == {
        "id": IsStr(regex="sub_[0-9a-f]{32}"),
        "name": "crm",
        "kind": "http",
        "url": HTTPS,
        "subject": None,
        "exchange": None,
        "routing_key": None,
        "topic": None,
        "types": ["call.*"],
        "owners": [],
        "installations": [],
        "order": "subject",
        "status": "active",
        "position": 0,
        "lag": 0,
        "parked": 0,
        "dead": 0,
        "matched_24h": 0,
        "delivered_24h": 0,
        "failed_24h": 0,
        "oldest_undelivered_seconds": None,
        "next_probe_at": None,
        "health": "up",
        "last_error": None,
        "last_error_at": None,
        "created_at": IsStr(),
    }
    assert made.json() == shown.json() | {"secret": made.json()["secret"], "warnings": []}
    assert changed.json() == shown.json() | {
        "name": "erp",
        "types": [],
        "order": "installation",
        "lag": 1,
        "oldest_undelivered_seconds": IsInt(ge=0, lt=60),
        "warnings": [],
    }
    assert gone.status_code == 204
    assert (await partner.get(door)).json()["code"] == "subscription_not_found"
    assert await service.sql("SELECT 1 FROM subscription") == []


async def test_the_secret_is_sealed_and_shown_once(service: Service) -> None:
    secret = (await create(service)).json()["secret"]
    partner = await service.partner()

    listed = await partner.get("/v1/subscriptions")
    (row,) = await service.sql("SELECT s::text AS text FROM subscription s")

    assert len(listed.json()["items"]) == 1
    assert secret not in listed.text
    assert secret.removeprefix("whsec_") not in row["text"]


async def test_a_list_comes_in_pages(service: Service) -> None:
    made = [(await create(service, name=f"n{number}")).json()["id"] for number in range(3)]
    partner = await service.partner()

    first = (await partner.get("/v1/subscriptions", params={"limit": 2})).json()
    second = (await partner.get("/v1/subscriptions", params={"limit": 2, "cursor": first["next"]})).json()

    assert [item["id"] for item in first["items"] + second["items"]] == made
    assert second["next"] is None


async def test_where_it_begins(service: Service) -> None:
    await service.installed()
    await tell(service, 3)

    begun = [(await create(service, **{"from": start})).json() for start in ("now", "beginning", 2)]
    too_far = await create(service, **{"from": 99})

    assert [(each["position"], each["lag"]) for each in begun] == [(4, 0), (0, 4), (2, 2)]
    assert (too_far.status_code, too_far.json()["code"]) == (422, "invalid_request")


async def test_it_does_not_begin_before_what_was_dropped(service: Service) -> None:
    await service.sql("INSERT INTO log_start (dropped_to) VALUES (10)")

    gone = await create(service, **{"from": 3})
    beginning = await create(service, **{"from": "beginning"})

    assert (gone.status_code, gone.json()["code"], gone.json()["oldest"]) == (410, "position_gone", 10)
    assert beginning.json()["position"] == 10


async def test_lag_counts_what_it_wants_only(service: Service) -> None:
    await service.installed()
    await tell(service, 3)
    await tell(service, 2, type_="user.created")

    wanted = await create(service, types=["user.*"], **{"from": "beginning"})

    assert wanted.json()["lag"] == 2


async def test_a_key_bound_to_an_owner_sees_and_makes_that_owners_only(service: Service) -> None:
    others = [(await create(service, owners=owners)).json()["id"] for owners in ([], ["zeta"], ["acme", "zeta"])]
    acme = await service.partner(owner="acme")

    own = await create(service, by="acme")
    foreign = await create(service, by="acme", owners=["zeta"])
    listed = (await acme.get("/v1/subscriptions")).json()["items"]

    assert (own.status_code, own.json()["owners"]) == (201, ["acme"])
    assert (foreign.status_code, foreign.json()["code"]) == (403, "owner_not_allowed")
    assert [item["id"] for item in listed] == [own.json()["id"]]
    for other in others:
        door = f"/v1/subscriptions/{other}"
        for method, path, body in (
            *(("GET", path, None) for path in ("", "/attempts", "/dead")),
            *(("POST", f"/{verb}", None) for verb in ("pause", "resume", "rotate-secret", "test", "dead/retry")),
            ("POST", "/replay", {"position": 0}),
            ("PATCH", "", {"name": "mine"}),
            ("DELETE", "", None),
        ):
            answer = await acme.request(method, f"{door}{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "subscription_not_found"), path
    widened = await acme.patch(f"/v1/subscriptions/{own.json()['id']}", json={"owners": ["acme", "zeta"]})
    assert widened.json()["code"] == "owner_not_allowed"
    emptied = await acme.patch(f"/v1/subscriptions/{own.json()['id']}", json={"owners": []})
    assert emptied.json()["owners"] == ["acme"]


async def test_reading_and_writing_are_scopes_of_their_own(service: Service) -> None:
    made = (await create(service)).json()["id"]
    reader = await service.partner(Scope.SUBSCRIPTIONS_READ)
    writer = await service.partner(Scope.SUBSCRIPTIONS_WRITE)

    assert (await reader.get(f"/v1/subscriptions/{made}")).status_code == 200
    assert (await reader.post(f"/v1/subscriptions/{made}/pause")).json()["code"] == "scope_missing"
    assert (await writer.get("/v1/subscriptions")).json()["code"] == "scope_missing"
    assert (await writer.post(f"/v1/subscriptions/{made}/pause")).status_code == 200


async def test_pause_and_resume(service: Service) -> None:
    door = f"/v1/subscriptions/{(await create(service)).json()['id']}"
    partner = await service.partner()

    assert (await partner.post(f"{door}/pause")).json()["status"] == "paused"
    assert (await partner.post(f"{door}/resume")).json()["status"] == "active"


async def test_replay_moves_the_reader_by_position_or_by_time(service: Service) -> None:
    await service.installed()
    await tell(service, 4)
    await service.sql("UPDATE event SET received_at = received_at + interval '1 second' WHERE position > 2")
    (moment,) = await service.sql("SELECT received_at AS at FROM event WHERE position = 3")
    door = f"/v1/subscriptions/{(await create(service)).json()['id']}/replay"
    partner = await service.partner()

    by_position = await partner.post(door, json={"position": 1})
    by_time = await partner.post(door, json={"since": moment["at"].isoformat()})
    later = await partner.post(door, json={"since": "2100-01-01T00:00:00Z"})

    assert by_position.json()["position"] == 1
    assert by_time.json()["position"] == 2
    assert later.json()["position"] == 5
    for wrong in (
        {},
        {"position": 1, "since": "2026-01-01T00:00:00Z"},
        {"since": "2026-01-01T00:00:00"},
        {"at": 1},
        {"since": 0.1},
        {"since": "1767261600"},
        {"since": "+1767261600"},
        {"since": "1.7e9"},
        {"since": "9999-12-31T23:59:59-14:00"},
        {"since": "0001-01-01T00:00:00+14:00"},
    ):
        assert (await partner.post(door, json=wrong)).status_code == 422


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "carrier-pigeon"},
        {"kind": "nats"},
        {"subject": "aircall"},
        {"url": None},
        {"name": ""},
        {"name": "a\0b"},
        {"types": ["call ended"]},
        {"installations": ["ins_1"]},
        {"owners": ["a\0"]},
        {"order": "strict"},
        {"from": -1},
        {"from": "yesterday"},
        {"from": 2**63},
        {"from": True},
        {"secret": "whsec_mine"},
    ],
)
async def test_what_is_not_valid_is_refused(shared_service: Service, wrong: dict[str, Any]) -> None:
    answer = await create(shared_service, **wrong)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert await shared_service.sql("SELECT 1 FROM subscription") == []


BROKERS: list[dict[str, Any]] = [
    {"kind": "nats", "url": "nats://eve:c4n4ry@127.0.0.1:4222,nats://127.0.0.2", "subject": "aircall.events"},
    {
        "kind": "rabbitmq",
        "url": "amqp://eve:c4n4ry@127.0.0.1/vhost",
        "exchange": "",
        "routing_key": "events",
    },
    {"kind": "kafka", "url": "127.0.0.1:9092,127.0.0.2:9092", "topic": "aircall-events"},
]
SHOWN = ["nats://127.0.0.1:4222,nats://127.0.0.2", "amqp://127.0.0.1/vhost", "127.0.0.1:9092,127.0.0.2:9092"]


async def test_brokers_are_subscriptions_too_and_their_credentials_are_sealed(database_url: str) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service:
        answers = [await create(service, **broker) for broker in BROKERS]
        listed = await (await service.partner()).get("/v1/subscriptions")
        rows = await service.sql("SELECT s::text AS text FROM subscription s")
        rotated = await (await service.partner()).post(f"/v1/subscriptions/{answers[0].json()['id']}/rotate-secret")

    assert [(answer.status_code, answer.json()["secret"]) for answer in answers] == [(201, None)] * 3
    assert [item["url"] for item in listed.json()["items"]] == SHOWN
    for broker, item in zip(BROKERS, listed.json()["items"], strict=True):
        assert {name: value for name, value in broker.items() if name != "url"}.items() <= item.items()
    assert "c4n4ry" not in json.dumps([answer.json() for answer in answers]) + listed.text
    assert "c4n4ry" not in "".join(row["text"] for row in rows)
    assert (rotated.status_code, rotated.json()["code"]) == (409, "subscription_unsigned")


@pytest.mark.parametrize("broker", BROKERS)
async def test_a_broker_at_a_private_address_must_be_allowed(service: Service, broker: dict[str, Any]) -> None:
    answer = await create(service, **broker)

    assert (answer.status_code, answer.json()["code"]) == (422, "destination_refused")


async def test_a_brokers_address_must_be_one(service: Service) -> None:
    for wrong in ("https://example.com", "nats://", "nats://a b", "nats://h:999999", "nats://h#x", "h:4222"):
        answer = await create(service, kind="nats", subject="s", url=wrong)
        assert answer.status_code == 422, wrong


async def test_no_such_subscription(service: Service) -> None:
    partner = await service.partner()

    for path in ("", "/attempts", "/dead"):
        answer = await partner.get(f"/v1/subscriptions/{new_id('sub')}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "subscription_not_found")


async def test_a_dead_letter_box_is_listed_in_pages(service: Service) -> None:
    made = (await create(service)).json()["id"]
    await service.sql(
        """
        INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason,
                            dead_at)
        SELECT $1, n, now(), 'evt_' || md5(n::text), 'ins_1', 12, 'http_500', now() FROM generate_series(1, 3) n
        """,
        made,
    )
    partner = await service.partner()

    first = (await partner.get(f"/v1/subscriptions/{made}/dead", params={"limit": 2})).json()
    second = (await partner.get(f"/v1/subscriptions/{made}/dead", params={"cursor": first["next"]})).json()

    assert [item["position"] for item in first["items"] + second["items"]] == [1, 2, 3]
    assert first["items"][0]["reason"] == "http_500"
    assert second["next"] is None
    assert (await partner.get(f"/v1/subscriptions/{made}")).json()["dead"] == 3


async def test_a_secret_that_cannot_be_opened_any_more_is_replaced_at_once(service: Service) -> None:
    made = (await create(service)).json()
    await service.sql("UPDATE subscription SET secret_sealed = left(secret_sealed, -8) WHERE id = $1", made["id"])
    door = f"/v1/subscriptions/{made['id']}/rotate-secret"

    answer = await (await service.partner()).post(door, json={"now": True})

    assert answer.status_code == 200, answer.text
    assert answer.json()["secret"].startswith("whsec_")
    assert answer.json()["secret"] != made["secret"]
