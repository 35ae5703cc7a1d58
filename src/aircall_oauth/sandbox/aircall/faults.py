"""What is broken on purpose: which door, how, and for how many requests yet."""

from dataclasses import dataclass
from typing import Literal, get_args

How = Literal["slow", "slow_reply", "error_500", "html", "huge", "drop_reply", "drop_request", "status_429"]
HOWS: tuple[How, ...] = get_args(How)
ALL_DOORS = "all"


@dataclass
class Fault:
    """`door` is a path behind /v1 (`webhooks` means those below it too), with a method in front if wanted."""

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
        """The first fault that meets this request, used up by one. The path is without its version."""
        for fault in self.waiting:
            if fault.meets(method, path):
                fault.times -= 1
                self.waiting = [other for other in self.waiting if other.times]
                return fault
        return None

    def heal(self) -> None:
        self.waiting = []
