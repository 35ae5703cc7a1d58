"""Delivers events by HTTP POST: signed, one request per attempt, and only to IP addresses that are allowed."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aircall_oauth import __version__
from aircall_oauth.deliveries.destinations import signatures
from aircall_oauth.deliveries.destinations.addresses import AddressBlocked, Guard
from aircall_oauth.deliveries.destinations.answers import Answer, AnswerConnector, Flooded
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Gone, Message, Outcome, TryAgain
from aircall_oauth.http_client import ProxyRefused, open_tunnel, retry_after_seconds, tls_reason, trust

DEADLINE_SECONDS = 15.0
CONNECT_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
# How long an idle connection is kept. Many servers close theirs after five seconds, perhaps while a request is on its
# way to them: so less than that.
KEPT_SECONDS = 4.0
HEADERS = {
    "content-type": "application/json",
    "user-agent": f"aircall-oauth/{__version__}",
}
# What aiohttp would add by itself.
SKIPPED = ("accept", "accept-encoding")
TIMEOUT = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS)

# The reason of a failed attempt, by the type of the error and the type of its cause; the first row that fits counts.
WORDS: tuple[tuple[Any, type, str], ...] = (
    (Exception, AddressBlocked, "blocked_address"),
    (aiohttp.InvalidURL, object, "blocked_address"),
    (Flooded, object, "flood"),
    (aiohttp.ClientConnectorError, ProxyRefused, "proxy"),
    (aiohttp.ClientConnectorDNSError, object, "dns"),
    (aiohttp.ClientConnectorError, ConnectionRefusedError, "refused"),
    (aiohttp.ClientConnectorError, ConnectionResetError, "reset"),
    (aiohttp.ClientConnectorError, object, "unreachable"),
    ((aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError), object, "reset"),
    (Exception, object, "not_http"),
)

# Returns the keys to sign with: called for each attempt.
Keys = Callable[[], Sequence[bytes]]


class JudgingResolver(AbstractResolver):
    """Looks names up for aiohttp; refuses a name if deliveries may not go to one of its addresses."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=family_found,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for family_found, address in await self._guard.addresses_of(host, family)
        ]

    async def close(self) -> None:
        """Close nothing: it holds nothing of its own."""


class JudgedConnector(AnswerConnector):
    """Connects to allowed IP addresses only, directly or through the proxy.

    The proxy is asked for the address that was checked, not for the host's name, which may resolve to another one.
    """

    def __init__(self, guard: Guard, **options: Any) -> None:
        super().__init__(socket_factory=guard.make_socket, **options)
        self._guard = guard

    async def _wrap_create_connection(self, *arguments: Any, addr_infos: Any, req: Any, **options: Any) -> Any:
        address, port = addr_infos[0][4][:2]
        if not self._guard.allows(address):
            raise aiohttp.ClientConnectorError(req.connection_key, AddressBlocked("blocked"))
        proxy = self._guard.proxy_to(address)
        if not proxy:
            return await super()._wrap_create_connection(*arguments, addr_infos=addr_infos, req=req, **options)
        timeout: aiohttp.ClientTimeout = options.pop("timeout")
        options.pop("client_error", None)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                tunnel = await open_tunnel(proxy, address, port)
                return await self._loop.create_connection(*arguments, sock=tunnel, **options)
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error


class HttpDestination:
    """Delivers events to one URL, over connections of its own: `at_once` at most."""

    def __init__(self, url: str, keys: Keys, guard: Guard, *, at_once: int) -> None:
        self._url = as_written(url)
        self._keys = keys
        self._connector = JudgedConnector(
            guard, limit=at_once, keepalive_timeout=KEPT_SECONDS, resolver=JudgingResolver(guard), ssl=_trust()
        )

    async def deliver(self, message: Message) -> Outcome:
        """Send one POST, and return the outcome within fifteen seconds. Every failure is an outcome, not an exception.

        The answer's status decides, and for 429 and 503 its `Retry-After`. The answer's body is not used.
        """
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return _outcome(await self._connector.ask(self._target, self._request(message), TIMEOUT))
        except TimeoutError:
            return TryAgain("timeout")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return TryAgain(_word(error))

    @cached_property
    def _target(self) -> aiohttp.ClientRequest:
        """Where requests go, as aiohttp's connector takes it; it is not sent itself."""
        return aiohttp.ClientRequest("POST", self._url, headers=HEADERS, skip_auto_headers=SKIPPED)

    @cached_property
    def _head(self) -> str:
        """What every request begins with."""
        headers = [(name, value) for name, value in self._target.headers.items() if name.lower() != "content-length"]
        lines = [f"POST {self._url.raw_path_qs} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join(lines)

    def _request(self, message: Message) -> bytes:
        body = message.body
        signed = signatures.headers(self._keys(), event_id=message.event_id, timestamp=int(time.time()), body=body)
        lines = [f"{name}: {value}" for name, value in (signed | message.mark).items()]
        return "\r\n".join([self._head, *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    async def close(self) -> None:
        await self._connector.close()


def as_written(url: str) -> URL:
    """Parse a URL so that its path and query are sent byte for byte, as the partner wrote them."""
    parts = urlsplit(url)
    _, mark, query = url.partition("?")
    # The query is passed as part of the path: yarl would drop a question mark with nothing after it.
    return URL.build(
        scheme=parts.scheme, authority=parts.netloc.lower(), path=f"{parts.path or '/'}{mark}{query}", encoded=True
    )


@cache
def _trust() -> ssl.SSLContext:
    """Return the TLS context of all destinations. It trusts the system's authorities, or those in `SSL_CERT_FILE`."""
    return trust()


def _outcome(answer: Answer) -> Outcome:
    """Return the outcome that an answer's status stands for."""
    assert answer.status is not None  # an answer is handed over once its status is known
    match answer.status:
        case status if 200 <= status < 300:
            return Delivered()
        case status if 300 <= status < 400:
            return TryAgain("redirect")
        case 410:
            return Gone("http_410")
        case 429 | 503 as status:
            return TryAgain(f"http_{status}", _retry_after(next(iter(answer.head().values(b"retry-after")), None)))
        case status:
            return TryAgain(f"http_{status}")


def _retry_after(told: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait, an hour at most; None if it asks for nothing."""
    return retry_after_seconds(told, most=LONGEST_RETRY_AFTER_SECONDS, dates=True)


def _word(error: Exception) -> str:
    """Return the reason of a failed attempt, in one word. The error's own text is not used: it may hold secrets."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error.__cause__
    if isinstance(cause, ssl.SSLError):
        return tls_reason(cause)
    return next(word for met, of, word in WORDS if isinstance(error, met) and isinstance(cause, of))
