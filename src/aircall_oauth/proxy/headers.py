"""Which headers are passed on, to Aircall and back."""

from collections.abc import Iterable

from aircall_oauth.errors import InvalidRequest

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
# The caller's own secrets, who it is and how it came here, and what would make another request of it for some
# frameworks; `expect` was answered already.
OF_THE_CALLER = {b"authorization", b"cookie", b"expect", b"forwarded", b"host", b"origin", b"referer", b"via"}
OF_THE_CALLERS_WAY = (
    *(b"proxy-", b"sec-", b"x-api-key", b"x-forwarded-", b"x-real-ip", b"x-request-id"),
    *(b"x-http-method", b"x-method-override", b"x-original-", b"x-rewrite-"),
)
OF_AN_ANSWER = {
    b"apigw-requestid",
    b"cache-control",
    b"content-disposition",
    b"content-encoding",
    b"content-language",
    b"content-length",
    b"content-range",
    b"content-type",
    b"etag",
    b"expires",
    b"last-modified",
    b"link",
    b"retry-after",
    b"vary",
    b"x-runtime",
}
# Told of what would have come (RFC 9110, 8.6), it would be waited for.
WITHOUT_BODY = {204, 304}
OF_AIRCALL = (b"ratelimit", b"x-aircallapi-", b"x-amz", b"x-ratelimit-")


def to_aircall(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """All that the caller says of its request, but nothing of its secrets and its way here.

    Raises `InvalidRequest` for what is not UTF-8: what it means depends on who reads it.
    """
    given = list(headers)
    dropped = OF_THE_CALLER | HOP_BY_HOP | _named_by_connection(given)
    passed = [(name, value) for name, value in given if name not in dropped and not name.startswith(OF_THE_CALLERS_WAY)]
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
    """What a caller can use of Aircall's answer: what the body is, how long it holds, the rate, Aircall's own ids."""
    given = [(name.lower(), value) for name, value in headers]
    dropped = _named_by_connection(given) | ({b"content-length"} if status in WITHOUT_BODY else set())
    return [
        (name, value)
        for name, value in given
        if name not in dropped and (name in OF_AN_ANSWER or name.startswith(OF_AIRCALL))
    ]


def _named_by_connection(headers: Headers) -> set[bytes]:
    return {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
