"""The doors of the partner's systems read nothing before they know the API key, and take nothing they do not know."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aircall_oauth.server import openapi
from aircall_oauth.storage.stamps import new_id
from tests.support.receivers import subscription_body
from tests.support.service import Service

SECRET = "whsec_hunter2"
PIECE = b"x" * 65536
MOST = 1024 * 1024
SUBSCRIPTION = "sub_" + "0" * 32
TO_AIRCALL = "/v1/installations/{installation_id}/aircall/{path}"
IDS = {
    "installation_id": "ins",
    "subscription_id": "sub",
    "event_id": "evt",
    "replay_id": "rpl",
    "attempt_id": "att",
    "erasure_id": "era",
    "owner": "own",
}


def doors(*, to_aircall: bool = False) -> list[tuple[str, str]]:
    """Every door of the partner's systems, its path filled in."""
    return [
        (method.upper(), path.format(path="calls", **{name: new_id(prefix) for name, prefix in IDS.items()}))
        for path, operations in openapi.document()["paths"].items()
        for method in operations
        if path.startswith("/v1/") and (path == TO_AIRCALL) == to_aircall
    ]


class Endless:
    """A body that goes on for as long as it is read; counts what was."""

    def __init__(self) -> None:
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.read < 50 * MOST:
            await asyncio.sleep(0)
            self.read += len(PIECE)
            yield PIECE


async def test_a_misspelt_filter_is_refused_and_the_right_one_named(shared_service: Service) -> None:
    ours, partner = await shared_service.install(), await shared_service.partner()

    answer = await partner.get("/v1/events", params={"installation_ids": ours})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"] == (
        "query.installation_ids: there is no such parameter here; did you mean `installation_id`?"
    )


async def test_no_door_of_ours_takes_a_parameter_it_does_not_know(shared_service: Service) -> None:
    partner = await shared_service.partner()

    for method, path in doors():
        answer = await partner.request(method, path, params={"zzz": "1"}, json={} if method != "GET" else None)

        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), (method, path)
        assert answer.json()["detail"].startswith("query.zzz: there is no such parameter here; there is "), path


async def test_a_parameter_that_means_one_value_is_not_given_twice(shared_service: Service) -> None:
    partner = await shared_service.partner()

    twice = await partner.get("/v1/events", params=[("limit", "1"), ("limit", "1000")])
    types = await partner.get("/v1/events", params=[("type", "call.*"), ("type", "user.*")])

    assert (twice.status_code, twice.json()["detail"]) == (422, "query.limit: is given more than once")
    assert types.status_code == 200


async def test_a_secret_in_place_of_a_name_is_not_repeated(shared_service: Service) -> None:
    answer = await (await shared_service.partner()).get(f"/v1/events?{SECRET}")

    assert answer.status_code == 422
    assert SECRET not in answer.text


async def test_what_is_asked_of_aircall_is_aircalls_business(shared_service: Service) -> None:
    installation_id, partner = await shared_service.install(), await shared_service.partner()

    answer = await partner.get(f"/v1/installations/{installation_id}/aircall/calls?per_page=2&zzz=1&zzz=2")

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/install-links", {"owner": "acme"}),
        ("/v1/claims", {"claim": "c", "owner": "acme"}),
        ("/v1/subscriptions", subscription_body("https://crm.example.com/")),
        (f"/v1/subscriptions/{SUBSCRIPTION}/replay", {"position": 0}),
        (f"/v1/subscriptions/{SUBSCRIPTION}/rotate-secret", {"now": True}),
        (f"/v1/subscriptions/{SUBSCRIPTION}/dead/retry", {"event_ids": []}),
    ],
)
async def test_no_door_takes_a_field_it_does_not_know(shared_service: Service, path: str, body: dict[str, Any]) -> None:
    answer = await (await shared_service.partner()).post(path, json=body | {"returnTo": SECRET})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "has a field that is not known here" in answer.json()["detail"]
    assert SECRET not in answer.text


@pytest.mark.parametrize("key", [None, "Bearer nobody", "Basic x"])
async def test_nothing_of_a_body_is_read_without_a_key(shared_service: Service, key: str | None) -> None:
    headers = {"content-type": "application/json"} | ({"authorization": key} if key else {})

    for method, path in [*doors(), *doors(to_aircall=True)]:
        body = Endless()
        answer = await shared_service.browser.request(method, path, content=body, headers=headers)

        assert answer.status_code == 401, (method, path)
        assert body.read == 0, (method, path)


async def test_a_body_of_unknown_length_is_bounded_at_every_door(shared_service: Service) -> None:
    await shared_service.install()
    partner = await shared_service.partner()

    read = {}
    for method, path in doors():
        if path.endswith("/stream"):
            continue  # it only waits for its caller to hang up
        body = Endless()
        headers = {"content-type": "application/json"}
        answer: httpx.Response = await partner.request(method, path, content=body, headers=headers)
        read[method, path] = body.read
        if body.read:
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large"), (method, path)

    assert max(read.values()) <= MOST + 2 * len(PIECE)
    assert sum(size > 0 for size in read.values()) >= 7, "the doors with a body read it"
