"""Hides personal data: what Aircall sends holds phone numbers, names, e-mail addresses, and what people said.

Everything in a payload is hidden that is not known to be harmless, so a field that Aircall adds tomorrow is hidden too.
"""

import re
from typing import Any

DOTS = "••••"
# Texts that say what something is, not who somebody is.
HARMLESS = frozenset(
    {
        *("availability_status", "branch", "call_end_reason", "channel", "color", "cost", "country", "createdAt"),
        *("created_at", "direction", "event", "event_name", "file_type", "format", "hangup_cause", "language"),
        *("missed_call_reason", "participant_type", "priority", "reason", "recipient_country", "resource", "state"),
        *("status", "substatus", "time_zone", "type", "updated_at", "webhook"),
        *("whatsapp_message_category", "whatsapp_message_type"),
    }
)
WORD = re.compile(r"(?!.*//)[A-Za-z0-9_.:/+-]{1,64}")  # no address: a time zone has one slash
# The signs of a time, a number or an id, whatever the field is called.
PLAIN = re.compile(
    r"\d{4}-\d\d-\d\d[T ][0-9:.]+(Z|[+-]\d\d:?\d\d)?"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(evt|ins|sub|att|lnk|key|log)_[0-9a-f]{32}"
)
# The names of ids, and what an id looks like: letters first, or too few digits for a phone number.
IDS = frozenset(
    {
        *("id", "uuid", "call_uuid", "call_id", "user_id", "ai_voice_agent_id", "ai_voice_agent_session_id"),
    }
)
ID = re.compile(r"[A-Za-z]{1,8}[-_]?[0-9][0-9A-Za-z-]{0,60}|[0-9]{1,8}")
# What only settings and choices look like, by the name of their field.
FORMS = {
    "color": re.compile(r"#[0-9A-Fa-f]{3,8}"),
    "key": re.compile(r"[0-9*#]"),
    "call_id": re.compile(r"[0-9]{1,19}"),
    "direct_link": re.compile(r"https://api\.aircall\.io/v[0-9]/[a-z_]{1,30}/[0-9]{1,19}"),
}
# What a number plays to its callers is a setting of the number, each under a name of Aircall's.
MESSAGES = "messages"
MESSAGE = re.compile(r"https?://[A-Za-z0-9_.:/+-]{1,256}")
PHONE = re.compile(r"\+?[0-9][0-9 ().\-/]{5,}[0-9]")
EMAIL = re.compile(r"([^@\s])[^@\s]*@([^@\s])[^@\s]*(\.[^@\s.]+)")
# Numbers that may be a phone number or an identity, where others only count or name rows.
NUMBERS_HIDDEN = frozenset(
    {
        *("digits", "raw_digits", "e164_digits", "phone_number", "external_number", "external_caller_number"),
        *("aircall_number", "external_transferred_to", "participants", "value"),
    }
)
# No count, score or time in seconds is larger: a phone number may be. Ids and times in milliseconds are.
MOST_COUNTED = 10**10
LARGE = IDS | {"company_id", "number_id", "contact_id", "timestamp", "createdAt", "created_at", "updated_at", "sent_at"}


def masked(value: Any, name: str = "") -> Any:
    """Return a payload with its personal data hidden; its shape, its ids, times and states stay."""
    match value:
        case dict():
            plays = name == MESSAGES
            return {
                _masked_name(key): each if plays and _is_message(each) else masked(each, key)
                for key, each in value.items()
            }
        case list():
            return [masked(each, name) for each in value]
        case str():
            return value if _is_plain(value, name) else text(value)
        case bool() | None:
            return value
        case int() | float() if name in NUMBERS_HIDDEN or (abs(value) >= MOST_COUNTED and name not in LARGE):
            return phone(str(value))
        case _:
            return value


def subject(value: str, *, is_number: bool) -> str:
    """Return what an event is about, with what follows its kind hidden unless it is an id.

    Aircall's ids are numbers in its JSON (`is_number`); digits in a text may be a phone number.
    """
    kind, _, about = value.partition(":")
    return value if is_number or PLAIN.fullmatch(about) or ID.fullmatch(about) else f"{kind}:{text(about)}"


def text(value: str) -> str:
    """Hide a text, and leave of it what helps to recognise it: `+33 6 •• •• •• 12`, `j••••@e••••.com`, `J••••`."""
    if not value:
        return value
    if EMAIL.fullmatch(value):
        return EMAIL.sub(rf"\1{DOTS}@\2{DOTS}\3", value)
    if PHONE.fullmatch(value):
        return phone(value)
    return f"{value[0]}{DOTS}" if value[0].isalpha() and " " not in value and len(value) < 40 else DOTS


def phone(value: str) -> str:
    """Hide a phone number but for its beginning and its last two digits."""
    digits = re.sub(r"\D", "", value)
    if len(digits) < 7:
        return "•" * len(digits)
    if value.lstrip().startswith("+"):
        return f"+{digits[:2]} {digits[2]} •• •• •• {digits[-2:]}"
    return f"{digits[:2]} •• •• •• {digits[-2:]}"


def _masked_name(name: str) -> str:
    return text(name) if PHONE.fullmatch(name) or EMAIL.fullmatch(name) else name


def _is_plain(value: str, name: str) -> bool:
    if PLAIN.fullmatch(value) or (name in FORMS and FORMS[name].fullmatch(value)):
        return True
    if name in IDS and ID.fullmatch(value):
        return True
    return name in HARMLESS and bool(WORD.fullmatch(value)) and not PHONE.fullmatch(value)


def _is_message(value: Any) -> bool:
    return isinstance(value, str) and bool(MESSAGE.fullmatch(value))
