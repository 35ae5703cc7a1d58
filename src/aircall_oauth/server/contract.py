"""Makes the API's document one that generators of clients can use: names, scopes, unions, widths of numbers."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from aircall_oauth.access.scopes import Scope

Document = dict[str, Any]

# How a schema is called where dropping the `View` of our class's name is not enough. A name is part of the contract.
NAMES = {
    "CheckView": "CheckResult",
    "Code": "FindingCode",
    "DeadList": "DeadEventList",
    "DeadRetried": "RetryAnswer",
    "DeadRetry": "RetryRequest",
    "DeadView": "DeadEvent",
    "EventShown": "EventWithDeliveries",
    "Health": "SubscriptionHealth",
    "NewClaim": "ClaimRequest",
    "Outcome": "AuditOutcome",
    "Resend": "ResendRequest",
    "Rotation": "RotateSecretRequest",
    "SecretView": "SecretAnswer",
    "Token": "TokenVerdict",
    "TokenView": "TokenAnswer",
}
# Unions that stand within an operation or a field, by the titles that the framework gives them.
UNIONS = {
    "New": "NewSubscription",
    "From": "StartPosition",
    "Replay": "ReplayRequest",
    "Response Replay Subscription": "ReplayAnswer",
}
# Aircall's ids and the log's positions; JavaScript's numbers lose digits of them.
WIDE = {
    *("position", "first_position", "last_position", "next", "after", "before", "cursor", "from", "to"),
    *("oldest", "newest", "resume_from", "company_id", "integration_id", "number_ids", "call_id", "last-event-id"),
}
LARGEST = {2**31: "int32", 2**63: "int64"}


def name_scopes(document: Document, routes: Iterable[APIRoute]) -> None:
    """Say in each operation which scope its API key must have: as a role of its security, and in its description."""
    for route in routes:
        scopes = list(dict.fromkeys(_scopes(route.dependant)))
        for method in (route.methods or ()) if scopes else ():
            operation = document["paths"][route.path_format][method.lower()]
            operation["security"] = [{"api_key": [str(scope) for scope in scopes]}]
            needed = " and ".join(f"`{scope}`" for scope in scopes)
            operation["description"] = f"{operation['description'].rstrip()}\n\nScope: {needed}."


def _scopes(dependant: Dependant) -> Iterator[Scope]:
    if (scope := getattr(dependant.call, "scope", None)) is not None:
        yield scope
    for each in dependant.dependencies:
        yield from _scopes(each)


def name_schemas(document: Document) -> Document:
    """Return the document with its schemas under the names that clients see."""
    schemas = document["components"]["schemas"]
    written = json.dumps(document)
    renamed = {name: NAMES.get(name, name.removesuffix("View")) for name in schemas}
    for old, new in renamed.items():
        written = written.replace(f'"#/components/schemas/{old}"', f'"#/components/schemas/{new}"')
    named: Document = json.loads(written)
    ours = named["components"]["schemas"]
    named["components"]["schemas"] = {new: ours[old] | {"title": new} for old, new in renamed.items()}
    return named


def name_unions(document: Document) -> None:
    """Move each union that stands within an operation or a field to the schemas, under a name."""
    schemas = document["components"]["schemas"]
    moved: dict[str, Any] = {}

    def move(part: Any) -> None:
        if "title" not in part or not _is_union(part):
            return
        name = UNIONS.get(part["title"], "".join(part["title"].split()))
        beside = {key: part.pop(key) for key in ("default", "description", "examples") if key in part}
        moved[name] = {**part, "title": name}
        part.clear()
        part.update({"$ref": f"#/components/schemas/{name}"}, **beside)

    _each_object([document["paths"], schemas], move)
    schemas.update(moved)


def _is_union(schema: Any) -> bool:
    variants = schema.get("oneOf") or schema.get("anyOf") or []
    return len([variant for variant in variants if variant != {"type": "null"}]) > 1


def set_widths(document: Document) -> None:
    """Give every integer a width, and its bounds as integers: the framework writes them as floating-point numbers."""

    def width(part: Any, name: str) -> None:
        if part.get("type") == "integer":
            for bound in {"minimum", "maximum"} & part.keys():
                part[bound] = min(int(part[bound]), 2**63 - 1)
            part.setdefault("format", "int64" if name.lower() in WIDE else "int32")

    def within(schema: Any, name: str) -> None:
        _each_object(schema, partial(width, name=name))

    def named(part: Any) -> None:
        for name, schema in part.get("properties", {}).items():
            within(schema, name)
        if "schema" in part and "name" in part:
            within(part["schema"], part["name"])

    _each_object(document, named)
    within(document["components"]["schemas"]["StartPosition"], "from")


def _each_object(part: Any, do: Callable[[Any], None]) -> None:
    """Call `do` for every object in a part of the document, the outer one last."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for each in list(inner):
        _each_object(each, do)
    if isinstance(part, dict):
        do(part)
