"""An httpx transport over aiohttp's connections, for the requests of many callers.

httpx's own transport (httpcore) costs several times as much CPU per request: docs/performance.md, "Asking Aircall
through the proxy".
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from yarl import URL

from aircall_oauth.aircall.sessions import open_session

CONNECTIONS = 200
KEPT_SECONDS = 30.0
# What aiohttp raises and what httpx raises for the same, the most specific first.
ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (TimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ClientConnectionError, httpx.ReadError),
    (aiohttp.ClientError, httpx.RemoteProtocolError),
    (OSError, httpx.ReadError),
)


class QuickTransport(httpx.AsyncBaseTransport):
    """Sends a request once and unchanged: its target byte for byte, and no more headers than HTTP needs.

    Understands the extensions `timeout` (`pool`, `connect` and `read`) and `target`, and headers in UTF-8. Raises
    httpx's errors.
    """

    def __init__(self, trust: ssl.SSLContext, proxy: str = "") -> None:
        self._proxy = proxy
        # Not the connector's own limit: waiting for that raises the same error as an Aircall that can't be reached.
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._session = open_session(
            aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS, ssl=trust),
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body, seconds = _Body(request), request.extensions.get("timeout", {})
        try:
            async with asyncio.timeout(seconds.get("pool")):
                await self._free.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("too many at once") from None
        try:
            with _errors_of_httpx(body):
                response = await self._session.request(
                    request.method,
                    _url(request),
                    headers=_headers(request),
                    data=body if body.expected else None,
                    allow_redirects=False,
                    proxy=self._proxy if self._proxy and request.url.scheme == "https" else None,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=seconds.get("connect"), sock_read=seconds.get("read")
                    ),
                )
        except BaseException:
            self._free.release()
            raise
        answer = _Answer(response, body, when_closed=self._free.release)
        return httpx.Response(response.status, headers=response.raw_headers, stream=answer)

    async def aclose(self) -> None:
        await self._session.close()


class _Body:
    """A request's body, and the error of its source, for which aiohttp raises a general one of its own."""

    def __init__(self, request: httpx.Request) -> None:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self._stream = request.stream
        self.expected = "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except Exception as error:
            self.failure = error
            raise


class _Answer(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, body: _Body, when_closed: Callable[[], None]) -> None:
        self._response = response
        self._body = body
        self._when_closed = when_closed
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx(self._body):
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            # An answer that was not read to its end closes its connection.
            self._response.release()
            self._when_closed()


def _url(request: httpx.Request) -> URL:
    url, target = request.url, request.extensions.get("target", request.url.raw_path)
    path, _, query = target.decode().partition("?")
    return URL.build(scheme=url.scheme, authority=url.netloc.decode(), path=path, query_string=query, encoded=True)


def _headers(request: httpx.Request) -> list[tuple[str, str]]:
    """Return the headers without `Transfer-Encoding`, which aiohttp writes itself."""
    return [(name.decode(), value.decode()) for name, value in request.headers.raw if name != b"transfer-encoding"]


@contextmanager
def _errors_of_httpx(body: _Body) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        if body.failure is not None:
            raise body.failure from None
        raise next(ours for theirs, ours in ERRORS if isinstance(error, theirs))(type(error).__name__) from None
