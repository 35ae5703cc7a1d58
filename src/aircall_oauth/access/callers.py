"""The callers of the API: what a recognised API key allows; and the operator, who may do everything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aircall_oauth.access import rules
from aircall_oauth.access.scopes import Scope

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from aircall_oauth.storage.models.events import Event
    from aircall_oauth.storage.models.installations import Installation, InstallAttempt


@dataclass(frozen=True, slots=True)
class Caller:
    """A recognised API key: its id, its scopes, the owner it is bound to, and the calls to Aircall that it allows."""

    id: str
    scopes: Sequence[str]
    owner: str | None = None
    aircall_rules: Sequence[str] | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_ask(self, method: str, path: str) -> bool:
        """Whether it may call Aircall with this method and path, given the scope."""
        return self.aircall_rules is None or any(rules.allows(rule, method, path) for rule in self.aircall_rules)

    def may_act_for(self, owner: str) -> bool:
        return self.owner in {None, owner}

    def sees(self, table: "type[Installation | Event | InstallAttempt]") -> "Iterable[ColumnElement[bool]]":
        """Return the conditions for a query, so that a key bound to an owner sees that owner's rows only."""
        if self.owner is None:
            return ()
        from sqlmodel import col

        return (col(table.owner) == self.owner,)


# The operator at the command line may do everything and sees everything.
OPERATOR = Caller("operator", list(Scope))
