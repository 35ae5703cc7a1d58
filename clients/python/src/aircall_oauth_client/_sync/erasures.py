"""People whose data are erased."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from aircall_oauth_client.models import ErasedPositions, Erasure
from aircall_oauth_client.requests import get, path_of, post

if TYPE_CHECKING:
    from aircall_oauth_client._sync.client import Client


class Erasures:
    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, **person: Any) -> Erasure:
        """Begin to erase a person, by one of `phone`, `email`, `contact_id`, `user_id`, `call_id`.

        `owner` and `installation_id` say in whose events only. A worker carries it out: `get` says how far it is.
        """
        return cast("Erasure", self._client.ask(post("/v1/erasures", person)))

    def list(self) -> Iterator[Erasure]:
        """Yield erasures, newest first."""
        for one in self._client.pages("/v1/erasures"):
            yield cast("Erasure", one)

    def get(self, erasure_id: str) -> Erasure:
        return cast("Erasure", self._client.ask(get(path_of("erasures", erasure_id))))

    def positions(self, erasure_id: str) -> Iterator[int]:
        """Yield the positions of the events that were erased, in order."""
        after: int | None = 0
        while after is not None:
            asked = get(path_of("erasures", erasure_id, "positions"), after=after)
            page = cast("ErasedPositions", self._client.ask(asked))
            for position in page["positions"]:
                yield position
            after = page["next"]
