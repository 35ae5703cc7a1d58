"""A request that is passed on to Aircall, and how that fails.

Apart from `relay`, because httpx takes long to import.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass

from aircall_oauth.errors import AircallUnavailable

Headers = list[tuple[bytes, bytes]]


class ConnectionFault(AircallUnavailable):
    """The connection to Aircall broke before an answer arrived."""


@dataclass(frozen=True)
class Asked:
    """A request to pass on. `path` and `query` are bytes of the request line, `path` without its leading slash.

    Where `path` begins with a version of Aircall's API, it takes the place of the version that `API_URL` ends with.

    `body` is the bytes or a stream of them; `headers` say how long it is, where that is known.
    """

    method: str
    path: bytes
    query: bytes
    headers: Headers
    body: bytes | AsyncIterable[bytes] = b""
