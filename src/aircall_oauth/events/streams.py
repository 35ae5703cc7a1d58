"""Limits the open streams per API key: each holds memory for as long as its reader does not read."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aircall_oauth.errors import TooManyStreams

STREAMS_PER_KEY = 20
RETRY_SECONDS = 5


class Streams:
    """The open streams of one process, counted by API key."""

    def __init__(self) -> None:
        self._open = Counter[str]()

    @contextmanager
    def one_of(self, key_id: str) -> Iterator[None]:
        """Count a stream of this key as open while the block lasts; raises `TooManyStreams`."""
        if self._open[key_id] >= STREAMS_PER_KEY:
            raise TooManyStreams(RETRY_SECONDS)
        self._open[key_id] += 1
        try:
            yield
        finally:
            self._open[key_id] -= 1
            if not self._open[key_id]:
                del self._open[key_id]
