"""The API's document is one that generators of clients can use."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from aircall_oauth import errors
from aircall_oauth.access.scopes import Scope
from aircall_oauth.aircall.schemas import TYPED
from aircall_oauth.deliveries.documentation import schema_name
from aircall_oauth.server import openapi
from tests.access.test_doors import IDS
from tests.support.receivers import subscription_body
from tests.support.service import Service
from tests.support.tools import miss

DOCUMENT = openapi.document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    (method.upper(), path, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]
# What a body needs so that only its caller's scope is missing.
BODIES: dict[str, dict[str, Any]] = {
    "make_install_link": {"owner": "acme"},
    "claim_installation": {"claim": "c", "owner": "acme"},
    "create_subscription": subscription_body("https://crm.example.com/"),
    "replay_subscription": {"position": 0},
    "resend_event": {"subscription_id": f"sub_{'0' * 32}"},
}


def objects(part: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document, but for those within an example."""
    if isinstance(part, dict):
        yield part
        for name, each in part.items():
            if name not in {"example", "examples"}:
                yield from objects(each)
    elif isinstance(part, list):
        for each in part:
            yield from objects(each)


@pytest.mark.slow
def test_a_strict_validator_finds_nothing() -> None:
    try:
        from openapi_spec_validator import OpenAPIV31SpecValidator
    except ImportError:
        miss("openapi-spec-validator is not installed (it is in the ci dependency group)")

    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [each for each in OPERATIONS if each[2].get("security")],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_the_scope_that_an_operation_names_is_the_one_it_needs(
    shared_service: Service, method: str, path: str, operation: dict[str, Any]
) -> None:
    (needed,) = operation["security"][0]["api_key"]
    ids = {name: f"{prefix}_{'0' * 32}" for name, prefix in IDS.items()}
    without = await shared_service.partner(*(scope for scope in Scope if scope != needed))
    body = BODIES.get(operation["operationId"], {}) if "requestBody" in operation else None

    answer = await without.request(method, path.format(path="calls", **ids), json=body)

    assert answer.status_code == 403
    assert f"`{needed}`" in operation["description"]
    if method != "HEAD":
        assert (answer.json()["code"], needed in answer.json()["detail"]) == ("scope_missing", True)


def test_the_codes_of_a_problem_are_those_of_the_errors() -> None:
    tree = errors.__doc__ or ""
    listed = SCHEMAS["Problem"]["properties"]["code"]["enum"]

    for name in ("InstallationNotFound", "PositionGone", "BudgetSpent", "DatabaseAway", "AircallUnavailable"):
        assert name in tree
        assert re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() in listed
    assert len(listed) == len(set(listed))
    assert set(listed) >= {
        answer["content"]["application/problem+json"]["example"]["code"]
        for _, _, operation in OPERATIONS
        for answer in operation["responses"].values()
        if "application/problem+json" in answer.get("content", {})
    }


def test_every_union_has_a_name() -> None:
    for part in [DOCUMENT["paths"], *(schema.get("properties", {}) for schema in SCHEMAS.values())]:
        for each in objects(part):
            variants = each.get("oneOf") or each.get("anyOf") or []
            assert len([one for one in variants if one != {"type": "null"}]) <= 1, each


def test_every_integer_has_a_width() -> None:
    numbers = [each for each in objects(DOCUMENT) if each.get("type") in ("integer", ["integer", "null"])]

    assert {each.get("format") for each in numbers} == {"int32", "int64"}
    for name in ("position", "company_id"):
        assert SCHEMAS["Event"]["properties"][name]["format"] == "int64"
    for each in numbers:
        if each["format"] == "int32":
            assert each.get("maximum", 0) < 2**31, each
        assert all(isinstance(each.get(bound, 0), int) for bound in ("minimum", "maximum")), each


def test_no_answer_is_of_any_media_type() -> None:
    for method, path, operation in OPERATIONS:
        for answer in operation["responses"].values():
            assert "*/*" not in answer.get("content", {}), (method, path)


def test_names_are_for_clients() -> None:
    assert {"Event", "Attempt", "TokenAnswer", "DeliveryStatus"} <= SCHEMAS.keys()
    for name, schema in SCHEMAS.items():
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", name)
        assert not name.endswith(("View", "Became"))
        assert schema["title"] == name


def test_an_item_of_the_stream_is_described() -> None:
    stream = DOCUMENT["paths"]["/v1/events/stream"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    item = SCHEMAS["StreamItem"]["properties"]

    assert stream["schema"] == {"$ref": "#/components/schemas/StreamItem"}
    assert item["data"]["contentSchema"] == {"$ref": "#/components/schemas/Event"}


@pytest.mark.parametrize("kind", TYPED)
def test_the_commonest_events_have_a_schema_that_their_samples_fit(kind: str, samples: Path) -> None:
    sample = json.loads((samples / f"event.{kind}.json").read_text())["data"]
    schema = SCHEMAS[TYPED[kind]] | {"components": DOCUMENT["components"]}

    assert jsonschema_rs.Draft202012Validator(schema).is_valid(sample)
    # Each field is one that Aircall sends, and nearly all that it sends are there.
    assert schema["properties"].keys() - sample.keys() <= {"created_at", "updated_at"}
    assert len(sample.keys() - schema["properties"].keys()) <= 1
    assert not jsonschema_rs.Draft202012Validator(schema).is_valid(sample | {"direction": 1, "first_name": 1})
    assert {"$ref": f"#/components/schemas/{schema_name(kind)}"} == DOCUMENT["webhooks"][kind]["post"]["requestBody"][
        "content"
    ]["application/json"]["schema"]


def test_an_old_name_is_marked_as_deprecated() -> None:
    parameters = DOCUMENT["paths"]["/v1/events"]["get"]["parameters"]

    assert [each["name"] for each in parameters if each.get("deprecated")] == ["installation"]
    for _, _, operation in OPERATIONS:
        for each in operation.get("parameters", []):
            assert each.get("deprecated", False) == ("old name" in each.get("description", "")), each
