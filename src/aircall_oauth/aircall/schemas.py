"""The `data` of Aircall's commonest events as JSON Schema, loosely: any field may be absent or null, more may be there.

Fields as in the API reference (developers.aircall.io/api-references, read August 2026).
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": ["string", "null"]}
SWITCH: Schema = {"type": ["boolean", "null"]}
NUMBER: Schema = {"type": ["integer", "null"], "format": "int32"}
ID: Schema = {"type": "integer", "format": "int64"}
SECONDS: Schema = {"type": ["integer", "null"], "format": "int64", "description": "UNIX time in seconds"}

TYPED = {
    "call.created": "CallData",
    "call.ringing_on_agent": "CallData",
    "call.answered": "CallData",
    "call.hungup": "CallData",
    "call.ended": "CallData",
    "call.voicemail_left": "CallData",
    "call.tagged": "CallData",
    "message.received": "MessageData",
    "contact.created": "ContactData",
    "contact.updated": "ContactData",
}


def payloads() -> dict[str, Schema]:
    """Return the schemas by name."""
    contact, number = _maybe("ContactData"), _maybe("NumberData")
    user = _maybe("UserData")
    return {
        "CallData": _object(
            {"id": ID}
            | dict.fromkeys(("direct_link", "call_uuid", "direction", "status", "missed_call_reason"), TEXT)
            | dict.fromkeys(("started_at", "answered_at", "ended_at"), SECONDS)
            | {"duration": NUMBER | {"description": "Seconds"}}
            | dict.fromkeys(("cost", "hangup_cause", "voicemail", "recording", "asset", "raw_digits"), TEXT)
            | {"archived": SWITCH, "contact": contact, "number": number}
            | dict.fromkeys(("user", "assigned_to", "transferred_by", "transferred_to"), user)
            | dict.fromkeys(("teams", "comments", "tags", "participants"), _list({"type": "object"}))
        ),
        "ContactData": _object(
            {"id": ID, "is_shared": SWITCH}
            | dict.fromkeys(("direct_link", "first_name", "last_name", "company_name", "description"), TEXT)
            | dict.fromkeys(("information", "created_at", "updated_at"), TEXT)
            | {"phone_numbers": _list(_reference("ContactDetail")), "emails": _list(_reference("ContactDetail"))}
        ),
        "ContactDetail": _object({"id": ID, "label": TEXT, "value": TEXT}),
        "MessageData": _object(
            {"id": TEXT}
            | dict.fromkeys(("direct_link", "direction", "external_number", "raw_digits", "body", "status"), TEXT)
            | dict.fromkeys(("channel", "created_at", "updated_at", "sent_at"), TEXT)
            | {"media_details": _list({"type": "object"}), "number": number, "contact": contact}
        ),
        "NumberData": _object(
            {"id": ID}
            | dict.fromkeys(("direct_link", "name", "digits", "e164_digits", "country", "time_zone"), TEXT)
            | {"created_at": TEXT, "availability_status": TEXT}
            | {"open": SWITCH, "is_ivr": SWITCH, "live_recording_activated": SWITCH}
        ),
        "UserData": _object(
            {"id": ID, "available": SWITCH}
            | dict.fromkeys(("direct_link", "name", "email", "availability_status", "created_at"), TEXT)
            | {"time_zone": TEXT, "language": TEXT}
        ),
    }


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": True}


def _list(item: Schema) -> Schema:
    return {"type": ["array", "null"], "items": item}


def _maybe(name: str) -> Schema:
    return {"anyOf": [_reference(name), {"type": "null"}]}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
