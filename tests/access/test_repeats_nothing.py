"""No refusal repeats what was sent: a secret in the wrong place gets into no log of the caller's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from aircall_oauth.server import openapi
from tests.support.receivers import subscription_body
from tests.support.service import Service

CANARY = "c4n4ry"
FORMS: tuple[Any, ...] = (
    *(CANARY, f"https://u:{CANARY}@127.0.0.1/?t={CANARY}", f"2026-01-01T{CANARY}", f"{CANARY}\x00", CANARY * 1000),
    *({CANARY: CANARY}, [{CANARY: [CANARY]}]),
)
DOCUMENT = openapi.document()
OPERATIONS = [
    (method, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if path != "/v1/events/stream"
]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def variants(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every kind of object that a body may be."""
    schema = resolved(schema)
    inner = [each for name in ("anyOf", "oneOf", "allOf") for each in schema.get(name, ())]
    for each in inner:
        yield from variants(each)
    if "properties" in schema:
        yield schema


def an_example(schema: dict[str, Any]) -> Any:
    schema = resolved(schema)
    known = schema.get("examples") or schema.get("enum") or [schema.get("const", schema.get("default", "x"))]
    return known[0]


def bodies(operation: dict[str, Any]) -> Iterator[Any]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return
    yield from FORMS
    for variant in variants(content["schema"]):
        fields, required = variant["properties"], variant.get("required", ())
        whole = {name: an_example(field) for name, field in fields.items() if name in required}
        for name, form in [(name, form) for name in fields for form in FORMS]:
            yield whole | {name: form}
        yield whole | {CANARY: "x"}
        yield whole | {f"{next(iter(fields))}_{CANARY}": CANARY}


def requests(path: str, operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    known = {p["name"]: an_example(p["schema"]) for p in operation.get("parameters", ()) if p["in"] == "path"}
    addressed = path.format(**known)
    for body in bodies(operation):
        yield {"url": addressed, "json": body}
    yield {"url": addressed, "content": f'{{"{CANARY}": {CANARY}', "headers": {"content-type": "application/json"}}
    yield {"url": addressed, "content": CANARY, "headers": {"content-type": f"text/{CANARY}"}}
    yield {"url": addressed, "headers": {"authorization": f"Bearer {CANARY}"}}
    yield {"url": addressed, "headers": {"authorization": CANARY}}
    yield {"url": addressed, "params": {CANARY: CANARY}}
    for parameter in operation.get("parameters", ()):
        for form in [form for form in FORMS if isinstance(form, str)]:
            match parameter["in"]:
                case "path":
                    yield {"url": path.format(**(known | {parameter["name"]: form.replace("\x00", "%00")}))}
                case "query":
                    yield {"url": addressed, "params": {parameter["name"]: form}}
                case "header" if form.isprintable():
                    yield {"url": addressed, "headers": {parameter["name"]: form}}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=[f"{m} {p}" for m, p, _ in OPERATIONS])
async def test_no_refusal_of_any_door_repeats_what_was_sent(
    shared_service: Service, method: str, path: str, operation: dict[str, Any]
) -> None:
    partner = await shared_service.partner()
    refused = 0

    for request in requests(path, operation):
        answer = await partner.request(method, **request)

        if answer.status_code >= 400 and method != "head":
            refused += 1
            assert CANARY not in answer.text.lower(), (request, answer.text)
            assert CANARY not in str(answer.headers).lower(), (request, answer.headers)
        assert answer.status_code != 500, request
    assert refused or path in {"/livez", "/readyz"} or method == "head"


async def test_a_kind_that_is_not_known_is_told_by_those_that_are(shared_service: Service) -> None:
    partner = await shared_service.partner()

    answer = await partner.post("/v1/subscriptions", json={"name": "x", "kind": CANARY, "url": "https://203.0.114.7/"})

    assert answer.status_code == 422
    assert answer.json()["detail"] == "body.kind: must be one of http, nats, rabbitmq, kafka"


async def test_a_field_that_is_not_known_is_answered_with_the_nearest_that_is(shared_service: Service) -> None:
    partner, body = await shared_service.partner(), subscription_body("https://203.0.114.7/", name="x")

    near = await partner.post("/v1/subscriptions", json=body | {"type": ["call.*"]})
    far = await partner.post("/v1/subscriptions", json=body | {CANARY: 1})

    assert near.json()["detail"] == "body: has a field that is not known here; did you mean 'types'?"
    assert far.json()["detail"] == "body: has a field that is not known here"


def test_the_search_reaches_every_field() -> None:
    asked = [json.dumps(body) for _, _, operation in OPERATIONS for body in bodies(operation)]

    for field in ("subject", "exchange", "routing_key", "topic", "from", "since", "position", "event_ids", "claim"):
        assert any(f'"{field}": "{CANARY}"' in body for body in asked), field
