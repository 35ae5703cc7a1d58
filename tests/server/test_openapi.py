"""The API's document is complete, matches the service, and is shown without assets from elsewhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from dirty_equals import Contains, IsList, IsPartialDict, IsStr
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from aircall_oauth.server import openapi
from aircall_oauth.storage.stamps import new_id
from tests.support.service import Service

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TO_AIRCALL = "/v1/installations/{installation_id}/aircall/{path}"
DOORS = {
    **{f"{method} {TO_AIRCALL}": f"ask_aircall_{method.lower()}" for method in METHODS},
    "GET /aircall/oauth/install": "install",
    "GET /aircall/oauth/callback": "callback",
    "POST /aircall/webhook": "receive_event",
    "GET /v1/installations": "list_installations",
    "GET /v1/installations/{installation_id}": "show_installation",
    "DELETE /v1/installations/{installation_id}": "disconnect",
    "POST /v1/installations/{installation_id}/check": "check_installation",
    "GET /v1/installations/{installation_id}/token": "read_token",
    "POST /v1/install-links": "make_install_link",
    "GET /v1/install-attempts": "list_install_attempts",
    "GET /v1/install-attempts/{attempt_id}": "show_install_attempt",
    "POST /v1/claims": "claim_installation",
    "GET /v1/events": "list_events",
    "GET /v1/events/stream": "stream_events",
    "GET /v1/events/{event_id}": "show_event",
    "POST /v1/subscriptions": "create_subscription",
    "GET /v1/subscriptions": "list_subscriptions",
    "GET /v1/subscriptions/{subscription_id}": "show_subscription",
    "PATCH /v1/subscriptions/{subscription_id}": "change_subscription",
    "DELETE /v1/subscriptions/{subscription_id}": "delete_subscription",
    "POST /v1/subscriptions/{subscription_id}/pause": "pause_subscription",
    "POST /v1/subscriptions/{subscription_id}/resume": "resume_subscription",
    "POST /v1/subscriptions/{subscription_id}/replay": "replay_subscription",
    "GET /v1/subscriptions/{subscription_id}/replays": "list_replays",
    "GET /v1/subscriptions/{subscription_id}/replays/{replay_id}": "show_replay",
    "POST /v1/subscriptions/{subscription_id}/replays/{replay_id}/stop": "stop_replay",
    "POST /v1/events/{event_id}/resend": "resend_event",
    "POST /v1/subscriptions/{subscription_id}/rotate-secret": "rotate_subscription_secret",
    "POST /v1/subscriptions/{subscription_id}/test": "test_subscription",
    "GET /v1/subscriptions/{subscription_id}/attempts": "list_subscription_attempts",
    "GET /v1/subscriptions/{subscription_id}/dead": "list_dead_events",
    "POST /v1/subscriptions/{subscription_id}/dead/retry": "retry_dead_events",
    "GET /v1/audit": "list_audit",
    "POST /v1/erasures": "erase_person",
    "GET /v1/erasures": "list_erasures",
    "GET /v1/erasures/{erasure_id}": "show_erasure",
    "GET /v1/erasures/{erasure_id}/positions": "list_erased_positions",
    "GET /v1/retention": "list_retention",
    "GET /v1/retention/{owner}": "show_retention",
    "PUT /v1/retention/{owner}": "set_retention",
    "DELETE /v1/retention/{owner}": "reset_retention",
    "GET /v1/installations/{installation_id}/export": "export_installation",
    "GET /livez": "livez",
    "GET /readyz": "readyz",
}
PROBLEM = {
    "application/problem+json": {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "example": IsPartialDict(code=IsStr()),
    }
}
PAGE = {"text/html": {"schema": {"type": "string"}}}
OF_API_KEYS = {"401", "403", "422", "503"}


def test_the_committed_document_is_the_served_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is not: `python -m aircall_oauth.server.openapi > docs/openapi.json`."""
    openapi.main()

    assert capsys.readouterr().out == COMMITTED.read_text()


def test_the_document_is_valid() -> None:
    OPENAPI_31_VALIDATOR.validate(openapi.document())


@pytest.mark.slow
def test_every_schema_is_one_and_every_default_and_example_fits_its_own() -> None:
    document = openapi.document()

    for place, schema, value in _examples(document):
        whole = {**schema, "components": document["components"]}
        assert jsonschema_rs.Draft202012Validator(whole).is_valid(value), (place, value)


def _examples(part: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every default and example in the document, with the schema that stands beside it or over it."""
    if isinstance(part, list):
        for number, each in enumerate(part):
            yield from _examples(each, f"{place}/{number}")
    if not isinstance(part, dict):
        return
    schema = part.get("schema", part)
    if isinstance(schema, dict) and {"type", "$ref", "anyOf", "oneOf", "allOf"} & schema.keys():
        yield from ((place, schema, part[key]) for key in ("default", "example") if key in part)
        yield from ((place, schema, value) for value in part.get("examples", []))
    for name, each in part.items():
        if name not in {"default", "example", "examples", "enum", "const"}:
            yield from _examples(each, f"{place}/{name}")


async def test_the_example_of_a_refusal_is_what_a_door_answers(shared_service: Service) -> None:
    refusals = dict(_operations())["GET /v1/installations/{installation_id}"]["responses"]
    path = f"/v1/installations/{new_id('ins')}"

    answers = [await shared_service.browser.get(path), await (await shared_service.partner()).get(path)]

    for status, answer in zip(("401", "404"), answers, strict=True):
        example = refusals[status]["content"]["application/problem+json"]["example"]
        assert answer.json() | {"request_id": example["request_id"]} == example


def test_an_example_of_a_refusal_stands_under_its_own_status() -> None:
    for door, operation in _operations():
        for status, answer in operation["responses"].items():
            if example := answer.get("content", {}).get("application/problem+json", {}).get("example"):
                assert (str(example["status"]), example["type"].rpartition(":")[2]) == (status, example["code"]), door


async def test_the_document_is_served(shared_service: Service) -> None:
    answer = await shared_service.browser.get("/openapi.json")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(COMMITTED.read_text())


def test_every_door_is_in_it_with_all_that_a_reader_needs() -> None:
    tags = {tag["name"] for tag in openapi.document()["tags"]}

    assert {door: operation["operationId"] for door, operation in _operations()} == DOORS
    for door, operation in _operations():
        assert len(operation["tags"]) == 1, door
        assert operation["tags"][0] in tags
        assert operation["summary"] == IsStr(min_length=5)
        assert operation["description"] == IsStr(regex=r"(?s).*\.")
        for parameter in operation.get("parameters", []):
            assert parameter["schema"], door


def test_every_door_says_how_it_refuses() -> None:
    for door, operation in _operations():
        answers = operation["responses"]
        refusals = {status: answer for status, answer in answers.items() if status >= "400"}
        browser = "/aircall/oauth/" in door

        assert all(answer["description"] for answer in answers.values()), door
        passed_on: dict[str, Any] = {"application/json": {"schema": {}}} if TO_AIRCALL in door else {}
        refused = PAGE if browser else PROBLEM | passed_on
        assert all(refusals[status]["content"] in (refused, passed_on) for status in refusals), door
        if "/v1/" in door:
            assert refusals.keys() >= OF_API_KEYS, door
        elif browser:
            assert "400" in refusals


def test_what_an_answer_looks_like_is_said_with_examples() -> None:
    document = openapi.document()

    for door, operation in _operations():
        for status, answer in operation["responses"].items():
            if status == "200":
                assert answer["content"], door
    for name in ("Installation", "Event", "TokenAnswer", "Subscription", "Problem", "AircallEvent"):
        properties = document["components"]["schemas"][name]["properties"]
        assert any("examples" in property_ for property_ in properties.values()), name


def test_only_the_partners_doors_want_an_api_key() -> None:
    document = openapi.document()

    schemes = document["components"]["securitySchemes"]
    assert schemes == {"api_key": {"type": "http", "scheme": "bearer", "description": IsStr(min_length=5)}}
    for door, operation in _operations():
        wanted = [{"api_key": IsList(IsStr(regex="[a-z]+:[a-z]+"), length=1)}] if "/v1/" in door else []
        assert operation.get("security", []) == wanted, door


def test_aircalls_door_is_described() -> None:
    door = dict(_operations())["POST /aircall/webhook"]

    body = door["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/AircallEvent"}
    assert body["content"]["application/json"]["example"].keys() == {"resource", "event", "timestamp", "token", "data"}
    assert door["responses"].keys() == {"200", "400", "401", "408", "413", "415", "503"}


def test_what_goes_out_is_described() -> None:
    delivery = openapi.document()["webhooks"]["event"]["post"]

    assert delivery["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Event"}
    assert [header["name"] for header in delivery["parameters"]] == [
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
    ]


async def test_the_example_of_an_event_is_one(service: Service) -> None:
    await service.installed()
    body = dict(_operations())["POST /aircall/webhook"]["requestBody"]["content"]["application/json"]
    event = body["example"] | {"token": service.webhook_token()}

    answer = await service.post_event(json.dumps(event).encode())

    assert answer.status_code == 200
    assert (
        answer.json()
        == dict(_operations())["POST /aircall/webhook"]["responses"]["200"]["content"]["application/json"]["example"]
    )


def test_every_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    document = openapi.document()
    schemas = document["components"]["schemas"]

    referred = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(document)))

    assert referred == {f"#/components/schemas/{name}" for name in schemas}
    for kind in document["components"].values():
        for name in kind:
            assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name


async def test_the_documentation_is_shown_without_asking_anybody_else(shared_service: Service) -> None:
    page = await shared_service.browser.get("/docs")

    # Relative, so that a proxy may show it under any path.
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in re.sub(r"^\s*//.*$|<!--.*?-->", "", page.text, flags=re.MULTILINE)
    assert "url: 'openapi.json'" in page.text
    assets = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert assets == Contains("docs/assets/swagger-ui-bundle.js", "docs/assets/swagger-ui.css")
    for asset in assets:
        answer = await shared_service.browser.get(asset)
        assert answer.status_code == 200, asset
        assert len(answer.content) > 500
        assert answer.headers["content-type"].split(";")[0] in {
            *("text/javascript", "application/javascript", "text/css", "image/png"),
        }


async def test_the_document_needs_no_key_and_holds_no_setting(shared_service: Service) -> None:
    answer: httpx.Response = await shared_service.new_browser().get("/openapi.json")

    assert answer.status_code == 200
    for value in (
        shared_service.settings.public_url,
        shared_service.settings.client_id,
        shared_service.settings.api_url,
    ):
        assert value not in answer.text


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in openapi.document()["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation
