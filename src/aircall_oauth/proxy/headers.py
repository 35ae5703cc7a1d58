"""The headers that are passed on, to Aircall and back."""

from collections.abc import Iterable

from aircall_oauth.errors import InvalidRequest

Headers = list[tuple[bytes, bytes]]

# Headers that say how to read the body. They are passed on even where `Connection` names them: without one, another
# message would arrive.
OF_THE_BODY = {b"content-encoding", b"content-language", b"content-length", b"content-type"}
# All that Aircall can use of a request. Only these are passed on, in this spelling: servers on the way may take `_` for
# `-` and act on names that no list of forbidden ones would be complete with.
OF_A_REQUEST = OF_THE_BODY | {
    b"accept",
    b"accept-charset",
    b"accept-encoding",
    b"accept-language",
    b"cache-control",
    b"idempotency-key",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"pragma",
    b"prefer",
    b"range",
    b"user-agent",
}
OF_AN_ANSWER = OF_THE_BODY | {
    b"apigw-requestid",
    b"cache-control",
    b"content-disposition",
    b"content-range",
    b"etag",
    b"expires",
    b"last-modified",
    b"link",
    b"retry-after",
    b"vary",
    b"x-runtime",
}
# There `Content-Length` tells the length that a body would have (RFC 9110, 8.6), and a client would wait for it.
WITHOUT_BODY = {204, 304}
OF_AIRCALL = (b"ratelimit", b"x-aircallapi-", b"x-amz", b"x-ratelimit-")


def to_aircall(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the caller's headers that Aircall can use: nothing of its credentials, or of proxies on its way here.

    Raises `InvalidRequest` for a value that is not UTF-8: servers read it differently.
    """
    given = list(headers)
    wanted = OF_A_REQUEST - _named_by_connection(given)
    passed = [(name, value) for name, value in given if name in wanted]
    for name, value in passed:
        if not _is_text(value):
            raise InvalidRequest(f"{name.decode()}: must be UTF-8")
    return passed


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def to_caller(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers that a caller can use of Aircall's answer: on its body, caching, rate limit and ids."""
    given = [(name.lower(), value) for name, value in headers]
    dropped = _named_by_connection(given) | ({b"content-length"} if status in WITHOUT_BODY else set())
    return [
        (name, value)
        for name, value in given
        if name not in dropped and (name in OF_AN_ANSWER or name.startswith(OF_AIRCALL))
    ]


def _named_by_connection(headers: Headers) -> set[bytes]:
    """Return the headers that `Connection` names, which by HTTP end at this hop."""
    words = (word for name, value in headers if name == b"connection" for word in value.split(b","))
    return {word.strip().lower() for word in words} - OF_THE_BODY
