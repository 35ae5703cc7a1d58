"""Delivers events by HTTP POST: signed, once per attempt, and only to an address that was judged."""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from aircall_oauth import __version__
from aircall_oauth.deliveries.destinations import signatures
from aircall_oauth.deliveries.destinations.addresses import AddressBlocked, Guard, JudgingResolver
from aircall_oauth.deliveries.destinations.answers import AnswerConnector, Flooded
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Gone, Message, Outcome, TryAgain
from aircall_oauth.http_client import ProxyRefused, open_session, open_tunnel, retry_after_seconds, tls_reason, trust

DEADLINE_SECONDS = 15.0
CONNECT_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
# Less than five: many servers close an idle connection after five seconds, perhaps while a request is on its way.
KEPT_SECONDS = 4.0
HEADERS = {
    "content-type": "application/json",
    "user-agent": f"aircall-oauth/{__version__}",
}

# An error, its cause, and the word for it; the first that fits.
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

Keys = Callable[[], Sequence[bytes]]


class JudgedConnector(AnswerConnector):
    """Connects to judged addresses only, through the proxy if there is one, which is asked for the address."""

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
    """A destination with one URL, which keeps its own connections."""

    def __init__(self, url: str, keys: Keys, guard: Guard, *, at_once: int) -> None:
        self._url = as_written(url)
        self._keys = keys
        self._session = open_session(
            JudgedConnector(
                guard,
                limit=at_once,
                keepalive_timeout=KEPT_SECONDS,
                resolver=JudgingResolver(guard),
                ssl=_trust(),
            ),
            timeout=aiohttp.ClientTimeout(total=DEADLINE_SECONDS, sock_connect=CONNECT_SECONDS),
            headers=HEADERS,
            skip_auto_headers=("accept", "accept-encoding"),
        )

    async def deliver(self, message: Message) -> Outcome:
        """Send one POST, within fifteen seconds. The status line of the answer decides the outcome."""
        headers = signatures.headers(
            self._keys(), event_id=message.event_id, timestamp=int(time.time()), body=message.body
        )
        try:
            async with self._session.post(
                self._url, data=message.body, headers=headers | message.mark, allow_redirects=False
            ) as response:
                return _judge(response)
        except TimeoutError:
            return TryAgain("timeout")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return TryAgain(_word(error))

    async def close(self) -> None:
        await self._session.close()


def as_written(url: str) -> URL:
    """Parse a URL so that its path and query are sent byte for byte."""
    parts = urlsplit(url)
    _, mark, query = url.partition("?")
    # Path and query in one piece: a question mark with nothing behind it would be left out otherwise.
    return URL.build(
        scheme=parts.scheme, authority=parts.netloc.lower(), path=f"{parts.path or '/'}{mark}{query}", encoded=True
    )


@cache
def _trust() -> ssl.SSLContext:
    """Trust the system's authorities, or those in the file that `SSL_CERT_FILE` names."""
    return trust()


def _judge(response: aiohttp.ClientResponse) -> Outcome:
    match response.status:
        case status if 200 <= status < 300:
            return Delivered()
        case status if 300 <= status < 400:
            return TryAgain("redirect")
        case 410:
            return Gone("http_410")
        case 429 | 503 as status:
            return TryAgain(f"http_{status}", _retry_after(response.headers.get("retry-after")))
        case status:
            return TryAgain(f"http_{status}")


def _retry_after(told: str | None) -> float | None:
    return retry_after_seconds(told, most=LONGEST_RETRY_AFTER_SECONDS, dates=True)


def _word(error: Exception) -> str:
    """Return one word for a failure: its text may hold secrets."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error.__cause__
    if isinstance(cause, ssl.SSLError):
        return tls_reason(cause)
    return next(word for met, of, word in WORDS if isinstance(error, met) and isinstance(cause, of))
