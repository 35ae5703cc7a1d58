"""Nothing that the last released document promises is removed or narrowed."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aircall_oauth.server import openapi
from tests.support.compatibility import faults

RELEASED = Path(__file__).parents[2] / "docs" / "openapi-released.json"
Change = Callable[[Any], Any]


def test_the_released_document_still_holds() -> None:
    """Where it does not: put back what is gone. A release copies docs/openapi.json over docs/openapi-released.json."""
    assert faults(json.loads(RELEASED.read_text()), openapi.document()) == []


def changed(change: Change) -> list[str]:
    old, new = openapi.document(), copy.deepcopy(openapi.document())
    change(new)
    return faults(old, new)


def schema(document: Any, name: str) -> Any:
    return document["components"]["schemas"][name]


def field(document: Any, name: str, of: str) -> Any:
    return schema(document, of)["properties"][name]


def parameters(document: Any, path: str = "/v1/events") -> list[Any]:
    found: list[Any] = document["paths"][path]["get"]["parameters"]
    return found


def the(name: str, document: Any) -> Any:
    return next(each for each in parameters(document) if each["name"] == name)


BREAKING: list[tuple[str, Change]] = [
    ("GET /v1/audit is gone", lambda d: d["paths"].pop("/v1/audit")),
    ("PATCH /v1/subscriptions", lambda d: d["paths"]["/v1/subscriptions/{subscription_id}"].pop("patch")),
    ("its operationId was", lambda d: d["paths"]["/v1/audit"]["get"].update(operationId="audit")),
    ("needs a scope more", lambda d: d["paths"]["/v1/audit"]["get"].update(security=[{"api_key": ["x:y"]}])),
    ("the parameter installation is gone", lambda d: parameters(d).remove(the("installation", d))),
    ("limit is required", lambda d: the("limit", d).update(required=True)),
    ("limit: maximum is 10", lambda d: the("limit", d)["schema"].update(maximum=10)),
    ("order: takes fewer values", lambda d: the("order", d)["schema"].update(enum=["asc"])),
    ("no longer answers 410", lambda d: d["paths"]["/v1/events"]["get"]["responses"].pop("410")),
    (
        "text/event-stream is gone",
        lambda d: d["paths"]["/v1/events/stream"]["get"]["responses"]["200"]["content"].clear(),
    ),
    ("Event.owner is gone", lambda d: schema(d, "Event")["properties"].pop("owner")),
    ("Event.owner is no longer always there", lambda d: schema(d, "Event")["required"].remove("owner")),
    ("Event.position: was integer, is string", lambda d: field(d, "position", "Event").update(type="string")),
    (
        "Event.type: was string, is null or string",
        lambda d: field(d, "type", "Event").update(type=["string", "null"]),
    ),
    (
        "Installation.company_id: a variant is new",
        lambda d: schema(d, "Installation")["properties"].update(
            company_id={"anyOf": [{"type": "integer"}, {"type": "null"}]}
        ),
    ),
    ("NewHttp.name: maxLength is 10", lambda d: field(d, "name", "NewHttp").update(maxLength=10)),
    ("NewHttp.name: pattern is", lambda d: field(d, "name", "NewHttp").update(pattern="^x$")),
    ("NewHttp.label is required", lambda d: schema(d, "NewHttp")["required"].append("label")),
    ("NewHttp.types is gone", lambda d: schema(d, "NewHttp")["properties"].pop("types")),
    ("NewSubscription: a variant is gone", lambda d: schema(d, "NewSubscription")["oneOf"].pop()),
    ("SubscriptionOrder: takes fewer values", lambda d: schema(d, "SubscriptionOrder").update(enum=["none"])),
    ("schema StreamItem is gone", lambda d: d["components"]["schemas"].pop("StreamItem")),
    ("webhook call.ended is gone", lambda d: d["webhooks"].pop("call.ended")),
]


@pytest.mark.parametrize(("said", "change"), BREAKING, ids=[said for said, _ in BREAKING])
def test_what_is_removed_or_narrowed_is_found(said: str, change: Change) -> None:
    found = changed(change)

    assert any(said in fault for fault in found), found


COMPATIBLE: list[Change] = [
    lambda d: d["paths"].update({"/v1/more": d["paths"]["/v1/audit"]}),
    lambda d: parameters(d).append({"name": "more", "in": "query", "schema": {"type": "string"}}),
    lambda d: the("limit", d)["schema"].update(maximum=5000),
    lambda d: schema(d, "Event")["properties"].update(more={"type": "string"}),
    lambda d: schema(d, "Problem")["properties"]["code"]["enum"].append("more"),
    lambda d: schema(d, "NewHttp")["properties"].update(more={"type": "string"}),
    lambda d: field(d, "name", "NewHttp").update(maxLength=200),
    lambda d: schema(d, "NewSubscription")["oneOf"].append({"type": "object", "properties": {}}),
    lambda d: d["webhooks"].update(more=d["webhooks"]["event"]),
    lambda d: d["info"].update(description="Another one."),
]


@pytest.mark.parametrize("change", COMPATIBLE)
def test_what_is_added_breaks_nobody(change: Change) -> None:
    assert changed(change) == []


def test_the_same_document_is_compatible() -> None:
    assert faults(openapi.document(), openapi.document()) == []
