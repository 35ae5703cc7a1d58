"""Describes a delivery as its receiver gets it, for the API's document."""

from typing import Any

from aircall_oauth.deliveries.destinations.http import DEADLINE_SECONDS

DESCRIPTION = f"""
Every event that a subscription wants, as `POST` to its `url`. At least once: drop what you have seen, by `webhook-id`.

Signed as [Standard Webhooks](https://www.standardwebhooks.com) says; verify the exact bytes of the body. Answer 2xx
within {DEADLINE_SECONDS:.0f} seconds: the status line decides, whatever follows it. A redirect is a failure. 410
disables the subscription; 429 and 503 may ask for a pause with `Retry-After` (an hour at most).
"""


def webhooks() -> dict[str, Any]:
    """The `webhooks` section."""
    return {
        "event": {
            "post": {
                "tags": ["Subscriptions"],
                "operationId": "deliver_event",
                "summary": "An event is delivered",
                "description": DESCRIPTION.strip(),
                "security": [],
                "parameters": [
                    _header(
                        "webhook-id",
                        "The event's id: the same at every attempt",
                        "evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8",
                    ),
                    _header("webhook-timestamp", "When this attempt was made, as UNIX seconds", "1767261600"),
                    _header(
                        "webhook-signature",
                        "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; two of them, separated by "
                        "a space, while a secret is rotated",
                        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
                    ),
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EventView"}}},
                },
                "responses": {
                    "2XX": {"description": "Taken"},
                    "410": {"description": "No more of them: the subscription is disabled"},
                    "429": {"description": "Not now; `Retry-After` is obeyed"},
                    "503": {"description": "Not now; `Retry-After` is obeyed"},
                },
            }
        }
    }


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": {"type": "string", "examples": [example]},
    }
