"""Seals secrets that we must use again, and fingerprints secrets that we only recognise.

A sealed secret is text: `v1.<key id>.<base64url(nonce + ciphertext + tag)>`, AES-256-GCM. The column and the row's id
are associated data, so a sealed value that is moved elsewhere does not open there. Every purpose has a key of its own,
derived from the configured one.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from aircall_oauth.errors import SealBroken, SealError, SealKeyMissing
from aircall_oauth.storage import base64url

VERSION = "v1"
NONCE_BYTES = 12
INNER, OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


@dataclass(frozen=True)
class SealedAt:
    """Where a sealed value is kept: the column's name and the row's id."""

    column: str
    row_id: str

    def __str__(self) -> str:
        return f"{self.column}/{self.row_id}"


class KeyedHash:
    """HMAC-SHA256 (RFC 2104) with a key that is prepared once: `hmac.digest` takes twice as long for each message.

    The key is not longer than a block of the hash, 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        block = key.ljust(sha256().block_size, b"\0")
        self._inner, self._outer = sha256(block.translate(INNER)), sha256(block.translate(OUTER))

    def of(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Vault:
    """Seals, opens and fingerprints; nothing else holds the keys.

    `on_refusal` is called with every sealed value that does not open.
    """

    def __init__(
        self,
        sealing_keys: dict[str, bytes],
        fingerprint_key: bytes,
        *,
        older_fingerprint_keys: Sequence[bytes] = (),
        on_refusal: Callable[[SealError, SealedAt], None] | None = None,
    ) -> None:
        self._on_refusal = on_refusal
        self._sealing_keys = sealing_keys
        self._older = older_fingerprint_keys
        self._cipher = cache(self._make_cipher)
        self._keyed_hash = cache(lambda purpose: KeyedHash(_derive(fingerprint_key, f"fingerprint/{purpose}")))
        self._older_hashes = cache(
            lambda purpose: [KeyedHash(_derive(key, f"fingerprint/{purpose}")) for key in self._older]
        )

    def take_keys(self, sealing_keys: dict[str, bytes]) -> None:
        """Seal and open with these keys from now on."""
        self._sealing_keys = sealing_keys
        self._cipher.cache_clear()

    @property
    def key_ids(self) -> list[str]:
        """The ids of the configured keys; the first key seals."""
        return list(self._sealing_keys)

    def seal(self, secret: str | SecretStr, at: SealedAt) -> str:
        """Encrypt a secret for the column and row where it is kept."""
        clear = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        return self._seal(clear.encode(), purpose="row", associated=str(at))

    def open(self, sealed: str, at: SealedAt) -> SecretStr:
        """Decrypt a secret that was sealed for this column and row; raises `SealBroken` or `SealKeyMissing`."""
        try:
            return SecretStr(self._open(sealed, purpose="row", associated=str(at)).decode())
        except SealError as error:
            self.refuse(error, at)
            raise

    def refuse(self, error: SealError, at: SealedAt) -> None:
        """Report what does not open; also what is encrypted under a key that the vault only seals."""
        if self._on_refusal is not None:
            self._on_refusal(error, at)

    def seal_message(self, message: bytes, purpose: str) -> str:
        """Encrypt a message that leaves this service and comes back, such as the OAuth state; URL-safe."""
        return self._seal(message, purpose=purpose, associated=purpose)

    def open_message(self, sealed: str, purpose: str) -> bytes:
        """Decrypt a message that was sealed for this purpose; raises `SealBroken` or `SealKeyMissing`."""
        return self._open(sealed, purpose=purpose, associated=purpose)

    def fingerprint(self, secret: str | SecretStr, purpose: str) -> bytes:
        """Return 32 bytes that recognise a secret without revealing it (HMAC-SHA256, with a key per purpose)."""
        return self._keyed_hash(purpose).of(_bytes_of(secret))

    @property
    def changes_fingerprints(self) -> bool:
        """Whether there may be fingerprints of an older key."""
        return bool(self._older)

    def older_fingerprints(self, secret: str | SecretStr, purpose: str) -> list[bytes]:
        """Return the fingerprints by which a secret was recognised before the key was changed."""
        return [keyed.of(_bytes_of(secret)) for keyed in self._older_hashes(purpose)]

    def _seal(self, clear: bytes, *, purpose: str, associated: str) -> str:
        key_id = next(iter(self._sealing_keys))
        nonce = os.urandom(NONCE_BYTES)
        box = nonce + self._cipher(key_id, purpose).encrypt(nonce, clear, _associated(key_id, associated))
        return f"{VERSION}.{key_id}.{base64url.encode(box)}"

    def _open(self, sealed: str, *, purpose: str, associated: str) -> bytes:
        key_id, box = _read_envelope(sealed)
        if key_id not in self._sealing_keys:
            raise SealKeyMissing(key_id)
        cipher = self._cipher(key_id, purpose)
        try:
            return cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], _associated(key_id, associated))
        except (InvalidTag, ValueError):
            raise SealBroken from None

    def _make_cipher(self, key_id: str, purpose: str) -> AESGCM:
        return AESGCM(_derive(self._sealing_keys[key_id], f"seal/{purpose}"))


def _read_envelope(sealed: str) -> tuple[str, bytes]:
    version, _, rest = sealed.partition(".")
    key_id, _, text = rest.partition(".")
    if version != VERSION or not key_id:
        raise SealBroken
    try:
        # A sealed value has one spelling only.
        box = base64url.decode(text)
    except ValueError:
        raise SealBroken from None
    return key_id, box


def _associated(key_id: str, place: str) -> bytes:
    return f"aircall-oauth/{VERSION}/{key_id}/{place}".encode()


def _bytes_of(secret: str | SecretStr) -> bytes:
    clear = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    return clear.encode(errors="surrogatepass")


def _derive(key: bytes, info: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"aircall-oauth/{info}".encode()).derive(key)
