"""The client for Aircall's Public API that the service itself uses.

Every request ends within 15 seconds, reads at most 1 MiB of the answer (8 MiB of a list of phone calls) and follows no
redirect. A request that does not succeed raises `AircallRefused` (do not repeat it) or `AircallUnavailable` (it may be
repeated). The client itself repeats a request only if it is idempotent, or if Aircall never got it or did not take it.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import stamina
from pydantic import SecretStr

from aircall_oauth import __version__
from aircall_oauth.aircall import answers, calls, counting
from aircall_oauth.aircall.answers import NeverSent, NotTaken
from aircall_oauth.aircall.calls import CallPage
from aircall_oauth.aircall.payloads import (
    APP_REFUSED,
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
from aircall_oauth.http_client import tls_reason_in
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
MADE_UP_CODE = "no-code"


class Aircall:
    """Sends requests to Aircall's Public API: with an installation's token, or with our app's own credentials.

    One client serves the whole process. It keeps connections open until `close`.
    """

    def __init__(
        self,
        *,
        api_url: str,
        client_id: str,
        client_secrets: Sequence[SecretStr],
        redirect_uri: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api_url = api_url
        self._client_id = client_id
        self._client_secrets = list(client_secrets)
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

    @property
    def accepted_secret(self) -> SecretStr:
        """The client secret that Aircall took last; the first one if none was tried yet."""
        return self._client_secrets[0]

    def take_secrets(self, client_secrets: Sequence[SecretStr]) -> None:
        """Use these client secrets from now on."""
        self._client_secrets = list(client_secrets)

    async def exchange_code(self, code: SecretStr, *, verifier: str | None = None) -> SecretStr:
        """Turn an authorization code into the permanent access token.

        If Aircall refuses our app with the first client secret, the next one is tried: a client that is refused has
        not used the code. The one that Aircall takes is tried first from then on.

        A code works once, so the request is repeated only if no connection was made, or if Aircall answers that it did
        not take the request (408, 425). The body has the five fields of Aircall's tutorial
        (developer.aircall.io/tutorials/how-aircall-oauth-flow-works, step 5).
        """
        *others, last = self._client_secrets
        for secret in others:
            try:
                return await self._exchange(code, secret, verifier)
            except AircallRefused as refused:
                if not _is_about_our_app(refused):
                    raise
        return await self._exchange(code, last, verifier)

    async def _exchange(self, code: SecretStr, client_secret: SecretStr, verifier: str | None) -> SecretStr:
        body = {
            "code": code.get_secret_value(),
            "redirect_uri": self._redirect_uri,
            "client_id": self._client_id,
            "client_secret": client_secret.get_secret_value(),
            "grant_type": "authorization_code",
        }
        if verifier is not None:
            body["code_verifier"] = verifier
        async for attempt in _repeat(on=NotTaken):
            with attempt:
                try:
                    answer = await self._call("POST", "/oauth/token", json=body)
                except AircallRefused as refused:
                    if not _is_about_our_app(refused):
                        self._is_accepted(client_secret)
                    raise
        self._is_accepted(client_secret)
        return answers.read(TokenAnswer, answer).access_token

    def _is_accepted(self, client_secret: SecretStr) -> None:
        """Have a client secret that Aircall takes tried first."""
        if client_secret in self._client_secrets:
            self._client_secrets.sort(key=lambda each: each != client_secret)

    async def identify(self, token: SecretStr) -> Identity:
        """Return the company and the integration that a token belongs to.

        The ids come from `GET /integrations/me`, because `GET /company` has none: that gives only the name.
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
        """Return the integration that a token belongs to. Aircall answers 403 to a token that is no longer valid."""
        return answers.read(IntegrationAnswer, await self._get(token, "/integrations/me")).integration

    async def company(self, token: SecretStr) -> Company:
        """Return the company that a token belongs to. If Aircall fails, its name is None, as it is only shown."""
        try:
            return answers.read(CompanyAnswer, await self._get(token, "/company")).company
        except (AircallRefused, AircallUnavailable) as error:
            logger.warning("company name not read", reason=error.reason)
            return Company()

    async def enable_integration(self, token: SecretStr) -> None:
        """Tell Aircall that the customer, who had disconnected on our side, is connected again."""
        await self._call("POST", "/integrations/enable", token=token)

    async def disable_integration(self, token: SecretStr) -> None:
        """Tell Aircall that the customer disconnected on our side."""
        await self._call("POST", "/integrations/disable", token=token)

    async def clock(self) -> datetime | None:
        """Return Aircall's time: the `Date` header of an answer that needs no token. None if no date can be read."""
        response, _ = await self._ask("GET", "/ping")
        if response.is_server_error:
            raise AircallUnavailable(f"status {response.status_code}")
        try:
            return parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            return None

    async def knows_app(self) -> bool:
        """Return whether Aircall accepts our app's credentials.

        Exchanges a made-up code: Aircall refuses it, and its refusal says whether the code or the app is wrong.
        """
        try:
            await self.exchange_code(SecretStr(MADE_UP_CODE))
        except AircallRefused as refused:
            return not _is_about_our_app(refused)
        return True

    async def create_webhook(self, token: SecretStr, *, url: str, name: str, events: Sequence[str]) -> AircallWebhook:
        """Register a webhook; an empty `events` means all events. Never repeated: a repeat would make another one."""
        body: dict[str, Any] = {"custom_name": name, "url": url}
        if events:
            body["events"] = list(events)
        return answers.read(WebhookAnswer, await self._call("POST", "/webhooks", token=token, json=body)).webhook

    async def list_webhooks(self, token: SecretStr) -> AsyncIterator[AircallWebhook]:
        """Yield the webhooks that our app made with this token, 1,000 at most. Asks for 50 on each page."""
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

        `events` is always sent, because a PUT without it makes Aircall subscribe the webhook to all events. Raises
        `ValueError` if it is empty.
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
        """Return one page (from 1) of the calls that started from `since` to `until`, UNIX seconds, oldest first.

        Both seconds are included. Never repeated: the caller asks for many pages, and draws each from the budget.
        """
        query = {"from": since, "to": until, "order": "asc", "page": page, "per_page": calls.PER_PAGE}
        response, body = await self._ask("GET", "/calls", token=token, most_bytes=MAX_CALLS_BYTES, params=query)
        if not response.is_success:
            # Raises the error that the status stands for.
            answers.content(response, body, secrets=answers.secrets_sent(token, {}))
        return calls.read_page(body)

    async def _get(self, token: SecretStr, path: str, **options: Any) -> Any:
        """Send a GET, repeated while Aircall is unavailable; returns the JSON of its answer, None without a body."""
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
        """Send one request; returns the answer, whatever its status, and its body. Raises `AircallUnavailable`.

        Of that, `NeverSent` means that no connection was made.
        """
        # Aircall wants the content type on DELETE and on a POST without a body, too.
        headers = {"content-type": "application/json"} if method != "GET" else {}
        if token is not None:
            headers["authorization"] = f"Bearer {token.get_secret_value()}"
        sent = counting.current()
        sent.requests += 1
        try:
            async with (
                asyncio.timeout(TOTAL_SECONDS),
                self._http.stream(method, self._api_url + path, headers=headers, **options) as response,
            ):
                return response, await answers.bounded_body(response, most_bytes)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            sent.requests -= 1
            why = tls_reason_in(error)
            raise NeverSent(f"no connection ({why})" if why else "no connection") from None
        except (httpx.TimeoutException, TimeoutError):
            raise AircallUnavailable("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise AircallUnavailable(type(error).__name__) from None


def _is_about_our_app(refused: AircallRefused) -> bool:
    return refused.aircall_status in {401, 403} or refused.reason in APP_REFUSED


def _repeat(*, on: type[AircallUnavailable]) -> AsyncIterable[stamina.Attempt]:
    """Return the attempts of a request that is repeated when it raises `on`: three within 15 seconds."""

    def may_repeat(error: Exception) -> bool:
        # An answer that says how long to wait is left to the caller.
        return isinstance(error, on) and error.retry_after_seconds is None

    return stamina.retry_context(
        on=may_repeat, attempts=ATTEMPTS, timeout=TOTAL_SECONDS, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
    )
