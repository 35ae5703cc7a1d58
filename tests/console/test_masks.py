"""Of every sample of Aircall's events: what is a person's is hidden, what is not is shown."""

import pytest

from aircall_oauth.console.masks import masked, subject


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("call_uuid", "CA00000000000000000000000000000001"),
        ("id", "SM00000000000000000000000000000a01"),
        ("id", "rt-0000000001"),
        ("ai_voice_agent_session_id", "vas-0001"),
        ("call_id", "2481173905"),
        ("user_id", "90211"),
        ("color", "#0033CC"),
        ("key", "1"),
        ("direct_link", "https://api.aircall.io/v1/users/90212"),
        ("missed_call_reason", "no_available_agent"),
        ("sent_at", "2026-01-01T10:00:00.000Z"),
        ("country", "FR"),
        ("time_zone", "America/Argentina/Buenos_Aires"),
        ("duration", 4812),
        ("started_at", 1767261600),
        ("timestamp", 1767261600123),
        ("id", 2481173905),
    ],
)
def test_what_is_not_a_persons_is_shown(name: str, value: object) -> None:
    assert masked({name: value}) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("raw_digits", "+44 20 7946 0123"),
        ("id", "12025550143"),
        ("user_id", "12025550143"),
        ("participants", ["12025550143"]),
        ("participants", [12025550143]),
        ("aircall_number", 33199001234),
        ("value", 442079460123),
        ("status", "+33612345678"),
        ("status", "https://media.example.com/mara-ellison.mp3"),
        ("language", "https://a.example/Mara"),
        ("duration", 442079460123),
        ("score", [442079460123]),
        ("reason", "0612345678"),
        ("direct_link", "https://example.com/mara"),
        ("recording", "https://recordings.example.com/248117390"),
        ("voicemail", "https://recordings.example.com/vm-248117"),
        ("unanswered_call", "https://media.example.com/mara.ellison.mp3"),
        ("email", "mara.ellison@example.org"),
        ("name", "Mara Ellison"),
        ("content", "Asked for a callback on Friday."),
        ("escalation_reason", "caller asked for a person"),
        ("key", "Mara"),
        ("id", "mara.ellison@example.org"),
        ("errorMessage", "Report generation failed"),
        ("What is your order number?", "A-1009"),
    ],
)
def test_what_is_a_persons_or_may_be_is_hidden(name: str, value: object) -> None:
    shown = masked({name: value})[name]

    assert shown != value
    assert "••" in str(shown)


def test_what_a_number_plays_to_its_callers_is_shown_alike() -> None:
    messages = {
        name: f"https://media.example.com/{name}.mp3"
        for name in ("welcome", "waiting", "ivr", "voicemail", "closed", "callback_later", "unanswered_call")
    }

    assert masked({"number": {"messages": messages}}) == {"number": {"messages": messages}}
    said = masked({"messages": {"welcome": "Mara, call +44 20 7946 0123", "ivr": {"name": "Mara"}}})
    assert "Mara" not in str(said)
    assert "0123" not in str(said)


@pytest.mark.parametrize(
    "about", ["call:+33612345678", "call:33612345678", "contact:mara.ellison@example.org", "user:mara", "call:", "x"]
)
def test_a_subject_that_is_no_id_is_hidden(about: str) -> None:
    shown = subject(about, is_number=False)

    assert shown.startswith(f"{about.partition(':')[0]}:")
    assert about.partition(":")[2] in {"", shown.partition(":")[2]} or "••" in shown
    assert "2345678" not in shown
    assert "ellison" not in shown


@pytest.mark.parametrize(
    "about", ["call:9007199254740993", "message:SM00000000000000000000000000000a01", f"subscription:sub_{'0' * 32}"]
)
def test_a_subject_that_is_an_id_is_shown(about: str) -> None:
    assert subject(about, is_number=about.startswith("call:")) == about


@pytest.mark.parametrize("name", ["+44 20 7946 0123", "mara.ellison@example.org"])
def test_a_field_that_is_named_after_a_person_is_hidden_too(name: str) -> None:
    assert name not in masked({"answers": {name: 1}})["answers"]
