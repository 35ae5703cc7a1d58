"""The vault: what is sealed opens at its place with its key, and nowhere else."""

import base64
import hmac
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from aircall_oauth.errors import SealBroken, SealError, SealKeyMissing
from aircall_oauth.resources import vault_of
from aircall_oauth.storage.sealed import API_KEY_PURPOSE, TOKEN_COLUMN, TOKEN_PURPOSE, WEBHOOK_TOKEN_PURPOSE
from aircall_oauth.storage.vault import NONCE_BYTES, KeyedHash, SealedAt, Vault
from tests.support.service import settings_for

KEY, OTHER_KEY, FINGERPRINT_KEY = b"k" * 32, b"o" * 32, b"f" * 32
SECRET = "an-access-token"
PLACE = SealedAt(TOKEN_COLUMN, "ins_1")
BASE64URL = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
SECRETS = st.text(st.characters(exclude_categories=["Cs"]))


def vault_with(**keys: bytes) -> Vault:
    return Vault(keys, FINGERPRINT_KEY)


VAULT = vault_with(k1=KEY)


def envelope(box: bytes, key_id: str = "k1", version: str = "v1") -> str:
    return f"{version}.{key_id}.{base64.urlsafe_b64encode(box).decode().rstrip('=')}"


def box_of(sealed: str) -> bytes:
    text = sealed.rpartition(".")[2]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@given(SECRETS, SECRETS, SECRETS)
@example("", "", "")
def test_what_is_sealed_opens_at_its_place(secret: str, column: str, row_id: str) -> None:
    place = SealedAt(column, row_id)

    sealed = VAULT.seal(secret, place)

    assert VAULT.open(sealed, place).get_secret_value() == secret
    assert VAULT.seal(SecretStr(secret), place) != sealed, "no nonce is used twice"


@given(st.binary(), SECRETS)
@example(b"", "")
def test_a_message_that_is_sealed_opens_for_its_purpose(message: bytes, purpose: str) -> None:
    sealed = VAULT.seal_message(message, purpose)

    assert VAULT.open_message(sealed, purpose) == message
    assert set(sealed) <= set(BASE64URL + "."), "fit for an address"


def test_a_sealed_secret_names_its_key_and_shows_nothing_of_the_secret() -> None:
    sealed = VAULT.seal(SECRET, PLACE)

    assert sealed.startswith("v1.k1.")
    assert SECRET.encode() not in box_of(sealed)
    assert len(box_of(sealed)) == NONCE_BYTES + len(SECRET) + 16


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_changing_any_byte_breaks_the_seal(bit: int) -> None:
    box = box_of(VAULT.seal(SECRET, PLACE))

    for index in range(len(box)):
        altered = bytes([*box[:index], box[index] ^ bit, *box[index + 1 :]])
        with pytest.raises(SealBroken):
            VAULT.open(envelope(altered), PLACE)


def test_changing_any_letter_breaks_the_seal() -> None:
    sealed = VAULT.seal(SECRET, PLACE)

    for index, letter in enumerate(sealed):
        for other in {"A", "B", ".", "-", " ", "=", "é"} - {letter}:
            with pytest.raises(SealError):
                VAULT.open(sealed[:index] + other + sealed[index + 1 :], PLACE)


def test_cutting_a_sealed_secret_short_breaks_it() -> None:
    sealed = VAULT.seal(SECRET, PLACE)

    for length in range(len(sealed)):
        with pytest.raises(SealError):
            VAULT.open(sealed[:length], PLACE)


def test_a_sealed_secret_has_one_spelling() -> None:
    # 31 bytes leave two unused bits in the last letter: three more letters stand for the same bytes.
    sealed = VAULT.seal("abc", PLACE)
    assert len(box_of(sealed)) % 3 == 1
    last = BASE64URL.index(sealed[-1])
    spellings = [sealed[:-1] + BASE64URL[last | unused] for unused in range(1, 16)]
    assert {box_of(sealed)} == set(map(box_of, spellings)), "the decoder itself does not mind"

    for spelling in [
        *spellings,
        sealed + "=",
        sealed + "==",
        sealed + "\n",
        f" {sealed}",
        sealed.replace("v1.", "v1.."),
    ]:
        with pytest.raises(SealBroken):
            VAULT.open(spelling, PLACE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        SealedAt(TOKEN_COLUMN, "ins_2"),
        SealedAt("webhook.token_sealed", "ins_1"),
        SealedAt("", ""),
        SealedAt(TOKEN_COLUMN, ""),
        SealedAt(TOKEN_COLUMN, "INS_1"),
    ],
)
def test_a_sealed_secret_moved_to_another_place_does_not_open(elsewhere: SealedAt) -> None:
    sealed = VAULT.seal(SECRET, PLACE)

    with pytest.raises(SealBroken):
        VAULT.open(sealed, elsewhere)


def test_a_message_does_not_open_for_another_purpose_or_as_a_secret() -> None:
    message = VAULT.seal_message(b"hello", "oauth-state")

    with pytest.raises(SealBroken):
        VAULT.open_message(message, "claim")
    with pytest.raises(SealBroken):
        VAULT.open(message, SealedAt("oauth-state", ""))
    with pytest.raises(SealBroken):
        VAULT.open_message(VAULT.seal(SECRET, PLACE), str(PLACE))


def test_another_key_under_the_same_id_does_not_open() -> None:
    sealed = VAULT.seal(SECRET, PLACE)

    with pytest.raises(SealBroken):
        vault_with(k1=OTHER_KEY).open(sealed, PLACE)


def test_a_missing_key_is_named() -> None:
    sealed = vault_with(old=KEY).seal(SECRET, PLACE)

    with pytest.raises(SealKeyMissing, match="'old'") as missing:
        VAULT.open(sealed, PLACE)

    assert missing.value.key_id == "old"
    assert sealed.rpartition(".")[2] not in str(missing.value)


def test_the_key_id_is_part_of_what_is_sealed() -> None:
    """The same bytes under two ids are two keys: renaming in the envelope does not open."""
    sealed = VAULT.seal(SECRET, PLACE)

    with pytest.raises(SealBroken):
        vault_with(k1=KEY, k2=KEY).open(envelope(box_of(sealed), "k2"), PLACE)


@pytest.mark.parametrize("sealed", ["", ".", "..", "v1", "v1.", "v1.k1", "v1.k1.", "v1..AAAA", "v2.k1.AAAA", "garbage"])
def test_what_is_no_envelope_is_broken(sealed: str) -> None:
    with pytest.raises(SealBroken):
        VAULT.open(sealed, PLACE)


@given(st.text())
def test_no_text_makes_the_vault_stumble(text: str) -> None:
    for sealed in (text, f"v1.k1.{text}", f"v1.{text}.AAAA"):
        with pytest.raises(SealError):
            VAULT.open(sealed, PLACE)
        with pytest.raises(SealError):
            VAULT.open_message(sealed, "oauth-state")


def test_another_version_of_the_envelope_is_refused() -> None:
    box = box_of(VAULT.seal(SECRET, PLACE))

    with pytest.raises(SealBroken):
        VAULT.open(envelope(box, version="v2"), PLACE)


def test_the_first_key_seals_and_all_open() -> None:
    before = vault_with(old=KEY).seal(SECRET, PLACE)
    rotated = vault_with(new=OTHER_KEY, old=KEY)

    after = rotated.seal(SECRET, PLACE)

    assert after.startswith("v1.new.")
    assert rotated.open(before, PLACE).get_secret_value() == SECRET
    assert rotated.open(after, PLACE).get_secret_value() == SECRET
    assert rotated.key_ids == ["new", "old"]
    with pytest.raises(SealKeyMissing):
        vault_with(old=KEY).open(after, PLACE)


def test_a_vault_has_the_keys_of_the_settings() -> None:
    vault = vault_of(settings_for("postgresql://h/d"))

    assert vault.open(VAULT.seal(SECRET, PLACE), PLACE).get_secret_value() == SECRET
    assert vault.fingerprint(SECRET, TOKEN_PURPOSE) == VAULT.fingerprint(SECRET, TOKEN_PURPOSE)


def test_a_fingerprint_recognises_a_secret_for_one_purpose() -> None:
    purposes = [TOKEN_PURPOSE, WEBHOOK_TOKEN_PURPOSE, API_KEY_PURPOSE]

    prints = [VAULT.fingerprint(SECRET, purpose) for purpose in purposes]

    assert len(set(prints)) == len(purposes)
    assert {len(one) for one in prints} == {32}
    assert prints == [vault_with(k9=OTHER_KEY).fingerprint(SecretStr(SECRET), purpose) for purpose in purposes]


@given(st.binary(max_size=64), st.binary())
def test_a_fingerprint_is_the_standards_hmac(key: bytes, message: bytes) -> None:
    assert KeyedHash(key).of(message) == hmac.digest(key, message, "sha256")


@given(st.text(), st.text())
@example("\ud800", "?")
def test_different_secrets_have_different_fingerprints(one: str, other: str) -> None:
    same = VAULT.fingerprint(one, TOKEN_PURPOSE) == VAULT.fingerprint(other, TOKEN_PURPOSE)

    assert same == (one == other)


def test_another_fingerprint_key_gives_other_fingerprints() -> None:
    other = Vault({"k1": KEY}, OTHER_KEY)

    assert other.fingerprint(SECRET, TOKEN_PURPOSE) != VAULT.fingerprint(SECRET, TOKEN_PURPOSE)


def test_errors_and_the_vault_show_no_key_and_no_secret() -> None:
    sealed = VAULT.seal(SECRET, PLACE)

    with pytest.raises(SealBroken) as broken:
        VAULT.open(sealed, SealedAt("x", "y"))

    shown = f"{broken.value!r} {broken.value} {VAULT!r} {VAULT.open(sealed, PLACE)!r}"
    assert SECRET not in shown
    assert sealed not in shown
    assert "kkkk" not in shown
    assert broken.value.__cause__ is None
    assert broken.value.__suppress_context__
