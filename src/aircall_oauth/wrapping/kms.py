"""AWS KMS, by AWS's own library, which finds region and credentials as everywhere (`AWS_…`, a pod's identity)."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from aircall_oauth.errors import KeyServiceFailed
from aircall_oauth.wrapping.access import Access
from aircall_oauth.wrapping.entries import ServiceKey, Wrapped

TRIES = 3
MAX_WORDS = 200
WITHOUT_EXTRA = (
    "AWS KMS can't be asked: its library is not installed",
    "Install aircall-oauth[aws]; the image of this project has it.",
)
CHECK_AWS = "Check AWS_REGION, the credentials (AWS_…, or the pod's identity) and the network."
ADVICE = {
    "AccessDeniedException": "Its policy must allow {act} to this identity.",
    "NotFoundException": "Check the entry's key and AWS_REGION.",
    "DisabledException": "Enable the key.",
    "KMSInvalidStateException": "Enable the key, or cancel its deletion.",
    "InvalidCiphertextException": "The entry is damaged, or another key has wrapped it.",
    "IncorrectKeyException": "Another key has wrapped it than the entry names.",
}


class Kms:
    """AWS KMS; each method raises `KeyServiceFailed`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def wrap(self, key: bytes, by: ServiceKey) -> Wrapped:
        answer = await self._ask(by, "encrypt", KeyId=by.name, Plaintext=key)
        return Wrapped(by, _text(answer))

    async def unwrap(self, wrapped: Wrapped) -> bytes:
        answer = await self._ask(wrapped.by, "decrypt", KeyId=wrapped.by.name, CiphertextBlob=_blob(wrapped))
        return bytes(answer["Plaintext"])

    async def rewrap(self, wrapped: Wrapped) -> Wrapped:
        """Have a key wrapped by the newest material of the service's key; it does not leave the service."""
        key = wrapped.by.name
        answer = await self._ask(
            wrapped.by, "re_encrypt", SourceKeyId=key, DestinationKeyId=key, CiphertextBlob=_blob(wrapped)
        )
        return Wrapped(wrapped.by, _text(answer))

    async def _ask(self, key: ServiceKey, act: str, **parameters: Any) -> Any:
        return await asyncio.to_thread(self._ask_here, key, act, parameters)

    def _ask_here(self, key: ServiceKey, act: str, parameters: dict[str, Any]) -> Any:
        """Ask and wait, which is for a thread."""
        try:
            import botocore.session
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ModuleNotFoundError:
            raise KeyServiceFailed(*WITHOUT_EXTRA) from None
        seconds = self._access.seconds / TRIES
        config = Config(
            connect_timeout=seconds, read_timeout=seconds, retries={"mode": "standard", "total_max_attempts": TRIES}
        )
        try:
            client = botocore.session.get_session().create_client("kms", region_name=_region(key), config=config)
            return getattr(client, act)(**parameters)
        except ClientError as error:
            raise _refused(error.response.get("Error", {}), act) from None
        except BotoCoreError as error:
            raise KeyServiceFailed(f"AWS KMS can't be asked ({error})", CHECK_AWS) from None


def _refused(told: Mapping[str, Any], act: str) -> KeyServiceFailed:
    code = str(told.get("Code", "an error"))
    words = " ".join(str(told.get("Message") or "").split())[:MAX_WORDS]
    allowed = f"kms:{''.join(word.title() for word in act.split('_'))}"
    seen = f"AWS KMS answers {code}{f' ({words})' if words else ''}"
    return KeyServiceFailed(seen, ADVICE.get(code, CHECK_AWS).format(act=allowed))


def _region(key: ServiceKey) -> str | None:
    """Return the region of a key that is named by its ARN; None leaves it to AWS_REGION."""
    return key.name.split(":")[3] if key.name.startswith("arn:") and key.name.count(":") >= 5 else None


def _blob(wrapped: Wrapped) -> bytes:
    return base64.b64decode(wrapped.ciphertext)


def _text(answer: Any) -> str:
    return base64.b64encode(answer["CiphertextBlob"]).decode()
