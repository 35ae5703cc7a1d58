"""Whether a delivery is the service's: Standard Webhooks 1, https://www.standardwebhooks.com."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time
from collections.abc import Mapping
from typing import cast

from aircall_oauth_client.errors import SignatureInvalid
from aircall_oauth_client.models import Event

PREFIX = "whsec_"
TOLERANCE_SECONDS = 300


def verify(
    headers: Mapping[str, str],
    body: bytes,
    *secrets: str,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> Event:
    """Return the event of a delivery that was signed with one of the secrets; raises `SignatureInvalid`.

    `body` is the exact bytes that came in. `tolerance` is how many seconds old it may be, or ahead of this clock.
    """
    given = {name.lower(): value for name, value in headers.items()}
    delivery, timestamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not secrets:
        raise ValueError("verify needs a secret")
    if not delivery or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
        raise SignatureInvalid("The headers of a delivery are missing or damaged")
    if abs((time.time() if now is None else now) - int(timestamp)) > tolerance:
        raise SignatureInvalid("The delivery is too old, or this machine's clock is wrong")
    signed = b"%s.%s.%s" % (delivery.encode(), timestamp.encode(), body)
    wanted = [hmac.digest(_key(secret), signed, "sha256") for secret in secrets]
    if not any(hmac.compare_digest(one, each) for one in _signatures(given) for each in wanted):
        raise SignatureInvalid("No signature is of the secret that is used here; it must be that of the subscription")
    return _event(body, delivery)


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("A secret looks like whsec_… with base64 behind it") from None


def _signatures(headers: Mapping[str, str]) -> list[bytes]:
    found = []
    for each in headers.get("webhook-signature", "").split(" "):
        version, _, encoded = each.partition(",")
        if version == "v1":
            try:
                found.append(base64.b64decode(encoded, validate=True))
            except ValueError:
                continue
    return found


def _event(body: bytes, delivery: str) -> Event:
    try:
        event = json.loads(body)
    except ValueError:
        raise SignatureInvalid("The body is not JSON") from None
    if not isinstance(event, dict) or event.get("id") != delivery or not isinstance(event.get("type"), str):
        raise SignatureInvalid("The body is not the event that its headers name")
    return cast("Event", event)
