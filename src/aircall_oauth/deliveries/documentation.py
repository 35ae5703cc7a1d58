"""Describes a delivery as its receiver gets it, for the API's document."""

from typing import Any

from aircall_oauth.aircall.schemas import TYPED, payloads
from aircall_oauth.deliveries.destinations.http import DEADLINE_SECONDS
from aircall_oauth.events.routes import EventView

DESCRIPTION = f"""
Every event that a subscription wants, as `POST` to its `url`. At least once: drop what you have seen, by `webhook-id`.

Signed as [Standard Webhooks](https://www.standardwebhooks.com) says; verify the exact bytes of the body. Answer 2xx
within {DEADLINE_SECONDS:.0f} seconds: the status line decides, whatever follows it. A redirect is a failure. 410
disables the subscription; 429 and 503 may ask for a pause with `Retry-After` (an hour at most).
"""


EVENT = "EventView"
HEADERS = (
    (
        "webhook-id",
        "The event's id: the same at every attempt",
        "evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8",
    ),
    ("webhook-timestamp", "When this attempt was made, as UNIX seconds", "1767261600"),
    (
        "webhook-signature",
        "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; two of them, separated by "
        "a space, while a secret is rotated",
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
)


def webhooks() -> dict[str, Any]:
    """The `webhooks` section: any event, and the commonest ones with their `data`."""
    typed = {kind: _delivery(kind, schema_name(kind)) for kind in TYPED}
    return {"event": _delivery("event", EVENT), **typed}


def schemas() -> dict[str, Any]:
    """Return the schemas of the commonest events, each an event with its type and the `data` of it."""
    return payloads() | {schema_name(kind): _typed(kind, data) for kind, data in TYPED.items()}


def schema_name(kind: str) -> str:
    """Return the name of an event's schema: `call.ringing_on_agent` is `CallRingingOnAgentEvent`."""
    return f"{kind.replace('.', '_').title().replace('_', '')}Event"


def _typed(kind: str, data: str) -> dict[str, Any]:
    """Return an event's schema written out: generators do not narrow a field of a schema that they are to merge."""
    event = EventView.model_json_schema()
    event["properties"] |= {"type": {"type": "string", "const": kind}, "data": _reference(data)}
    return event | {"description": f"An event of the type `{kind}`."}


def _delivery(kind: str, schema: str) -> dict[str, Any]:
    return {
        "post": {
            "tags": ["Subscriptions"],
            "operationId": f"deliver_{kind.replace('.', '_')}",
            "summary": "An event is delivered" if schema == EVENT else f"`{kind}` is delivered",
            "description": DESCRIPTION.strip(),
            "security": [],
            "parameters": [_header(*header) for header in HEADERS],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(schema)}}},
            "responses": {
                "2XX": {"description": "Taken"},
                "410": {"description": "No more of them: the subscription is disabled"},
                "429": {"description": "Not now; `Retry-After` is obeyed"},
                "503": {"description": "Not now; `Retry-After` is obeyed"},
            },
        }
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": {"type": "string", "examples": [example]},
    }
