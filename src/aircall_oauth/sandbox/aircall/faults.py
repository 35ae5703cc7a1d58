"""Faults set on purpose: for which route, of which kind, for how many requests."""

from dataclasses import dataclass
from typing import Literal, get_args

How = Literal["slow", "slow_reply", "error_500", "html", "huge", "drop_reply", "drop_request", "status_429"]
HOWS: tuple[How, ...] = get_args(How)
ALL_DOORS = "all"


@dataclass
class Fault:
    """One fault. `door` is a path below /v1 with or without a method in front; `webhooks` covers the paths below it."""

    door: str
    how: How
    times: int
    seconds: float
    size: int

    def meets(self, method: str, path: str) -> bool:
        wanted_method, _, wanted_path = self.door.rpartition(" ")
        if wanted_method not in ("", method):
            return False
        return wanted_path == ALL_DOORS or f"{path}/".startswith(f"{wanted_path.strip('/')}/")


class Faults:
    def __init__(self) -> None:
        self.waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        if fault.how not in HOWS:
            raise ValueError(f"how must be one of {', '.join(HOWS)}")
        if fault.times < 1:
            raise ValueError("times must be 1 or more")
        self.waiting.append(fault)

    def take(self, method: str, path: str) -> Fault | None:
        """Return the first fault for this request and count it as used once. `path` is without its version."""
        for fault in self.waiting:
            if fault.meets(method, path):
                fault.times -= 1
                self.waiting = [other for other in self.waiting if other.times]
                return fault
        return None

    def heal(self) -> None:
        self.waiting = []
