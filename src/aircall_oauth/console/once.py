"""What a form makes is made once, however often it is sent: a double click, a reload, a button pressed again.

Each form carries a token of its own. What is made gets an id, and a secret if it has one, that follow from the token
and from what was filled in. So a repeat finds what the first made, and shows it again, secret too: the browser may have
given the first answer up. A form that was filled in otherwise makes something else.
"""

import base64
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from uuid_utils import uuid7

from aircall_oauth.errors import InvalidRequest
from aircall_oauth.storage.vault import Vault

WORKS_SECONDS = 3600
FIELD = "form_token"
TOKEN_PURPOSE, NUMBER_PURPOSE, SECRET_PURPOSE = "console-form", "console-made", "console-made-secret"
SENDING_PURPOSE = "console-sending"
# The first digits of an id are its time, in milliseconds.
TIME_DIGITS = 12
NUMBER_DIGITS = 32


@dataclass(frozen=True)
class Once:
    """What one sending of a form makes: 32 digits for its id, and 32 bytes for its secret; by what it is known."""

    number: str
    secret: bytes
    fingerprint: bytes

    def id(self, kind: str) -> str:
        return f"{kind}_{self.number}"

    @property
    def base64(self) -> str:
        return base64.b64encode(self.secret).decode()

    @property
    def base64url(self) -> str:
        return base64.urlsafe_b64encode(self.secret).decode().rstrip("=")


def token(vault: Vault, actor: str, path: str, *, number: str | None = None) -> str:
    """Return a token for a form that this person sends to this path; its number has the time of its making."""
    number = number or uuid7().hex
    return f"{number}.{_mark(vault, number, actor, path)}"


def read(vault: Vault, given: str | None, actor: str, path: str, fields: Mapping[str, str]) -> Once:
    """Return what a form makes; raises `InvalidRequest` for a token that is missing, too old, or another form's."""
    if given is None:
        raise InvalidRequest("This did not come from a page that asks for it: check it, and send it again.")
    number, _, mark = given.partition(".")
    if not hmac.compare_digest(mark.encode(), _mark(vault, number, actor, path).encode()):
        raise InvalidRequest("This form is not one of this page: check it, and send it again.")
    if time.time() - int(number[:TIME_DIGITS], 16) / 1000 > WORKS_SECONDS:
        raise InvalidRequest("This form is older than an hour: check it, and send it again.")
    said = "\n".join([given, *(f"{name}={fields[name]!r}" for name in sorted(fields))])
    rest = vault.fingerprint(said, NUMBER_PURPOSE).hex()
    made = (number[:TIME_DIGITS] + rest)[:NUMBER_DIGITS]
    return Once(made, vault.fingerprint(said, SECRET_PURPOSE), vault.fingerprint(said, SENDING_PURPOSE))


def _mark(vault: Vault, number: str, actor: str, path: str) -> str:
    return vault.fingerprint(f"{number}\n{path}\n{actor}", TOKEN_PURPOSE).hex()[:NUMBER_DIGITS]
