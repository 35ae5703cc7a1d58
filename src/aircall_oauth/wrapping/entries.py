"""The entries of a setting that holds keys: 32 bytes as base64, or what a key service has made of them.

`AIRCALL_OAUTH_SECRET_KEYS` has entries with an id, `2026a:<key>`; those of `AIRCALL_OAUTH_FINGERPRINT_KEY` are bare.
A wrapped key is `vault:<mount>/<key>:<ciphertext>` or `awskms:<key>:<ciphertext>`.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from enum import StrEnum, auto

KEY_BYTES = 32
ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
BASE64 = r"[A-Za-z0-9+/]+={0,2}"


class Service(StrEnum):
    """A key service, as an entry names it."""

    VAULT = auto()  # the Transit engine of Vault or OpenBao
    AWSKMS = auto()


TITLES = {Service.VAULT: "Vault", Service.AWSKMS: "AWS KMS"}
LOOKS = {Service.VAULT: "vault:MOUNT/KEY", Service.AWSKMS: "awskms:KEY"}
# A mount may have slashes; a KMS key is an ARN, an id or an alias.
KEYS = {Service.VAULT: r"[\w.-]+(?:/[\w.-]+)+", Service.AWSKMS: r"[\w:/-]{1,2048}"}
CIPHERTEXTS = {Service.VAULT: rf"vault:v[1-9][0-9]{{0,8}}:{BASE64}", Service.AWSKMS: BASE64}


@dataclass(frozen=True)
class ServiceKey:
    """A key that never leaves its key service, and wraps ours."""

    service: Service
    name: str  # `transit/aircall-oauth`, or what KMS calls the key

    def __str__(self) -> str:
        return f"{self.service}:{self.name}"


@dataclass(frozen=True)
class Wrapped:
    """A key of ours that a key service has encrypted."""

    by: ServiceKey
    ciphertext: str

    def __str__(self) -> str:
        return f"{self.by}:{self.ciphertext}"

    @property
    def version(self) -> int | None:
        """The version of the service's key that wrapped it; None where a ciphertext doesn't say."""
        return int(self.ciphertext.split(":")[1][1:]) if self.by.service is Service.VAULT else None


@dataclass(frozen=True)
class Entry:
    """One key of a list, in the clear or wrapped, with its id where the list has ids."""

    key: bytes | Wrapped
    key_id: str | None = None

    def __str__(self) -> str:
        text = str(self.key) if isinstance(self.key, Wrapped) else base64.b64encode(self.key).decode()
        return text if self.key_id is None else f"{self.key_id}:{text}"


def read_service_key(text: str) -> ServiceKey:
    """Read `vault:transit/aircall-oauth` or `awskms:alias/aircall-oauth`; raises `ValueError`."""
    service = _service_of(text)
    if service is None or not re.fullmatch(KEYS[service], text.partition(":")[2], re.ASCII):
        raise ValueError(f"must look like {' or '.join(LOOKS.values())}")
    return ServiceKey(service, text.partition(":")[2])


def read_list(text: str, *, with_ids: bool) -> list[Entry]:
    """Read the keys of a setting; raises `ValueError`, which says which entry is wrong and shows nothing of it."""
    parts = [part.strip() for part in text.split(",")]
    entries: list[Entry] = []
    for number, part in enumerate(parts, start=1):
        entry = _read_with_id(number, part) if with_ids else _read_bare(number, part, alone=len(parts) == 1)
        if with_ids and entry.key_id in {other.key_id for other in entries}:
            raise ValueError(f"entry {number} repeats an id")
        entries.append(entry)
    if not with_ids and len(set(parts)) < len(parts):
        raise ValueError("has the same key twice")
    return entries


def decoded_key(text: str) -> bytes:
    """Return the 32 bytes of a base64 text; raises `ValueError`."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be {KEY_BYTES} bytes, base64-encoded")
    return key


def _read_with_id(number: int, text: str) -> Entry:
    key_id, separator, rest = text.partition(":")
    if not separator or not ID.fullmatch(key_id):
        raise ValueError(f"entry {number} must look like id:base64, the id of A-Z a-z 0-9 _ -")
    try:
        return Entry(_read_key(rest), key_id)
    except ValueError as error:
        if _service_of(text) is not None:
            raise ValueError(f"entry {number} must begin with an id: id:{key_id}:…") from None
        raise ValueError(f"entry {number}: {error}") from None


def _read_bare(number: int, text: str, *, alone: bool) -> Entry:
    try:
        return Entry(_read_key(text))
    except ValueError as error:
        raise ValueError(str(error) if alone else f"entry {number}: {error}") from None


def _read_key(text: str) -> bytes | Wrapped:
    service = _service_of(text)
    if service is None:
        return decoded_key(text)
    wrapped = re.fullmatch(rf"{service}:({KEYS[service]}):({CIPHERTEXTS[service]})", text, re.ASCII)
    if not wrapped:
        raise ValueError(f"must look like {LOOKS[service]}:CIPHERTEXT")
    return Wrapped(ServiceKey(service, wrapped[1]), wrapped[2])


def _service_of(text: str) -> Service | None:
    name, separator, _ = text.partition(":")
    return Service(name) if separator and name in set(Service) else None
