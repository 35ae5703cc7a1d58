"""How long events are kept: by type, by owner, and at most."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

MOST_RULES = 100
TYPE = re.compile(r"\*|[A-Za-z0-9_.]{1,100}\*?")


@dataclass(frozen=True)
class KeepRule:
    """How long the events of some types are kept; `call.*` is all that begin so."""

    type: str
    length: timedelta

    def __str__(self) -> str:
        return f"{self.type}={int(self.length.total_seconds())}s"

    def is_of(self, type_: str) -> bool:
        return type_.startswith(self.type[:-1]) if self.type.endswith("*") else type_ == self.type


def parse(text: str, duration: Callable[[str], timedelta]) -> list[KeepRule]:
    """Read `type=duration`, separated by commas; raises `ValueError`, which quotes nothing of it."""
    rules: dict[str, KeepRule] = {}
    for number, entry in enumerate((part.strip() for part in text.split(",") if part.strip()), start=1):
        type_, separator, length = entry.partition("=")
        type_ = type_.strip()
        if not separator or not TYPE.fullmatch(type_):
            raise ValueError(f"entry {number} must look like transcription.*=7d")
        if type_ in rules:
            raise ValueError(f"entry {number} names a type that another entry has")
        try:
            rules[type_] = KeepRule(type_, duration(length))
        except ValueError as error:
            raise ValueError(f"entry {number} {error}") from None
    if len(rules) > MOST_RULES:
        raise ValueError(f"has more than {MOST_RULES} entries")
    return list(rules.values())


@dataclass(frozen=True)
class Keeping:
    """How long each event is kept: by its owner's own rules, then by those for all; no longer than `longest`."""

    longest: timedelta
    rules: Sequence[KeepRule] = ()
    of_owners: Mapping[str, Sequence[KeepRule]] = field(default_factory=dict)

    def of(self, type_: str, owner: str | None) -> timedelta:
        own = () if owner is None else self.of_owners.get(owner, ())
        for rules in (own, self.rules):
            if (rule := _closest(rules, type_)) is not None:
                return min(rule.length, self.longest)
        return self.longest

    @property
    def lengths(self) -> frozenset[timedelta]:
        """Every time that some event may be kept."""
        every = [*self.rules, *(rule for rules in self.of_owners.values() for rule in rules)]
        return frozenset([self.longest, *(min(rule.length, self.longest) for rule in every)])

    @property
    def shortest(self) -> timedelta:
        return min(self.lengths)


def _closest(rules: Iterable[KeepRule], type_: str) -> KeepRule | None:
    """Return the rule that says most of a type: the one that names it, else the one with the longest beginning."""
    fitting = (rule for rule in rules if rule.is_of(type_))
    return max(fitting, key=lambda rule: (not rule.type.endswith("*"), len(rule.type)), default=None)
