"""Who looks at the console, and what each may do there."""

from dataclasses import dataclass

from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import PayloadsHidden, ReadOnly
from aircall_oauth.storage.models.access import Scope

SCOPES = (Scope.CONSOLE_READ, Scope.CONSOLE_ACT, Scope.PAYLOADS_READ)
# What a person who only looks may ask the functions of the API for.
READING = [scope for scope in Scope if scope.endswith(":read") and scope not in {Scope.TOKENS_READ, *SCOPES}]
ACTING = [scope for scope in Scope if scope not in {Scope.TOKENS_READ, *SCOPES}]


@dataclass(frozen=True)
class Visitor:
    """A person who is signed in. `actor` is what the audit calls the person; without a session, a proxy vouches."""

    actor: str
    person: str
    scopes: frozenset[str]
    session_id: str | None = None

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

    def require_act(self) -> None:
        """Raise `ReadOnly` unless the visitor may act."""
        if not self.acts:
            raise ReadOnly

    def require_reveal(self) -> None:
        """Raise `PayloadsHidden` unless the visitor may see personal data."""
        if not self.reveals:
            raise PayloadsHidden
