"""OAuth grants: a code works once, for ten minutes; a token works until it is revoked."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aircall_oauth.sandbox.aircall import refusals

CODE_LIFE_SECONDS = 600


@dataclass
class Grant:
    """One admin's consent. `challenge` is for PKCE; `token` is set once the code is exchanged for it."""

    code: str = field(repr=False)
    company_id: int
    redirect_uri: str
    granted_at: float
    challenge: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass
class Token:
    access_token: str = field(repr=False)
    company_id: int
    created_at: int


@dataclass
class Client:
    """Our app as Aircall knows it."""

    id: str
    secret: str = field(repr=False)
    redirect_uris: Sequence[str]


class Grants:
    """All codes and tokens of one app."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self.client = client
        self.codes: dict[str, Grant] = {}
        self.tokens: dict[str, Token] = {}
        self._clock = clock

    def new_code(self, company_id: int, redirect_uri: str, challenge: str | None = None) -> str:
        """Record an admin's consent; returns the code for it."""
        grant = Grant(secrets.token_urlsafe(24), company_id, redirect_uri, self._clock(), challenge)
        self.codes[grant.code] = grant
        return grant.code

    def exchange(self, request: Mapping[str, Any], *, same_again: bool = False) -> Token:
        """Exchange a code for a token; raises `RefusedError`. A second use of a code revokes the token of the first.

        With `same_again`, a company that already has a token gets that one instead of a new one.
        """
        self._check_client(request)
        if request.get("grant_type") != "authorization_code":
            raise refusals.unsupported_grant_type()
        grant = self._usable_grant(request)
        existing = (
            [token for token in self.tokens.values() if token.company_id == grant.company_id] if same_again else []
        )
        token = existing[0] if existing else Token(secrets.token_hex(20), grant.company_id, int(self._clock()))
        grant.token = token.access_token
        self.tokens[token.access_token] = token
        return token

    def company_of(self, access_token: str) -> int | None:
        """Return the id of the company that a token belongs to; None for an unknown or revoked token."""
        token = self.tokens.get(access_token)
        return token.company_id if token else None

    def revoke_company(self, company_id: int) -> None:
        self.tokens = {key: token for key, token in self.tokens.items() if token.company_id != company_id}

    def _check_client(self, request: Mapping[str, Any]) -> None:
        given = f"{request.get('client_id')}\n{request.get('client_secret')}"
        expected = f"{self.client.id}\n{self.client.secret}"
        if not hmac.compare_digest(_bytes(given), _bytes(expected)):
            raise refusals.invalid_client()

    def _usable_grant(self, request: Mapping[str, Any]) -> Grant:
        """Return the grant of the request's code; raises `RefusedError`. A code used before has its token revoked."""
        grant = self.codes.get(str(request.get("code")))
        if grant is None:
            raise refusals.invalid_grant()
        if grant.token is not None:
            self.tokens.pop(grant.token, None)
            raise refusals.invalid_grant()
        expired = self._clock() - grant.granted_at > CODE_LIFE_SECONDS
        wrong_redirect = request.get("redirect_uri") != grant.redirect_uri
        if expired or wrong_redirect or not _verifies(grant.challenge, request.get("code_verifier")):
            raise refusals.invalid_grant()
        return grant


def _verifies(challenge: str | None, verifier: Any) -> bool:
    """Return whether a verifier matches the PKCE challenge (S256); always true without a challenge."""
    if challenge is None:
        return True
    digest = hashlib.sha256(_bytes(str(verifier))).digest()
    return hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), _bytes(challenge))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
