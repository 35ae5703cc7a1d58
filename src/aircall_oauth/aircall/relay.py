"""Passes requests on to Aircall and answers back, unchanged and as they arrive.

It has its own connections: callers that wait for a slow Aircall do not use up those of the service's own requests
(`client.py`).
"""

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import httpx
from pydantic import SecretStr

from aircall_oauth.aircall import versions
from aircall_oauth.aircall.asked import Asked, ConnectionFault
from aircall_oauth.errors import AircallUnavailable, TooManyAtOnce

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 20.0
HEAD_SECONDS = 30.0
BODY_SECONDS = 30.0
# Aircall's largest pages are well below a mebibyte.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
TOO_LARGE = "the answer is too large"
UNFIT = "the answer is none of HTTP"
FINAL = range(200, 600)
# Not allowed in a header's value (RFC 9110, 5.5), and passed on by no server.
CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# The version that the address of Aircall's API ends with.
VERSION_AT_END = re.compile(rb"/v[1-9][0-9]?$")
TIMEOUTS = httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS).as_dict()
# The connection broke before an answer arrived; whether the request arrived is unknown.
FAULTS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


class Answer:
    """Aircall's answer, a context manager: its end gives the connection back, or closes it."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers = response.headers

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._response.aclose()

    async def pour(self, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass the body's bytes to `take` as they arrive, still encoded; raises `AircallUnavailable` if cut short."""
        poured = 0
        stream = self._response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in stream:
                    poured += len(chunk)
                    if poured > MAX_ANSWER_BYTES:
                        raise AircallUnavailable(TOO_LARGE)
                    await take(chunk)
        except (httpx.TimeoutException, TimeoutError):
            raise AircallUnavailable("timeout") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise AircallUnavailable(type(error).__name__) from None


class Relay:
    """Aircall's Public API for the requests of the partner's systems. Opened and closed with the process."""

    def __init__(self, *, api_url: str, transport: httpx.AsyncBaseTransport) -> None:
        self._url = httpx.URL(api_url)
        self._base = self._url.raw_path.rstrip(b"/")
        self._above_versions = VERSION_AT_END.sub(b"", self._base)
        # A transport and not a client: it follows no redirects, keeps no cookies and changes no headers.
        self._transport = transport

    async def close(self) -> None:
        await self._transport.aclose()

    async def send(self, asked: Asked, token: SecretStr) -> Answer:
        """Send a request once and return its answer.

        Raises `TooManyAtOnce`, `ConnectionFault` or `AircallUnavailable`, and what the body's stream raises.
        """
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                answer = Answer(await self._transport.handle_async_request(self._request(asked, token)))
        except FAULTS as fault:
            raise ConnectionFault(type(fault).__name__) from None
        except httpx.PoolTimeout:
            raise TooManyAtOnce from None
        except (httpx.TimeoutException, TimeoutError):
            raise AircallUnavailable("timeout") from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise AircallUnavailable(type(error).__name__) from None
        if (reason := _unfit(asked, answer)) is not None:
            await answer.close()
            raise AircallUnavailable(reason)
        return answer

    def _request(self, asked: Asked, token: SecretStr) -> httpx.Request:
        base = self._above_versions if versions.NAMED.match(asked.path.decode()) else self._base
        target = base + b"/" + asked.path + (b"?" + asked.query if asked.query else b"")
        own = [(b"host", self._url.netloc), (b"authorization", b"Bearer " + token.get_secret_value().encode())]
        return httpx.Request(
            asked.method,
            self._url,
            headers=[*own, *asked.headers],
            stream=_Body(asked.body) if asked.body else None,
            # The bytes as given: `httpx.URL` would normalise them.
            extensions={"timeout": TIMEOUTS, "target": target},
        )


def _unfit(asked: Asked, answer: Answer) -> str | None:
    """Return why an answer can't be passed on; None where it can."""
    if answer.status not in FINAL or any(CONTROLS.search(value) for _, value in answer.headers.raw):
        return UNFIT
    too_large = int(answer.headers.get("content-length", 0)) > MAX_ANSWER_BYTES
    return TOO_LARGE if too_large and asked.method != "HEAD" else None


class _Body(httpx.AsyncByteStream):
    def __init__(self, body: bytes | AsyncIterable[bytes]) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if isinstance(self._body, bytes):
            yield self._body
        else:
            async for chunk in self._body:
                yield chunk
