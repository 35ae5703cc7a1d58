"""Signs what goes out, as Standard Webhooks 1 says: https://www.standardwebhooks.com"""

import base64
import hmac
import secrets
from collections.abc import Sequence

from pydantic import SecretStr

PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> SecretStr:
    return SecretStr(PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())


def key_of(secret: SecretStr) -> bytes:
    """The bytes that sign, of a secret as it is shown."""
    return base64.b64decode(secret.get_secret_value().removeprefix(PREFIX))


def headers(keys: Sequence[bytes], *, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers; a signature for every key, so that a receiver may know the old one or the new one."""
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
