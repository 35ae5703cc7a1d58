"""Signs HTTP deliveries by Standard Webhooks 1: https://www.standardwebhooks.com"""

import base64
import hmac
import secrets
from collections.abc import Sequence

from pydantic import SecretStr

PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> SecretStr:
    """Make a signing secret, as a receiver is shown it."""
    return SecretStr(PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())


def key_of(secret: SecretStr) -> bytes:
    """Return the key bytes of a secret."""
    return base64.b64decode(secret.get_secret_value().removeprefix(PREFIX))


def headers(keys: Sequence[bytes], *, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers, with a signature for every key: a receiver may know the old one or the new one."""
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
