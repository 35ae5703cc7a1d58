"""The paths that may be passed on: those that stay below `API_URL` for every server on the way."""

import re
from urllib.parse import unquote_to_bytes

from aircall_oauth.aircall import versions
from aircall_oauth.errors import InvalidRequest, PathRefused

MAX_BYTES = 4096
SEGMENT = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+")
# Most paths have these characters only, which no server gives a meaning.
PLAIN = re.compile(rb"[A-Za-z0-9_~-]+(?:/[A-Za-z0-9_~-]+)*")
QUERY = re.compile(rb"[!-~]*")
# A client that percent-encodes a parameter of a path encodes its slashes too.
ENCODED_SLASH = re.compile(rb"%2[Ff]")
# What, once decoded, ends a segment, a path or a line for some server.
SEPARATORS = re.compile(rb"[/\\?#\x00-\x1f\x7f]")


def judged(path: bytes, query: bytes) -> tuple[bytes, bytes]:
    """Return the path with its encoded slashes decoded, and the query; raises `PathRefused` or `InvalidRequest`.

    `%2F` means a slash: it is judged as one and sent on as one; everything else stays unchanged. A segment must be
    harmless however often it is decoded: one that becomes a separator, `.` or `..` for a server which decodes it once
    more than the one before is refused. So is an empty segment, but for a slash at the end; and a version that is
    spelled otherwise than `v2`, or has nothing after it.
    """
    path = ENCODED_SLASH.sub(b"/", path)
    if len(path) > MAX_BYTES or not (PLAIN.fullmatch(path) or _is_harmless(path)) or _is_oddly_versioned(path):
        raise PathRefused
    if not QUERY.fullmatch(query):
        raise InvalidRequest("query: must be printable ASCII, percent-encoded where it is not")
    return path, query


def _is_harmless(path: bytes) -> bool:
    segments = path.removesuffix(b"/").split(b"/")
    return all(SEGMENT.fullmatch(segment) and _stays(segment) for segment in segments)


def _is_oddly_versioned(path: bytes) -> bool:
    first = _decoded(path.partition(b"/")[0]).partition(b";")[0].strip()
    return versions.is_odd(first.decode("latin-1")) and versions.NAMED.match(path.decode()) is None


def _decoded(segment: bytes) -> bytes:
    """Return a segment decoded as often as it can be."""
    while (decoded := unquote_to_bytes(segment)) != segment:
        segment = decoded
    return segment


def _stays(segment: bytes) -> bool:
    while True:
        # For some servers a segment ends at the semicolon, and spaces around it don't count.
        if SEPARATORS.search(segment) or segment.partition(b";")[0].strip() in {b"", b".", b".."}:
            return False
        decoded = unquote_to_bytes(segment)
        if decoded == segment:
            return True
        segment = decoded
