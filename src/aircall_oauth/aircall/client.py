"""The client for Aircall's Public API that the service itself uses.

Every request has a deadline, reads at most 1 MiB (8 MiB of a list of phone calls) and follows no redirect. One that
does not succeed raises `AircallRefused` (do not repeat) or `AircallUnavailable` (may be repeated). Only requests that
do no more when they arrive twice are repeated here.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import stamina
from pydantic import SecretStr

from aircall_oauth import __version__
from aircall_oauth.aircall import answers, calls
from aircall_oauth.aircall.answers import NeverSent, NotTaken
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
)
from aircall_oauth.errors import AircallRefused, AircallUnavailable
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
# Errors of `POST /oauth/token` that are about our app and not about the code.
APP_REFUSED = {"invalid_client", "unauthorized_client"}
NO_CODE = "no-code"


@dataclass
class Sent:
    """The number of requests sent to Aircall, repeats included."""

    requests: int = 0


_sent = ContextVar("sent", default=Sent())  # noqa: B039 - shared where no block counts


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
    """Aircall's Public API, asked with our app's credentials. Opened and closed with the process."""

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

        A code works once, so the request is repeated only where no connection was made, or where Aircall says that it
        did not take the request (408, 425). The body has the five fields of Aircall's tutorial
        (developer.aircall.io/tutorials/how-aircall-oauth-flow-works, step 5).
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
        return answers.read(TokenAnswer, answer).access_token

    async def identify(self, token: SecretStr) -> Identity:
        """Return the company and the integration that a token belongs to.

        The ids come from `GET /integrations/me`, since `GET /company` has none; only the name comes from there.
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
        """Return the integration of a token; Aircall answers a dead token with 403."""
        return answers.read(IntegrationAnswer, await self._get(token, "/integrations/me")).integration

    async def company(self, token: SecretStr) -> Company:
        """Return the company of a token, without a name where Aircall fails: the name is only shown."""
        try:
            return answers.read(CompanyAnswer, await self._get(token, "/company")).company
        except (AircallRefused, AircallUnavailable) as error:
            logger.warning("company name not read", reason=error.reason)
            return Company()

    async def enable_integration(self, token: SecretStr) -> None:
        """Tell Aircall that the customer is connected again, after having disconnected on our side."""
        await self._call("POST", "/integrations/enable", token=token)

    async def disable_integration(self, token: SecretStr) -> None:
        """Tell Aircall that the customer disconnected on our side."""
        await self._call("POST", "/integrations/disable", token=token)

    async def clock(self) -> datetime | None:
        """Return Aircall's own time, from the `Date` of its answer to a request without a token; None without one."""
        response, _ = await self._ask("GET", "/ping")
        if response.is_server_error:
            raise AircallUnavailable(f"status {response.status_code}")
        try:
            return parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            return None

    async def knows_app(self) -> bool:
        """Whether Aircall accepts our app's credentials.

        Sends a code that Aircall never gave: the refusal says whether the code or the app is wrong.
        """
        try:
            await self.exchange_code(SecretStr(NO_CODE))
        except AircallRefused as refused:
            return refused.aircall_status not in {401, 403} and refused.reason not in APP_REFUSED
        return True

    async def create_webhook(self, token: SecretStr, *, url: str, name: str, events: Sequence[str]) -> AircallWebhook:
        """Register a webhook, for all events where `events` is empty. Never repeated: each repeat makes one more."""
        body: dict[str, Any] = {"custom_name": name, "url": url}
        if events:
            body["events"] = list(events)
        return answers.read(WebhookAnswer, await self._call("POST", "/webhooks", token=token, json=body)).webhook

    async def list_webhooks(self, token: SecretStr) -> AsyncIterator[AircallWebhook]:
        """Yield every webhook that our app made with this token, page by page."""
        for page_number in range(1, MAX_PAGES + 1):
            query = {"page": str(page_number), "per_page": str(WEBHOOKS_PER_PAGE)}
            page = answers.read(WebhookPage, await self._get(token, "/webhooks", params=query))
            for webhook in page.webhooks:
                yield webhook
            if not page.webhooks or page.meta.next_page_link is None:
                return

    async def get_webhook(self, token: SecretStr, webhook_id: str) -> AircallWebhook:
        return answers.read(WebhookAnswer, await self._get(token, f"/webhooks/{webhook_id}")).webhook

    async def update_webhook(
        self, token: SecretStr, webhook_id: str, *, url: str, name: str, events: Sequence[str]
    ) -> AircallWebhook:
        """Give a webhook this URL, name and events, and switch it on.

        `events` is always sent: Aircall subscribes a webhook to everything when a PUT leaves it out.
        """
        if not events:
            raise ValueError("a webhook's update needs its events")
        body = {"custom_name": name, "url": url, "events": list(events), "active": True}
        async for attempt in _repeat(on=AircallUnavailable):
            with attempt:
                answer = await self._call("PUT", f"/webhooks/{webhook_id}", token=token, json=body)
        return answers.read(WebhookAnswer, answer).webhook

    async def delete_webhook(self, token: SecretStr, webhook_id: str) -> None:
        """Delete a webhook; one that is already gone counts as deleted."""
        try:
            async for attempt in _repeat(on=AircallUnavailable):
                with attempt:
                    await self._call("DELETE", f"/webhooks/{webhook_id}", token=token)
        except AircallRefused as refused:
            if refused.aircall_status != 404:
                raise

    async def list_calls(self, token: SecretStr, *, since: int, until: int, page: int) -> CallPage:
        """Return one page of the calls that started between two UNIX seconds, both included, oldest first.

        Never repeated: its caller lists many pages and draws each request from the budget.
        """
        query = {"from": since, "to": until, "order": "asc", "page": page, "per_page": calls.PER_PAGE}
        response, body = await self._ask("GET", "/calls", token=token, most_bytes=MAX_CALLS_BYTES, params=query)
        if not response.is_success:
            answers.content(response, body, secrets=answers.secrets_sent(token, {}))
        return calls.read_page(body)

    async def _get(self, token: SecretStr, path: str, **options: Any) -> Any:
        async for attempt in _repeat(on=AircallUnavailable):
            with attempt:
                answer = await self._call("GET", path, token=token, **options)
        return answer

    async def _call(self, method: str, path: str, *, token: SecretStr | None = None, **options: Any) -> Any:
        """Send one request; returns the JSON of its answer, None without a body."""
        response, body = await self._ask(method, path, token=token, **options)
        return answers.content(response, body, secrets=answers.secrets_sent(token, options.get("json") or {}))

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        token: SecretStr | None = None,
        most_bytes: int = MAX_ANSWER_BYTES,
        **options: Any,
    ) -> tuple[httpx.Response, bytes]:
        # Aircall wants the content type on DELETE and on a POST without a body, too.
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
                return response, await answers.bounded_body(response, most_bytes)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            sent.requests -= 1
            raise NeverSent("no connection") from None
        except (httpx.TimeoutException, TimeoutError):
            raise AircallUnavailable("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise AircallUnavailable(type(error).__name__) from None


def _repeat(*, on: type[AircallUnavailable]) -> AsyncIterable[stamina.Attempt]:
    def at_once(error: Exception) -> bool:
        # An answer that says when to come again is not followed by a repeat at once.
        return isinstance(error, on) and error.retry_after_seconds is None

    return stamina.retry_context(
        on=at_once, attempts=ATTEMPTS, timeout=TOTAL_SECONDS, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
    )
