"""Vault and OpenBao: their Transit engine, by its HTTP API (https://openbao.org/api-docs/secret/transit/)."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import stamina

from aircall_oauth.errors import KeyServiceFailed, SettingsInvalid
from aircall_oauth.http_client import tls_reason_in, trust
from aircall_oauth.wrapping.access import Access
from aircall_oauth.wrapping.entries import ServiceKey, Wrapped

MAX_WORDS = 200
# Answers after which the same request may succeed a moment later.
TRANSIENT = {429, 473, 500, 502, 503, 504}


@dataclass(frozen=True)
class Versions:
    """The versions of a Transit key: the newest, the oldest that still decrypts, the oldest that encrypts."""

    newest: int
    decrypts_from: int
    encrypts_from: int


class _Transient(KeyServiceFailed):
    """Worth another try."""


class Transit:
    """The Transit engine, logged in to; each method raises `KeyServiceFailed`."""

    def __init__(self, client: httpx.AsyncClient, access: Access) -> None:
        self._client = client
        self._access = access

    async def log_in(self) -> None:
        """Take the token, or get one for the pod's own token (Kubernetes or JWT auth)."""
        token = self._access.vault_token.get_secret_value()
        if self._access.vault_role:
            login = {"role": self._access.vault_role, "jwt": self._own_token()}
            answer = await self._ask("POST", f"auth/{self._access.vault_auth_mount}/login", login)
            token = str(self._told(answer, "auth", "client_token"))
        self._client.headers["X-Vault-Token"] = token

    async def wrap(self, key: bytes, by: ServiceKey) -> Wrapped:
        answer = await self._write(by, "encrypt", {"plaintext": base64.b64encode(key).decode()})
        return Wrapped(by, str(self._told(answer, "data", "ciphertext")))

    async def unwrap(self, wrapped: Wrapped) -> bytes:
        answer = await self._write(wrapped.by, "decrypt", {"ciphertext": wrapped.ciphertext})
        return base64.b64decode(str(self._told(answer, "data", "plaintext")))

    async def rewrap(self, wrapped: Wrapped) -> Wrapped:
        """Have a key wrapped by the newest version of the service's key; it does not leave the service."""
        answer = await self._write(wrapped.by, "rewrap", {"ciphertext": wrapped.ciphertext})
        return Wrapped(wrapped.by, str(self._told(answer, "data", "ciphertext")))

    async def versions(self, key: ServiceKey) -> Versions:
        answer = await self._ask("GET", _path(key, "keys"))
        named = ("latest_version", "min_decryption_version", "min_encryption_version")
        return Versions(*(int(self._told(answer, "data", name)) for name in named))

    async def _write(self, key: ServiceKey, act: str, body: Mapping[str, str]) -> Any:
        return await self._ask("POST", _path(key, act), body)

    async def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
        async for attempt in stamina.retry_context(
            on=_Transient, attempts=None, timeout=self._access.seconds, wait_initial=0.2, wait_max=2.0
        ):
            with attempt:
                return await self._ask_once(method, path, body)
        raise AssertionError("the last attempt returns or raises")

    async def _ask_once(self, method: str, path: str, body: Mapping[str, str] | None) -> Any:
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if answer.is_success:
            try:
                return answer.json()
            except ValueError:
                raise self._failed(*NOT_VAULT) from None
        raise self._refused(answer, path)

    def _told(self, answer: Any, part: str, name: str) -> Any:
        try:
            return answer[part][name]
        except (KeyError, TypeError):
            raise self._failed(*NOT_VAULT) from None

    def _unreachable(self, error: httpx.TransportError) -> KeyServiceFailed:
        if why := tls_reason_in(error):
            return self._failed(f"has a certificate that is not accepted ({why})", CHECK_CERTIFICATE)
        return self._failed(f"can't be reached ({type(error).__name__})", CHECK_ADDRESS, kind=_Transient)

    def _refused(self, answer: httpx.Response, path: str) -> KeyServiceFailed:
        status, words = answer.status_code, _words(answer)
        match status:
            case 503 if "sealed" in words:
                seen, advice = "is sealed", "Unseal it."
            case _ if status in TRANSIENT:
                seen, advice = f"answers {status}{words}", CHECK_ADDRESS
            case 301 | 302 | 307 | 308:
                seen, advice = "answers with a redirect", "Give the address that it leads to."
            case _ if path.startswith("auth/"):
                seen, advice = f"refuses to log in{words}", CHECK_ROLE
            case 403:
                seen, advice = f"refuses {path}{words}", CHECK_POLICY.format(path=path)
            case _ if "too old" in words:
                seen, advice = f"answers {status}{words}", TOO_OLD
            case _:
                seen, advice = f"answers {status} to {path}{words}", CHECK_PATH
        return self._failed(seen, advice, kind=_Transient if status in TRANSIENT else KeyServiceFailed)

    def _own_token(self) -> str:
        try:
            return self._access.vault_jwt_file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise self._failed(f"wants a token, and {self._access.vault_jwt_file} can't be read", CHECK_JWT) from None

    def _failed(self, seen: str, advice: str, *, kind: type[KeyServiceFailed] = KeyServiceFailed) -> KeyServiceFailed:
        return kind(f"Vault at {self._access.vault_addr} {seen}", advice)


NO_ADDRESS = "AIRCALL_OAUTH_VAULT_ADDR is missing: a key is wrapped by Vault, or is to be"
NOT_VAULT = ("is not what answers there", "AIRCALL_OAUTH_VAULT_ADDR must lead to Vault's or OpenBao's API.")
CHECK_ADDRESS = "Check AIRCALL_OAUTH_VAULT_ADDR, the network and the server's own health."
CHECK_CERTIFICATE = "Name its authority as AIRCALL_OAUTH_VAULT_CACERT."
CHECK_ROLE = "Check AIRCALL_OAUTH_VAULT_ROLE, …_VAULT_AUTH_MOUNT and what the role is bound to."
CHECK_POLICY = "Its token has expired, or its policy does not allow {path}."
CHECK_PATH = "Check the entry's mount and key, and AIRCALL_OAUTH_VAULT_NAMESPACE."
CHECK_JWT = "Mount the service account's token there, or name its path as AIRCALL_OAUTH_VAULT_JWT_FILE."
TOO_OLD = (
    "Lower the key's min_decryption_version, run `aircall-oauth secrets rewrap`, put what it prints into the setting, "
    "and raise it again."
)


@asynccontextmanager
async def opened(access: Access) -> AsyncIterator[Transit]:
    """Log in to the Transit engine while the block lasts; raises `KeyServiceFailed`, or `SettingsInvalid`."""
    if not access.vault_addr:
        # A start has it wherever a key is wrapped; a command may be given keys, or the service's, that no setting has.
        raise SettingsInvalid([NO_ADDRESS])
    context = trust()
    if access.vault_cacert:
        context.load_verify_locations(access.vault_cacert)
    headers = {"X-Vault-Request": "true"}
    if access.vault_namespace:
        headers["X-Vault-Namespace"] = access.vault_namespace
    async with httpx.AsyncClient(
        base_url=f"{access.vault_addr}/v1/", headers=headers, timeout=access.seconds, verify=context, trust_env=False
    ) as client:
        transit = Transit(client, access)
        await transit.log_in()
        yield transit


def _path(key: ServiceKey, act: str) -> str:
    mount, _, name = key.name.rpartition("/")
    return f"{mount}/{act}/{name}"


def _words(answer: httpx.Response) -> str:
    """Return what the server said was wrong, in brackets; empty where it said nothing."""
    try:
        errors = answer.json()["errors"]
        said = " ".join("; ".join(str(error) for error in errors).split())
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({said[:MAX_WORDS]})" if said else ""
