"""What all our HTTP clients share: whom they trust, tunnels through a proxy, and reading `Retry-After`."""

import asyncio
import base64
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

# OpenSSL's numbers for what is wrong with a certificate (x509_vfy.h), as words; all others are `tls_certificate`.
CERTIFICATE_WORDS = {
    2: "tls_untrusted",
    18: "tls_untrusted",
    19: "tls_untrusted",
    20: "tls_untrusted",
    21: "tls_untrusted",
    9: "tls_expired",  # or not valid yet
    10: "tls_expired",
    62: "tls_wrong_name",
    64: "tls_wrong_name",
}


def trust(context: ssl.SSLContext | None = None) -> ssl.SSLContext:
    """Return a TLS context that verifies servers alike on every Python version.

    It trusts the machine's authorities or those in `SSL_CERT_FILE`, or those of the given context. Since 3.13 Python
    demands all of RFC 5280, and refuses private authorities that other clients accept (no keyUsage, no key identifier);
    and it accepts a certificate as its own authority if it is among the trusted ones.
    """
    context = context or ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def tls_reason(error: ssl.SSLError) -> str:
    """Return what is wrong with a certificate, in one word; `tls` for an error before any certificate was seen."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE_WORDS.get(error.verify_code, "tls_certificate")
    return "tls"


def tls_reason_in(error: BaseException) -> str | None:
    """Return what is wrong with TLS, where that is why a client's error was raised; None for any other reason."""
    cause: BaseException | None = error
    while cause is not None:
        # aiohttp's own is one of Python's, too, and doesn't know what is wrong; what it was raised from does.
        if isinstance(cause, ssl.SSLError) and type(cause).__module__ == ssl.__name__:
            return tls_reason(cause)
        cause = cause.__cause__ or cause.__context__
    return None


MAX_PROXY_HEAD_BYTES = 16 * 1024


class ProxyRefused(ConnectionError):
    """The proxy does not open a tunnel."""


async def open_tunnel(proxy: str, host: str, port: int) -> socket.socket:
    """Connect to an address through an HTTP proxy; raises `OSError`, of which `ProxyRefused` is a kind."""
    at, loop = urlsplit(proxy), asyncio.get_running_loop()
    (family, kind, _, _, address), *_ = await loop.getaddrinfo(at.hostname, at.port, type=socket.SOCK_STREAM)
    connection = socket.socket(family, kind)
    try:
        connection.setblocking(False)
        await loop.sock_connect(connection, address)
        await loop.sock_sendall(connection, _connect(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxy))
        head = bytearray()
        # Byte by byte, so that nothing that comes through the tunnel is read here.
        while not head.endswith(b"\r\n\r\n") and (piece := await loop.sock_recv(connection, 1)):
            head += piece
            if len(head) > MAX_PROXY_HEAD_BYTES:
                break
        if not head.endswith(b"\r\n\r\n") or head.split(b" ", 2)[1:2] != [b"200"]:
            raise ProxyRefused("the proxy opens no tunnel")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(target: str, proxy: str) -> bytes:
    at, lines = urlsplit(proxy), [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if at.username is not None:
        named = f"{unquote(at.username)}:{unquote(at.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(named.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


def retry_after_seconds(told: str | None, *, most: float, dates: bool = False) -> float | None:
    """Return the pause that a `Retry-After` header asks for (RFC 9110, 10.2.3), from 0 to `most` seconds.

    None where there is no such header or it cannot be read; a date counts with `dates` only.
    """
    told = (told or "").strip()
    if told.isascii() and told.isdigit():
        seconds = float(told[:10])
    elif told and dates:
        try:
            at = parsedate_to_datetime(told)
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
        # A date that no calendar has: an error of a few kinds, by where it is noticed.
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return None
    else:
        return None
    return min(max(seconds, 0.0), most)
