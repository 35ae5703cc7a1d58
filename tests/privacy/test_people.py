"""Whom an event is about: numbers in any spelling, addresses in any case, ids where Aircall has them."""

import json
from typing import Any

import pytest

from aircall_oauth.privacy import people
from aircall_oauth.privacy.people import Finder, PatternRefused, Told
from aircall_oauth.storage.statuses import ErasureKind

LONDON = "+44 20 7946 0123"


def finds(kind: ErasureKind, pattern: str, data: Any, resource: str = "call") -> bool:
    """Whether it is found; what is found must never be passed over by the quick look."""
    finder = Finder(people.parse(kind, pattern))
    raw = json.dumps(data, ensure_ascii=False).encode()
    found = finder.finds(people.read(resource, raw))
    assert finder.may_be_in(raw) or not found
    assert finder.finds(people.read(resource, json.dumps(data).encode())) == found
    return found


@pytest.mark.parametrize(
    "pattern", [LONDON, "+442079460123", "0044 20 7946 0123", "442079460123", "tel:+44-20-79460123"]
)
@pytest.mark.parametrize(
    "text",
    [
        "+442079460123",
        "442079460123",
        "00442079460123",
        "020 7946 0123",
        "(020) 7946-0123",
        "+44 (0)20 7946 0123",
        "2079460123",
        "she called from +44\u00a020\u00a07946\u00a00123, twice",
        "\u202a+44 20 7946 0123\u202c",
        "+44\u201120\u20117946\u20110123",
        "\uff0b\uff14\uff14 20 7946 0123",
        "https://crm.example.com/?from=%2B442079460123&to=1",
        "https://crm.example.com/+44%2020%207946%200123",
    ],
)
def test_a_number_is_found_in_any_spelling(pattern: str, text: str) -> None:
    assert finds(ErasureKind.PHONE, pattern, {"deep": [{"raw_digits": text}]})


@pytest.mark.parametrize(
    "text",
    [
        "+33 20 7946 0123",
        "+33 (0)20 7946 0123",
        "+1 207 946 0123",
        "4420794601234",
        "12079460123",
        "+44 20 7946 0124",
        "https://api.aircall.io/v1/calls/2079460123",
        "7946 0123",
    ],
)
def test_another_number_is_not_found(text: str) -> None:
    assert not finds(ErasureKind.PHONE, LONDON, {"raw_digits": text})


def test_an_id_with_the_same_digits_is_no_number() -> None:
    assert not finds(ErasureKind.PHONE, LONDON, {"id": 2079460123, "call_id": "442079460123", "started_at": 2079460123})
    assert finds(ErasureKind.PHONE, LONDON, {"number": 442079460123})
    assert finds(ErasureKind.PHONE, LONDON, {"by_number": {"+442079460123": 1}})


def test_a_national_number_is_found_with_any_country() -> None:
    assert finds(ErasureKind.PHONE, "020 7946 0123", {"raw_digits": LONDON})
    assert finds(ErasureKind.PHONE, "020 7946 0123", {"raw_digits": "020-79460123"})
    assert not finds(ErasureKind.PHONE, "020 7946 0123", {"raw_digits": "+44 20 7946 0124"})


@pytest.mark.parametrize(
    "text", ["", " ", "1", "+", "+()", "00", "0000000", "123456", "+1234567890123456", "++44 20 7946 0123", "Mara", "%"]
)
def test_a_number_that_is_none_or_too_short_is_refused(text: str) -> None:
    with pytest.raises(PatternRefused) as refused:
        people.parse(ErasureKind.PHONE, text)
    assert text.strip("+ ") in {"", "0", "1", "00", "%", "()"} or text not in str(refused.value)


@pytest.mark.parametrize("text", ["", "@", "mara", "mara@", "@example.org", "mara@example", "a b@example.org"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PatternRefused):
        people.parse(ErasureKind.EMAIL, text)


def test_an_address_is_found_in_any_case_and_only_whole() -> None:
    for text in (
        "MARA@Example.ORG",
        "Mara <mara@example.org>",
        "mailto:mara%40example.org",
        "write to mara@example.org.",
    ):
        assert finds(ErasureKind.EMAIL, "Mara@example.org", {"body": text}), text
    for text in ("xmara@example.org", "mara@example.org.uk", "mara@example.orgs", "o.mara@example.org"):
        assert not finds(ErasureKind.EMAIL, "mara@example.org", {"body": text}), text


def test_ids_are_found_where_aircall_has_them_and_nowhere_else() -> None:
    call = {"id": 7, "user": {"id": 90211}, "contact": {"id": 704410}, "teams": [{"id": 5, "users": [{"id": 6}]}]}

    assert finds(ErasureKind.USER, "90211", call)
    assert finds(ErasureKind.USER, "6", call)
    assert finds(ErasureKind.USER, "90211", {"participants": [{"user_id": "90211"}]}, "conversation_intelligence")
    assert finds(ErasureKind.CONTACT, "704410", call)
    assert finds(ErasureKind.CONTACT, "7", {"id": 7}, "contact")
    assert finds(ErasureKind.CALL, "7", call)
    assert finds(ErasureKind.CALL, "7", {"call_id": "7"}, "conversation_intelligence")
    assert not finds(ErasureKind.CONTACT, "90211", call)
    assert not finds(ErasureKind.USER, "5", call)
    assert not finds(ErasureKind.USER, "7", call)
    assert not finds(ErasureKind.CALL, "90211", call)


def test_what_is_no_json_any_more_is_searched_as_text() -> None:
    assert Finder(people.parse(ErasureKind.PHONE, LONDON)).finds(people.read("call", b'{"x": "+442079460123'))


def test_the_call_of_an_event_is_known() -> None:
    assert people.call_of(Told("call", {"id": 7})) == "7"
    assert people.call_of(Told("conversation_intelligence", {"id": 1, "call_id": "7"})) == "7"
    assert people.call_of(Told("ai_voice_agent", {"id": 1, "call": {"id": 7}})) == "7"
    assert people.call_of(Told("contact", {"id": 7})) is None
    assert people.call_of(Told(None, [1])) is None
