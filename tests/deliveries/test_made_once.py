"""A request for a subscription that is sent again makes no second one: by its `Idempotency-Key`, or by its name."""

import asyncio
from typing import Any

import httpx
import pytest

from aircall_oauth.deliveries import repeated
from tests.support.receivers import subscription_body
from tests.support.service import Service

URL = "https://example.com/hook?token=s3cret"


async def make(partner: httpx.AsyncClient, key: str | None = None, url: str = URL, **fields: Any) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await partner.post("/v1/subscriptions", json=subscription_body(url, **fields), headers=headers)


async def count(service: Service) -> int:
    return len(await service.sql("SELECT FROM subscription"))


@pytest.mark.parametrize("how", [{"key": "9f1c"}, {"ensure": True}])
async def test_a_repeat_makes_no_second_one(service: Service, how: dict[str, Any]) -> None:
    partner = await service.partner()
    first, again = await make(partner, **how), await make(partner, **how)
    other = await make(partner, "other", name="other", ensure="ensure" in how)

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert again.headers["cache-control"] == "no-store"
    assert again.json()["secret"] == (first.json()["secret"] if "key" in how else None)
    assert await count(service) == 2
    assert len(await service.sql("SELECT FROM audit WHERE action = 'subscription.created'")) == 2


@pytest.mark.parametrize("how", [{"key": "9f1c"}, {"ensure": True}, {"key": "9f1c", "ensure": True}])
async def test_many_at_once_make_one(service: Service, how: dict[str, Any]) -> None:
    partner = await service.partner()

    answers = await asyncio.gather(*(make(partner, **how) for _ in range(12)))

    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [201]
    assert len({answer.json()["id"] for answer in answers}) == await count(service) == 1


async def test_without_either_two_are_made(service: Service) -> None:
    partner = await service.partner()
    for _ in range(2):
        assert (await make(partner)).status_code == 201
    assert await count(service) == 2


async def test_the_same_key_with_another_body_is_refused(service: Service) -> None:
    partner = await service.partner()
    await make(partner, "9f1c")

    refused = [
        await make(partner, "9f1c", types=["call.*"]),
        await make(partner, "9f1c", url=URL + "x"),
        await make(partner, "9f1c", name="other", ensure=True),
    ]

    assert [(one.status_code, one.json()["code"]) for one in refused] == [(422, "idempotency_key_used")] * 3
    assert "s3cret" not in "".join(one.text for one in refused)
    assert await count(service) == 1


async def test_one_that_delivers_otherwise_is_named_and_refused(service: Service) -> None:
    partner = await service.partner()
    await make(partner, ensure=True, types=["call.*", "user.*"])

    same = await make(partner, ensure=True, types=["user.*", "call.*"])
    other = await make(partner, ensure=True, types=["call.*"], order="none", url="https://example.com/hook?token=else")
    of_owner = await make(partner, ensure=True, owners=["acme"])

    assert same.status_code == 200
    assert (other.status_code, other.json()["code"]) == (409, "subscription_differs")
    assert "url" in other.json()["detail"]
    assert "types" in other.json()["detail"]
    assert "else" not in other.text
    assert of_owner.status_code == 201, "what is for an owner is another one"
    assert await count(service) == 2


async def test_an_owner_hits_no_other_owners_key_or_name(service: Service) -> None:
    everyone, acme, globex = [await service.partner(owner=owner) for owner in (None, "acme", "globex")]

    made = [await make(partner, "9f1c", ensure=True) for partner in (everyone, acme, globex)]
    again = [await make(partner, "9f1c", ensure=True) for partner in (everyone, acme, globex)]
    otherwise = await make(acme, "globex-only", types=["call.*"])
    by_another_key = await make(await service.partner(owner="acme"), "9f1c", ensure=True)

    assert [one.status_code for one in made] == [201] * 3
    assert [one.status_code for one in again] == [200] * 3
    assert [one.json()["id"] for one in again] == [one.json()["id"] for one in made]
    assert len({one.json()["id"] for one in made}) == 3
    assert otherwise.status_code == 201
    assert by_another_key.json()["id"] == made[1].json()["id"], "an owner's key may be replaced meanwhile"


async def test_what_the_owner_may_see_no_more_is_not_answered(service: Service) -> None:
    acme = await service.partner(owner="acme")
    made = await make(acme, "9f1c")
    await service.sql("UPDATE subscription SET owners = '{globex}'")

    answer = await make(acme, "9f1c")

    assert answer.status_code == 404
    assert made.json()["secret"] not in answer.text


async def test_a_key_is_forgotten_after_a_day_and_with_its_subscription(service: Service) -> None:
    partner = await service.partner()
    old, gone = await make(partner, "old"), await make(partner, "gone")
    await service.sql(
        "UPDATE creation_key SET created_at = now() - interval '25 hours' WHERE subscription_id = $1", old.json()["id"]
    )
    await partner.delete(f"/v1/subscriptions/{gone.json()['id']}")
    await repeated.forget(service.resources)

    assert await service.sql("SELECT FROM creation_key") == []
    assert [(await make(partner, key)).status_code for key in ("old", "gone")] == [201, 201]


async def test_what_was_refused_is_not_remembered_and_keys_are_kept_as_fingerprints(service: Service) -> None:
    partner = await service.partner()
    refused = await make(partner, "my-secret-key", url="http://127.0.0.1/")
    made = await make(partner, "my-secret-key")
    odd = [await make(partner, key) for key in ("", "x" * 256, "a b")]

    assert (refused.status_code, made.status_code) == (422, 201)
    assert [one.status_code for one in odd] == [422] * 3
    (row,) = await service.sql("SELECT k::text AS text FROM creation_key k")
    assert "my-secret" not in row["text"]
