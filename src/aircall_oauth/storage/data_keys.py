"""Encrypts events at rest: each customer's under a data key of its own, which the vault seals.

A data key belongs to an installation while one owner has it. An erased key leaves its row, without the key: so an event
with an erased key is told from one with a damaged key. AES-256-GCM with a random nonce; the key's id, the
installation and the event are associated data, so what is moved to another row does not open there.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any

import asyncpg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aircall_oauth.errors import DataKeyUnusable, SealBroken, SealError
from aircall_oauth.storage import base64url
from aircall_oauth.storage.sealed import DATA_KEY_COLUMN, REPEAT_PURPOSE
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.storage.vault import NONCE_BYTES, SealedAt, Vault

KEY_BYTES = 32
FORMAT = b"\x01"
EVENT_COLUMN = "event.sealed"
# What stands in the place of an encrypted event's text.
NULL = "null"
# A key in memory is read again so often: one that was erased is forgotten everywhere by then.
KEPT_SECONDS = 15.0
MOST = 4096

READ = "SELECT id, installation_id, owner, key_sealed, erased_at FROM data_key WHERE id = ANY ($1::text[])"
CURRENT = """
    SELECT id, installation_id, owner, key_sealed, erased_at FROM data_key
    WHERE installation_id = $1 AND owner IS NOT DISTINCT FROM $2 AND erased_at IS NULL
"""
# Two processes may make one at once: the first is it.
MAKE = """
    INSERT INTO data_key (id, installation_id, owner, key_sealed) VALUES ($1, $2, $3, $4)
    ON CONFLICT (installation_id, owner) WHERE erased_at IS NULL DO NOTHING
"""
# Until the transaction ends the key is not erased.
HOLD = "SELECT true FROM data_key WHERE id = :id AND erased_at IS NULL FOR KEY SHARE"
# What is being written under a key commits before it is erased; what comes after gets another one.
TAKE = """
    SELECT id FROM data_key WHERE installation_id = $1 AND ($2::text IS NULL OR owner = $2) AND erased_at IS NULL
    ORDER BY id FOR UPDATE
"""
ERASE = "UPDATE data_key SET key_sealed = NULL, erased_at = clock_timestamp() WHERE id = ANY ($1::text[])"
EVER_USED = "SELECT EXISTS (SELECT FROM data_key)"
PAGE = 500
ALL = """
    SELECT id, installation_id, owner, key_sealed, erased_at FROM data_key
    WHERE erased_at IS NULL AND id > $1 ORDER BY id LIMIT $2
"""


class DataKey:
    """An open data key."""

    def __init__(self, row: Any, secret: bytes) -> None:
        self.id: str = row["id"]
        self.installation_id: str = row["installation_id"]
        self._cipher = AESGCM(secret)

    def seal(self, event_id: str, text: str) -> bytes:
        """Encrypt the text of an event."""
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._cipher.encrypt(nonce, text.encode(), self._associated(event_id))

    def open(self, event_id: str, sealed: bytes) -> bytes:
        """Decrypt the text of an event; raises `SealBroken`."""
        nonce, box = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            if sealed[:1] != FORMAT:
                raise SealBroken
            return self._cipher.decrypt(nonce, box, self._associated(event_id))
        except (InvalidTag, ValueError):
            raise SealBroken from None

    def _associated(self, event_id: str) -> bytes:
        return f"aircall-oauth/event/1/{self.id}/{self.installation_id}/{event_id}".encode()


class Lost(Enum):
    """Why there is no key."""

    ERASED = auto()
    UNUSABLE = auto()


Found = DataKey | Lost


class DataKeys:
    """The data keys that a process has open, a few thousand at most, and each for some seconds only."""

    def __init__(self, vault: Vault, *, encrypts: bool = False) -> None:
        self.encrypts = encrypts  # what is stored from now on; what is encrypted already opens in any case
        self._vault = vault
        self._known: OrderedDict[str, tuple[Found, float]] = OrderedDict()

    def known(self, key_id: str) -> Found | None:
        """Return a key that was read a moment ago, or why there is none; None if it has to be read."""
        found, until = self._known.get(key_id, (None, 0.0))
        return found if time.monotonic() < until else None

    async def load(self, connection: asyncpg.Connection, key_ids: Iterable[str | None]) -> None:
        """Read the keys that are not known, so that `open` opens what is encrypted under them."""
        wanted = {key_id for key_id in key_ids if key_id is not None}
        # Meanwhile another task may have one forgotten.
        while missing := [key_id for key_id in wanted if self.known(key_id) is None]:
            rows = {row["id"]: row for row in await connection.fetch(READ, missing)}
            for key_id in missing:
                self.note(key_id, rows.get(key_id))

    def open(self, key_id: str, installation_id: str, event_id: str, sealed: bytes) -> bytes | None:
        """Decrypt an event after its key was loaded; None where its key was erased. Raises `DataKeyUnusable`."""
        key, _ = self._known[key_id]
        if key is Lost.ERASED:
            return None
        if not isinstance(key, DataKey):
            raise DataKeyUnusable
        try:
            if key.installation_id != installation_id:
                raise SealBroken
            return key.open(event_id, sealed)
        except SealBroken as error:
            self._vault.refuse(error, SealedAt(EVENT_COLUMN, event_id))
            raise DataKeyUnusable from error

    async def current(self, connection: asyncpg.Connection, installation_id: str, owner: str | None) -> DataKey:
        """Return the key for new events, made if there is none; raises `DataKeyUnusable`."""
        while (row := await connection.fetchrow(CURRENT, installation_id, owner)) is None:
            await connection.execute(MAKE, *self._new(installation_id, owner))
        found = self.note(row["id"], row)
        if not isinstance(found, DataKey):
            raise DataKeyUnusable
        return found

    async def unusable(self, connection: asyncpg.Connection) -> list[str]:
        """Return the installations of which a key does not open."""
        found, after = [], ""
        while rows := await connection.fetch(ALL, after, PAGE):
            after = rows[-1]["id"]
            found += [row["installation_id"] for row in rows if self._found(row) is Lost.UNUSABLE]
        return found

    def note(self, key_id: str, row: Any) -> Found:
        """Take note of a key as it was read: a row, or None where there is none."""
        found = self._found(row)
        self._known[key_id] = (found, time.monotonic() + KEPT_SECONDS)
        self._known.move_to_end(key_id)
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        return found

    def forget(self, key_ids: Iterable[str]) -> None:
        """Read these keys again: they were erased."""
        for key_id in key_ids:
            self._known.pop(key_id, None)

    def recognition(self, content: bytes) -> bytes:
        """Return what recognises the repeat of an encrypted event: unlike its hash, nobody can try guesses on it."""
        return self._vault.fingerprint(content.hex(), REPEAT_PURPOSE)

    def _new(self, installation_id: str, owner: str | None) -> tuple[str, str, str | None, str]:
        key_id = new_id("dek")
        sealed = self._vault.seal(base64url.encode(os.urandom(KEY_BYTES)), SealedAt(DATA_KEY_COLUMN, key_id))
        return key_id, installation_id, owner, sealed

    def _found(self, row: Any) -> Found:
        if row is None:
            return Lost.UNUSABLE
        if row["erased_at"] is not None:
            return Lost.ERASED
        try:
            secret = self._vault.open(row["key_sealed"], SealedAt(DATA_KEY_COLUMN, row["id"])).get_secret_value()
            return DataKey(row, base64url.decode(secret))
        except (SealError, ValueError):
            return Lost.UNUSABLE


async def erase(connection: asyncpg.Connection, installation_id: str, owner: str | None) -> list[str]:
    """Erase the keys of an installation, or those of one owner's time; waits for what is being written under them.

    Returns their ids. In a transaction: what was encrypted under them lies before what it reads next.
    """
    keys = [row["id"] for row in await connection.fetch(TAKE, installation_id, owner)]
    await connection.execute(ERASE, keys)
    return keys
