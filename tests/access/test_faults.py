"""What is wrong with a request is said in our words: short, with the place, and without what was sent."""

from typing import Any

import pytest

from tests.support.receivers import subscription_body
from tests.support.service import Service

FRAMEWORKS = ("Input should", "String should", "Field required", "Value error", "List should", "Extra inputs", "ctx")
OURS = subscription_body("https://203.0.114.7/", name="x")
REPLAY = "/v1/subscriptions/sub_00000000000000000000000000000000/replay"
BODIES: list[tuple[str, str, Any, str]] = [
    ("/v1/subscriptions", "kind", "smtp", "body.kind: must be one of http, nats, rabbitmq, kafka"),
    ("/v1/subscriptions", "kind", None, "body.kind: must be one of http, nats, rabbitmq, kafka"),
    ("/v1/subscriptions", "name", "", "body.name: must have 1 characters or more"),
    ("/v1/subscriptions", "name", 7, "body.name: must be text"),
    ("/v1/subscriptions", "name", "x" * 101, "body.name: must have 100 characters or fewer"),
    ("/v1/subscriptions", "types", "call.*", "body.types: must be a list"),
    ("/v1/subscriptions", "types", ["a b"], "body.types.0: must match ^[!-~]{1,255}$"),
    ("/v1/subscriptions", "types", ["x"] * 101, "body.types: must have 100 items or fewer"),
    ("/v1/subscriptions", "order", "lifo", "body.order: must be one of none, subject, installation"),
    ("/v1/subscriptions", "from", "then", "body.from: must be one of now, beginning, or must be a whole number"),
    ("/v1/subscriptions", "from", -1, "body.from: must be one of now, beginning, or must be 0 or more"),
]
QUERIES = [
    ("/v1/events", "limit", "1001", "query.limit: must be 1000 or less"),
    ("/v1/events", "limit", "0", "query.limit: must be 1 or more"),
    ("/v1/events", "limit", "many", "query.limit: must be a whole number"),
    ("/v1/events", "wait", "31", "query.wait: must be 30 or less"),
    ("/v1/events", "wait", "soon", "query.wait: must be a number"),
    ("/v1/events", "order", "up", "query.order: must be one of asc, desc"),
    ("/v1/events", "since", "2026-01-01T00:00", "query.since: must be a time with its zone, such as"),
    ("/v1/events", "since", "1767225600", "query.since: must be written out, such as"),
    ("/v1/events", "subject", "x", "query.subject: must match"),
    ("/v1/installations", "status", "gone", "query.status: must be one of unclaimed, active"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name", "value", "said"), BODIES)
async def test_a_field_of_a_body(shared_service: Service, path: str, name: str, value: Any, said: str) -> None:
    answer = await (await shared_service.partner()).post(path, json=OURS | {name: value})

    assert (answer.status_code, answer.json()["detail"]) == (422, said)


@pytest.mark.parametrize(("path", "name", "value", "said"), QUERIES)
async def test_a_parameter(shared_service: Service, path: str, name: str, value: str, said: str) -> None:
    answer = await (await shared_service.partner()).get(path, params={name: value})

    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(said)
    assert not any(words in answer.json()["detail"] for words in FRAMEWORKS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "body: must be valid JSON"),
        (b"[]", "body: must be a JSON object"),
        (b"", "body: is required"),
        (b'{"kind": "http"}', "body.name: is required; body.url: is required"),
        (b"{}", "body.kind: is required"),
    ],
)
async def test_a_body_as_a_whole(shared_service: Service, content: bytes, said: str) -> None:
    partner = await shared_service.partner()

    answer = await partner.post("/v1/subscriptions", content=content, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["detail"]) == (422, said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"position": "1"}, "body.position: must be a whole number"),
        ({"since": "never"}, "body.since: must be written out, such as 2026-01-01T00:00:00Z"),
        ({"since": "2026-01-01T00:00:00Z", "limit": 1}, "body: has a field that is not known here"),
        ({"dry_run": True}, "body: needs a beginning: `since` (a time) or `from` (a position)"),
    ],
)
async def test_a_body_that_may_be_one_of_several(shared_service: Service, body: dict[str, Any], said: str) -> None:
    answer = await (await shared_service.partner()).post(REPLAY, json=body)

    assert (answer.status_code, answer.json()["detail"]) == (422, said)
