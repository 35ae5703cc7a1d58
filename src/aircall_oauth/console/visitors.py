"""The visitors of the console: what each may do there, and what each may hand on, never more than a session holds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from aircall_oauth.access.callers import Caller
from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import ConsoleError, PayloadsHidden, PayloadsNeeded, ReadOnly

SCOPES = (Scope.CONSOLE_READ, Scope.CONSOLE_ACT, Scope.PAYLOADS_READ)
# What a person with the right to look only may ask the functions of the API for.
READING = [scope for scope in Scope if scope.endswith(":read") and scope not in {Scope.TOKENS_READ, *SCOPES}]
ACTING = [scope for scope in Scope if scope not in {Scope.TOKENS_READ, *SCOPES}]
# What an act needs; one that can bring payloads out of the console needs both.
TO_ACT = (Scope.CONSOLE_ACT,)
TO_DISCLOSE = (Scope.CONSOLE_ACT, Scope.PAYLOADS_READ)
# With these an API key shows no payload. All others need `payloads:read`, a future one too: with them a key
# reads payloads, asks Aircall for them, or has them sent to its own address.
SHOWING_NO_PAYLOADS = frozenset(
    {
        *(Scope.INSTALLATIONS_READ, Scope.INSTALLATIONS_WRITE, Scope.SUBSCRIPTIONS_READ, Scope.AUDIT_READ),
        *(Scope.CONSOLE_READ, Scope.CONSOLE_ACT),
    }
)


@dataclass(frozen=True)
class SigningKey:
    """The API key that a session was opened with: what it holds, and until when."""

    scopes: frozenset[str]
    aircall_rules: Sequence[str] | None
    expires_at: datetime | None


@dataclass(frozen=True)
class Visitor:
    """A signed-in person. `actor` is what the audit calls the person; without a session, a proxy vouches."""

    actor: str
    person: str
    scopes: frozenset[str]
    session_id: str | None = None
    key: SigningKey | None = None

    @property
    def acts(self) -> bool:
        return Scope.CONSOLE_ACT in self.scopes

    @property
    def reveals(self) -> bool:
        return Scope.PAYLOADS_READ in self.scopes

    @property
    def caller(self) -> Caller:
        """Return the visitor as the functions behind the API know a caller."""
        return Caller(self.actor, ACTING if self.acts else READING)

    @property
    def grantable(self) -> list[Scope]:
        """Return the scopes that the visitor may give a new API key: decision 91. Tokens are never among them."""
        return [scope for scope in Scope if scope != Scope.TOKENS_READ and self._holds(scope)]

    def refusal(self, needs: Collection[Scope]) -> ConsoleError | None:
        """Return why the visitor may not do what needs these scopes; None if it is allowed."""
        if Scope.CONSOLE_ACT in needs and not self.acts:
            return ReadOnly()
        if Scope.PAYLOADS_READ in needs and not self.reveals:
            return PayloadsNeeded()
        return None

    def require(self, needs: Collection[Scope]) -> None:
        """Raise `ReadOnly` or `PayloadsNeeded` unless the visitor may do what needs these scopes."""
        if refusal := self.refusal(needs):
            raise refusal

    def require_reveal(self) -> None:
        """Raise `PayloadsHidden` unless the visitor may see personal data."""
        if not self.reveals:
            raise PayloadsHidden

    def _holds(self, scope: Scope) -> bool:
        if not self.acts or (scope not in SHOWING_NO_PAYLOADS and not self.reveals):
            return False
        # To act includes to look: such a key need not name both.
        return self.key is None or scope in self.key.scopes or scope == Scope.CONSOLE_READ
