"""Our one voice to Aircall.

Every call has a deadline, reads at most 1 MiB (of a list of phone calls 8 MiB), follows no redirect, and ends in one of
two ways besides success: `AircallRefused` (do not repeat) or `AircallUnavailable` (may be repeated). Only calls that
change nothing are repeated here.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import stamina
from pydantic import BaseModel, SecretStr, ValidationError

from aircall_oauth import __version__
from aircall_oauth.aircall import calls
from aircall_oauth.aircall.calls import CallPage
from aircall_oauth.aircall.payloads import (
    AircallWebhook,
    Company,
    CompanyAnswer,
    Identity,
    Integration,
    IntegrationAnswer,
    TokenAnswer,
    WebhookAnswer,
    WebhookPage,
    error_reason,
)
from aircall_oauth.errors import AircallBusy, AircallRefused, AircallUnavailable
from aircall_oauth.http_client import retry_after_seconds
from aircall_oauth.telemetry import log

logger = log.get(__name__)

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
TOTAL_SECONDS = 15.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_CALLS_BYTES = 8 * 1024 * 1024
ATTEMPTS = 3
WEBHOOKS_PER_PAGE = 50
MAX_PAGES = 20
MILLISECONDS_FROM = 1e12
# What is said of our app, not of a code.
APP_REFUSED = {"invalid_client", "unauthorized_client"}
NO_CODE = "no-code"
# What is told beyond it is not believed.
LONGEST_RETRY_AFTER_SECONDS = 86400.0
SECRET_FIELDS = ("code", "client_secret", "code_verifier")

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass
class Sent:
    """How many requests left for Aircall, each repeat for itself."""

    requests: int = 0


_sent = ContextVar("sent", default=Sent())  # noqa: B039 - what nobody counts may be shared


@contextmanager
def counted() -> Iterator[Sent]:
    """Count what is sent to Aircall while the block runs, in this task and those it starts."""
    sent = Sent()
    before = _sent.set(sent)
    try:
        yield sent
    finally:
        _sent.reset(before)


class Aircall:
    """Aircall's Public API with our app's credentials. Opened and closed with the process."""

    def __init__(
        self,
        *,
        api_url: str,
        client_id: str,
        client_secret: SecretStr,
        redirect_uri: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api_url = api_url
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=False,
            headers={
                "user-agent": f"aircall-oauth/{__version__}",
                "accept": "application/json",
                "accept-encoding": "identity",
            },
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def exchange_code(self, code: SecretStr, *, verifier: str | None = None) -> SecretStr:
        """Turn an authorization code into the permanent access token.

        A code works once, so this is repeated only where no connection was made, or where Aircall says that it did not
        take the request (408, 425). Body: the five fields of
        Aircall's tutorial (developer.aircall.io/tutorials/how-aircall-oauth-flow-works, step 5).
        """
        body = {
            "code": code.get_secret_value(),
            "redirect_uri": self._redirect_uri,
            "client_id": self._client_id,
            "client_secret": self._client_secret.get_secret_value(),
            "grant_type": "authorization_code",
        }
        if verifier is not None:
            body["code_verifier"] = verifier
        async for attempt in _repeat(on=NotTaken):
            with attempt:
                answer = await self._call("POST", "/oauth/token", json=body)
        return _read(TokenAnswer, answer).access_token

    async def identify(self, token: SecretStr) -> Identity:
        """Who a token belongs to.

        `GET /company` has no id, so the company's id comes from `GET /integrations/me`, and only the name from there.
        """
        integration = await self.integration(token)
        company = await self.company(token)
        return Identity(
            company_id=integration.company_id,
            integration_id=integration.id,
            company_name=company.name,
            number_ids=integration.number_ids,
            active=integration.active,
        )

    async def integration(self, token: SecretStr) -> Integration:
        """Whether a token works, and whose it is; Aircall answers a dead one with 403."""
        return _read(IntegrationAnswer, await self._get(token, "/integrations/me")).integration

    async def company(self, token: SecretStr) -> Company:
        """The company's name is only shown: where it can't be had, the installation goes on without."""
        try:
            return _read(CompanyAnswer, await self._get(token, "/company")).company
        except (AircallRefused, AircallUnavailable) as error:
            logger.warning("company name not read", reason=error.reason)
            return Company()

    async def ping(self, token: SecretStr) -> None:
        """Ask whether a token still works; Aircall answers a dead one with 403."""
        await self._get(token, "/ping")

    async def enable_integration(self, token: SecretStr) -> None:
        """Tell Aircall that the customer is connected again, after he disconnected on our side."""
        await self._call("POST", "/integrations/enable", token=token)

    async def disable_integration(self, token: SecretStr) -> None:
        """Tell Aircall that the customer disconnected on our side."""
        await self._call("POST", "/integrations/disable", token=token)

    async def clock(self) -> datetime | None:
        """Aircall's own time, read off its refusal of a call without a token; None where it does not say."""
        response, _ = await self._ask("GET", "/ping")
        if response.is_server_error:
            raise AircallUnavailable(f"status {response.status_code}")
        try:
            return parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            return None

    async def knows_app(self) -> bool:
        """Whether Aircall accepts our credentials: it refuses a code that it never gave, and says which is wrong."""
        try:
            await self.exchange_code(SecretStr(NO_CODE))
        except AircallRefused as refused:
            return refused.aircall_status not in {401, 403} and refused.reason not in APP_REFUSED
        return True

    async def create_webhook(self, token: SecretStr, *, url: str, name: str, events: Sequence[str]) -> AircallWebhook:
        """Register a webhook; no events means all. Never repeated: each repeat would make one more webhook."""
        body: dict[str, Any] = {"custom_name": name, "url": url}
        if events:
            body["events"] = list(events)
        return _read(WebhookAnswer, await self._call("POST", "/webhooks", token=token, json=body)).webhook

    async def list_webhooks(self, token: SecretStr) -> AsyncIterator[AircallWebhook]:
        """Every webhook this app made with this token, page by page."""
        for page_number in range(1, MAX_PAGES + 1):
            query = {"page": str(page_number), "per_page": str(WEBHOOKS_PER_PAGE)}
            page = _read(WebhookPage, await self._get(token, "/webhooks", params=query))
            for webhook in page.webhooks:
                yield webhook
            if not page.webhooks or page.meta.next_page_link is None:
                return

    async def get_webhook(self, token: SecretStr, webhook_id: str) -> AircallWebhook:
        return _read(WebhookAnswer, await self._get(token, f"/webhooks/{webhook_id}")).webhook

    async def update_webhook(
        self, token: SecretStr, webhook_id: str, *, url: str, name: str, events: Sequence[str]
    ) -> AircallWebhook:
        """Set a webhook to this and switch it on.

        `events` is always sent: Aircall subscribes a webhook to everything when a PUT leaves it out.
        """
        if not events:
            raise ValueError("a webhook's update needs its events")
        body = {"custom_name": name, "url": url, "events": list(events), "active": True}
        async for attempt in _repeat(on=AircallUnavailable):
            with attempt:
                answer = await self._call("PUT", f"/webhooks/{webhook_id}", token=token, json=body)
        return _read(WebhookAnswer, answer).webhook

    async def delete_webhook(self, token: SecretStr, webhook_id: str) -> None:
        """Remove a webhook; one that is already gone is removed."""
        try:
            async for attempt in _repeat(on=AircallUnavailable):
                with attempt:
                    await self._call("DELETE", f"/webhooks/{webhook_id}", token=token)
        except AircallRefused as refused:
            if refused.aircall_status != 404:
                raise

    async def list_calls(self, token: SecretStr, *, since: int, until: int, page: int) -> CallPage:
        """One page of the calls that started between two UNIX seconds, both included, oldest first.

        Never repeated: who lists many pages counts each request.
        """
        query = {"from": since, "to": until, "order": "asc", "page": page, "per_page": calls.PER_PAGE}
        response, body = await self._ask("GET", "/calls", token=token, most_bytes=MAX_CALLS_BYTES, params=query)
        if not response.is_success:
            _judge(response, body, _secrets_sent(token, {}))
        return calls.read_page(body)

    async def _get(self, token: SecretStr, path: str, **options: Any) -> Any:
        async for attempt in _repeat(on=AircallUnavailable):
            with attempt:
                answer = await self._call("GET", path, token=token, **options)
        return answer

    async def _call(self, method: str, path: str, *, token: SecretStr | None = None, **options: Any) -> Any:
        """One request, one answer: its JSON, or None where it has no body."""
        response, body = await self._ask(method, path, token=token, **options)
        return _judge(response, body, _secrets_sent(token, options.get("json") or {}))

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        token: SecretStr | None = None,
        most_bytes: int = MAX_ANSWER_BYTES,
        **options: Any,
    ) -> tuple[httpx.Response, bytes]:
        # Aircall wants the content type on DELETE and on an empty POST too.
        headers = {"content-type": "application/json"} if method != "GET" else {}
        if token is not None:
            headers["authorization"] = f"Bearer {token.get_secret_value()}"
        sent = _sent.get()
        sent.requests += 1
        try:
            async with (
                asyncio.timeout(TOTAL_SECONDS),
                self._http.stream(method, self._api_url + path, headers=headers, **options) as response,
            ):
                return response, await _bounded_body(response, most_bytes)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            sent.requests -= 1
            raise NeverSent("no connection") from None
        except (httpx.TimeoutException, TimeoutError):
            raise AircallUnavailable("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise AircallUnavailable(type(error).__name__) from None


class NotTaken(AircallUnavailable):
    """Aircall has not taken the request: the same again does nothing twice."""


class NeverSent(NotTaken):
    """Aircall could not be reached: no byte of the request left."""


# Refused now, but not for good. 408 and 425 ask to repeat; 429 says when.
TEMPORARY: dict[int, type[AircallUnavailable]] = {408: NotTaken, 425: NotTaken, 429: AircallBusy}


def _repeat(*, on: type[AircallUnavailable]) -> AsyncIterable[stamina.Attempt]:
    def at_once(error: Exception) -> bool:
        # Who is told when to come back is not back at once.
        return isinstance(error, on) and error.retry_after_seconds is None

    return stamina.retry_context(
        on=at_once, attempts=ATTEMPTS, timeout=TOTAL_SECONDS, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
    )


async def _bounded_body(response: httpx.Response, most_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most_bytes:
            raise AircallUnavailable("the answer is too large")
    return bytes(body)


def _secrets_sent(token: SecretStr | None, body: dict[str, Any]) -> list[str]:
    sent = [body[name] for name in SECRET_FIELDS if name in body]
    return sent if token is None else [*sent, token.get_secret_value()]


def _judge(response: httpx.Response, body: bytes, secrets: list[str]) -> Any:
    """The answer's JSON, or the error its status stands for."""
    content = _json(body)
    status = response.status_code
    if response.is_success:
        if content is None and body:
            raise AircallUnavailable("the answer is not JSON")
        return content
    if response.is_client_error and status not in TEMPORARY:
        raise AircallRefused(aircall_status=status, reason=error_reason(content, secrets=secrets))
    unavailable = TEMPORARY.get(status, AircallUnavailable)
    raise unavailable(f"status {status}", retry_after_seconds=_retry_after(response))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to stay away, a day at most, where told: `Retry-After`, or when Aircall's own minute begins anew."""
    seconds = retry_after_seconds(response.headers.get("retry-after"), most=LONGEST_RETRY_AFTER_SECONDS)
    reset_at = response.headers.get("x-aircallapi-reset", "")
    if seconds is None and response.status_code == 429 and reset_at.isdecimal():
        # A timestamp whose unit Aircall does not document.
        moment = float(reset_at)
        seconds = (moment if moment < MILLISECONDS_FROM else moment / 1000) - time.time()
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER_SECONDS)
    return seconds


def _read(model: type[Answer], content: Any) -> Answer:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        fields = sorted({".".join(map(str, e["loc"])) for e in error.errors(include_input=False)})
        raise AircallUnavailable(f"the answer lacks or garbles {', '.join(fields)[:100]}") from None
