"""Encrypts the events of a group before they are inserted, each under its customer's data key."""

from collections import OrderedDict
from collections.abc import Collection, Sequence

import asyncpg

from aircall_oauth.errors import DataKeyUnusable
from aircall_oauth.events.receiver.statement import OF_TOKEN, Arrival, Cover
from aircall_oauth.storage.data_keys import DataKey, DataKeys, Found, Lost

MOST_TOKENS = 4096
OF_TOKENS = f"""
    SELECT a.token, i.id AS of_installation, i.owner AS of_owner,
           k.id, k.installation_id, k.owner, k.key_sealed, k.erased_at
    FROM unnest($1::bytea[]) AS a (token) {OF_TOKEN}
    LEFT JOIN data_key k ON k.installation_id = i.id AND k.owner IS NOT DISTINCT FROM i.owner AND k.erased_at IS NULL
    WHERE i.id IS NOT NULL
"""  # noqa: S608 - only constants of ours are put in


class Sealer:
    """Covers events for one writer. It remembers which key a webhook's token leads to; the statement checks it."""

    def __init__(self, keys: DataKeys) -> None:
        self.encrypts = keys.encrypts
        self._keys = keys
        self._of: OrderedDict[bytes, str] = OrderedDict()

    async def cover(
        self, connection: asyncpg.Connection, arrivals: Sequence[Arrival], ids: Sequence[str]
    ) -> list[Cover | DataKeyUnusable]:
        """Return the cover of each event; an error for those whose customer's key does not open."""
        if not self.encrypts:
            return [Cover(None, None, *self._hashes(arrival)) for arrival in arrivals]
        keys = await self._keys_of(connection, {arrival.token_fingerprint for arrival in arrivals})
        return [
            self._cover(keys.get(arrival.token_fingerprint), arrival, event_id)
            for arrival, event_id in zip(arrivals, ids, strict=True)
        ]

    def forget(self, tokens: Collection[bytes]) -> None:
        """Look these tokens' keys up again: the statement refused what was encrypted under them."""
        for token in tokens:
            self._of.pop(token, None)

    def _cover(self, key: Found | None, arrival: Arrival, event_id: str) -> Cover | DataKeyUnusable:
        content, other = self._hashes(arrival)
        if key is None:
            return Cover(None, None, content, other)
        if not isinstance(key, DataKey):
            return DataKeyUnusable()
        return Cover(key.id, key.seal(event_id, arrival.data), content, other)

    def _hashes(self, arrival: Arrival) -> tuple[bytes, bytes]:
        """Return the hash that recognises the event from now on, and the one that may be stored instead.

        It is keyed where anything is kept from whoever reads the database.
        """
        if arrival.unkeyed is not None:
            return arrival.fingerprint, arrival.unkeyed
        keyed = self._keys.recognition(arrival.fingerprint)
        return (keyed, arrival.fingerprint) if self.encrypts else (arrival.fingerprint, keyed)

    async def _keys_of(self, connection: asyncpg.Connection, tokens: set[bytes]) -> dict[bytes, Found]:
        """Return the key of each webhook that is known, made where its customer has none."""
        keys = {token: key for token in tokens if (key := self._known(token)) is not None}
        if missing := tokens - keys.keys():
            for row in await connection.fetch(OF_TOKENS, list(missing)):
                keys[row["token"]] = found = await self._found(connection, row)
                if isinstance(found, DataKey):
                    self._remember(row["token"], found.id)
        return keys

    async def _found(self, connection: asyncpg.Connection, row: asyncpg.Record) -> Found:
        if row["id"] is not None:
            return self._keys.known(row["id"]) or self._keys.note(row["id"], row)
        try:
            return await self._keys.current(connection, row["of_installation"], row["of_owner"])
        except DataKeyUnusable:
            return Lost.UNUSABLE

    def _known(self, token: bytes) -> Found | None:
        key_id = self._of.get(token)
        return None if key_id is None else self._keys.known(key_id)

    def _remember(self, token: bytes, key_id: str) -> None:
        self._of[token] = key_id
        self._of.move_to_end(token)
        while len(self._of) > MOST_TOKENS:
            self._of.popitem(last=False)
