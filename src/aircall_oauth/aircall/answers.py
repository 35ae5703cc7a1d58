"""What an answer of Aircall means: its JSON, or one of our errors."""

import json
import time
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from aircall_oauth.aircall.payloads import error_reason
from aircall_oauth.errors import AircallBusy, AircallRefused, AircallUnavailable
from aircall_oauth.http_client import retry_after_seconds

# A longer pause than this is not believed.
LONGEST_RETRY_AFTER_SECONDS = 86400.0
MILLISECONDS_FROM = 1e12
SECRET_FIELDS = ("code", "client_secret", "code_verifier")

Model = TypeVar("Model", bound=BaseModel)


class NotTaken(AircallUnavailable):
    """Aircall has not taken the request, so sending it again does nothing twice."""


class NeverSent(NotTaken):
    """Aircall could not be reached: no byte of the request left."""


# Client errors that are not final. 408 and 425 ask for the request again; 429 says when.
TEMPORARY: dict[int, type[AircallUnavailable]] = {408: NotTaken, 425: NotTaken, 429: AircallBusy}


async def bounded_body(response: httpx.Response, most_bytes: int) -> bytes:
    """Read a body; raises `AircallUnavailable` where it is larger than `most_bytes`."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most_bytes:
            raise AircallUnavailable("the answer is too large")
    return bytes(body)


def content(response: httpx.Response, body: bytes, *, secrets: list[str]) -> Any:
    """Return an answer's JSON, None without a body; raises the error that its status stands for.

    `secrets` are those that were sent: they are taken out of the error's reason, which may quote them.
    """
    answer = _json(body)
    status = response.status_code
    if response.is_success:
        if answer is None and body:
            raise AircallUnavailable("the answer is not JSON")
        return answer
    if response.is_client_error and status not in TEMPORARY:
        raise AircallRefused(aircall_status=status, reason=error_reason(answer, secrets=secrets))
    unavailable = TEMPORARY.get(status, AircallUnavailable)
    raise unavailable(f"status {status}", retry_after_seconds=_retry_after(response))


def read(model: type[Model], answer: Any) -> Model:
    """Return an answer's JSON as a model; raises `AircallUnavailable` that names the fields which do not fit."""
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        fields = sorted({".".join(map(str, e["loc"])) for e in error.errors(include_input=False)})
        raise AircallUnavailable(f"the answer lacks or garbles {', '.join(fields)[:100]}") from None


def secrets_sent(token: SecretStr | None, body: dict[str, Any]) -> list[str]:
    """Return the secrets that a request carries."""
    sent = [body[name] for name in SECRET_FIELDS if name in body]
    return sent if token is None else [*sent, token.get_secret_value()]


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds to wait, a day at most, where the answer says: `Retry-After`, or Aircall's own reset."""
    seconds = retry_after_seconds(response.headers.get("retry-after"), most=LONGEST_RETRY_AFTER_SECONDS)
    reset_at = response.headers.get("x-aircallapi-reset", "")
    if seconds is None and response.status_code == 429 and reset_at.isdecimal():
        # A timestamp in a unit that Aircall does not document.
        moment = float(reset_at)
        seconds = (moment if moment < MILLISECONDS_FROM else moment / 1000) - time.time()
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER_SECONDS)
    return seconds
