"""The OAuth state's parser: whatever it is fed, it says no in its own words, or it is the very state it made."""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aircall_oauth.errors import FlowError, StateInvalid, WrongBrowser
from aircall_oauth.installations.oauth import state
from aircall_oauth.installations.oauth.state import FlowCookie, FlowState
from aircall_oauth.storage.vault import Vault

KEY, OTHER_KEY, FINGERPRINT_KEY = b"k" * 32, b"o" * 32, b"f" * 32
VAULT = Vault({"k1": KEY}, FINGERPRINT_KEY)

anything = st.text()
like_base64 = st.binary(max_size=400).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="))
like_a_state = st.builds(
    "{}.{}.{}".format, st.sampled_from(["v1", "v2", ""]), st.sampled_from(["k1", "k2"]), like_base64
)
cookie_names = st.one_of(anything, st.builds("aircall_oauth_{}".format, anything))


def begun(vault: Vault = VAULT) -> tuple[str, FlowCookie]:
    _, sealed, cookie = state.begin(vault, secure=True)
    return sealed, cookie


def judged(sealed: str, cookies: Mapping[str, str], vault: Vault = VAULT) -> FlowState:
    return state.judge(vault, sealed, cookies, secure=True)


@given(st.one_of(anything, like_base64, like_a_state), st.dictionaries(cookie_names, anything))
def test_anything_else_is_refused_in_our_own_words(given_state: str, cookies: dict[str, str]) -> None:
    with pytest.raises(FlowError):
        judged(given_state, cookies)


@given(st.data())
def test_a_state_changed_anywhere_is_not_recognised(data: st.DataObject) -> None:
    sealed, cookie = begun()
    start = data.draw(st.integers(0, len(sealed) - 1))
    end = data.draw(st.integers(start, len(sealed)))
    altered = sealed[:start] + data.draw(anything) + sealed[end:]

    if altered == sealed:
        assert judged(altered, {cookie.name: cookie.value})
    else:
        with pytest.raises(StateInvalid):
            judged(altered, {cookie.name: cookie.value})


@given(st.dictionaries(cookie_names, anything), anything)
def test_only_the_cookie_made_with_it_opens_a_state(others: dict[str, str], guess: str) -> None:
    sealed, cookie = begun()

    for cookies in (others, {**others, cookie.name: guess}, {**others, cookie.name: cookie.value + guess + "x"}):
        with pytest.raises(WrongBrowser):
            judged(sealed, cookies)

    assert judged(sealed, {**others, cookie.name: cookie.value}).return_to is None


@given(return_to=st.none() | anything)
def test_what_was_sealed_comes_back(return_to: str | None) -> None:
    before = int(time.time())
    flow_id, sealed, cookie = state.begin(VAULT, secure=False, return_to=return_to)

    flow = state.judge(VAULT, sealed, {cookie.name: cookie.value}, secure=False)

    assert (flow.flow_id, flow.return_to) == (flow_id, return_to)
    assert before <= flow.started_at <= time.time()


def test_no_two_flows_share_anything() -> None:
    flows = [state.begin(VAULT, secure=True) for _ in range(100)]

    for part in zip(*flows, strict=True):
        assert len({str(value) for value in part}) == 100


def test_the_cookie_of_one_tab_does_not_open_the_state_of_another() -> None:
    (first, its_cookie), (second, other_cookie) = begun(), begun()
    swapped = {its_cookie.name: other_cookie.value, other_cookie.name: its_cookie.value}

    for sealed in (first, second):
        with pytest.raises(WrongBrowser):
            judged(sealed, swapped)


def test_a_state_does_not_tell_what_is_in_it() -> None:
    flow_id, sealed, cookie = state.begin(VAULT, secure=True, return_to="https://app.example.com/done")

    padded = sealed.rpartition(".")[2] + "=="
    clear = base64.urlsafe_b64decode(padded)
    for secret in (flow_id, cookie.value, "app.example.com"):
        assert secret not in sealed
        assert secret.encode() not in clear


def test_a_state_is_opened_by_an_older_key_and_by_no_foreign_one() -> None:
    sealed, cookie = begun()
    cookies = {cookie.name: cookie.value}

    assert judged(sealed, cookies, Vault({"k2": OTHER_KEY, "k1": KEY}, FINGERPRINT_KEY))
    for foreign in (Vault({"k1": OTHER_KEY}, FINGERPRINT_KEY), Vault({"k2": KEY}, FINGERPRINT_KEY)):
        with pytest.raises(StateInvalid):
            judged(sealed, cookies, foreign)


def test_what_was_sealed_for_another_purpose_is_no_state() -> None:
    content = json.dumps(["f" * 22, int(time.time()), "0" * 64, None]).encode()

    with pytest.raises(StateInvalid):
        judged(VAULT.seal_message(content, "something-else"), {})


@pytest.mark.parametrize("content", [[], {}, None, 1, "text", ["too", "few"], ["f", "not a time", "0" * 64, None]])
def test_a_sealed_message_of_another_version_is_no_state(content: Any) -> None:
    sealed = VAULT.seal_message(json.dumps(content).encode(), state.PURPOSE)

    with pytest.raises(StateInvalid):
        judged(sealed, {})


def test_the_cookie_of_a_plain_address_does_not_count_on_a_secure_one() -> None:
    _, sealed, cookie = state.begin(VAULT, secure=False)

    with pytest.raises(WrongBrowser):
        state.judge(VAULT, sealed, {cookie.name: cookie.value}, secure=True)


@given(st.integers(0, 59), st.integers(0, 5), st.booleans())
def test_surplus_cookies_are_our_oldest_ones(flows: int, others: int, secure: bool) -> None:
    ours = {state.cookie_name(f"{number:022}", secure=secure): "x" for number in range(flows)}
    theirs = {f"session{number}": "x" for number in range(others)}

    surplus = state.surplus_cookies({**theirs, **ours}, secure=secure)

    assert surplus == list(ours)[: max(0, flows - 19)]


@given(st.lists(cookie_names))
def test_no_cookie_that_is_not_named_as_ours_is_surplus(names: list[str]) -> None:
    assert state.surplus_cookies(dict.fromkeys(names, "x"), secure=False) == []


def test_what_a_newer_version_adds_to_a_state_is_passed_over() -> None:
    content = ["f" * 22, int(time.time()), "0" * 64, None, "lnk_1", "acme", {"more": True}]

    with pytest.raises(WrongBrowser):
        judged(VAULT.seal_message(json.dumps(content).encode(), state.PURPOSE), {})
