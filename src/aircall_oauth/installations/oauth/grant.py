"""Ask Aircall for what a flow was granted: exchange its code for a token, and learn the company it belongs to."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from pydantic import SecretStr

from aircall_oauth.aircall import budget
from aircall_oauth.aircall.counting import counted
from aircall_oauth.aircall.payloads import APP_REFUSED, Identity
from aircall_oauth.errors import (
    AircallAway,
    AircallBusy,
    AircallError,
    AircallRefused,
    AircallUnavailable,
    AppRefused,
    CodeRefused,
    DatabaseAway,
    Declined,
    FlowError,
)
from aircall_oauth.resources import Resources
from aircall_oauth.storage import base64url
from aircall_oauth.telemetry import log

logger = log.get(__name__)

STEP_SECONDS = 25.0
# The pause where Aircall says 429 without `Retry-After`, and the least one where it says 0.
USUAL_PAUSE_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS = 0.2

Answer = TypeVar("Answer")


def challenge(resources: Resources, flow_id: str) -> str:
    """Return the PKCE challenge of a flow (RFC 7636), by the method S256."""
    return base64url.encode(hashlib.sha256(_verifier(resources, flow_id).encode()).digest())


def refusal(error: str | None) -> FlowError:
    """Return what the `error` on the redirect means. Its values are RFC 6749's; Aircall does not document them."""
    match error:
        case "access_denied":
            return Declined()
        case "invalid_client" | "unauthorized_client" | "invalid_scope" | "unsupported_response_type":
            logger.error("Aircall refuses this app", error=error)
            return AppRefused()
        case "server_error" | "temporarily_unavailable":
            return AircallAway()
        case _:
            return CodeRefused()


async def exchange(resources: Resources, flow_id: str, code: SecretStr, latest: float) -> SecretStr:
    """Exchange the code for a token. Raises `AppRefused`, `CodeRefused` or `AircallAway`."""
    verifier = _verifier(resources, flow_id) if resources.settings.pkce else None
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await _patiently(partial(resources.aircall.exchange_code, code, verifier=verifier), latest)
    except AircallRefused as refused:
        if refused.aircall_status in {401, 403} or refused.reason in APP_REFUSED:
            logger.error("Aircall refuses this app's credentials", aircall_status=refused.aircall_status)
            raise AppRefused from None
        raise CodeRefused from None
    except (AircallUnavailable, TimeoutError) as error:
        raise _away("exchange", error) from None


async def identify(resources: Resources, token: SecretStr, latest: float) -> Identity:
    """Ask which company and integration the token belongs to. Raises `AircallAway`.

    The requests are charged to the company's budget afterwards, as it is unknown before.
    """
    with counted() as sent:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                identity = await _patiently(partial(resources.aircall.identify, token), latest)
        except (AircallError, TimeoutError) as error:
            raise _away("identify", error) from None
    with suppress(DatabaseAway):
        await budget.spend(resources.database, identity.company_id, calls=sent.requests)
    return identity


async def _patiently(ask: Callable[[], Awaitable[Answer]], latest: float) -> Answer:
    """Ask Aircall, and ask again after each 429 until `latest` on the loop's clock: a 429 has done nothing."""
    while True:
        try:
            return await ask()
        except AircallBusy as busy:
            told = USUAL_PAUSE_SECONDS if busy.retry_after_seconds is None else busy.retry_after_seconds
            pause = max(told, SHORTEST_PAUSE_SECONDS)
            if asyncio.get_running_loop().time() + pause >= latest:
                raise
        await asyncio.sleep(pause)


def _away(step: str, error: Exception) -> AircallAway:
    logger.warning("Aircall is away", step=step, reason=str(error))
    return AircallAway()


def _verifier(resources: Resources, flow_id: str) -> str:
    """Return the flow's PKCE verifier (RFC 7636), derived from its id, so that no replica has to remember it."""
    return base64url.encode(resources.vault.fingerprint(flow_id, "pkce"))
