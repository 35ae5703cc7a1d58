"""The budget for the bytes of unanswered requests that all connections of a port hold together."""

from typing import Protocol

SHARE_BYTES = 32 * 1024 * 1024
# Aircall's events are two to ten KiB, and so is nearly everything that the partner's systems send.
LARGE_BYTES = 64 * 1024


class Sender(Protocol):
    """A connection over which a request comes in."""

    @property
    def sending(self) -> bool:
        """Whether its request is still incomplete."""

    def cut_off(self) -> None:
        """Refuse its request and close the connection."""


class Intake:
    """Counts bytes per connection. Small and large requests have a share each, so neither keeps the other out."""

    def __init__(self, share_bytes: int = SHARE_BYTES) -> None:
        self._small, self._large = _Share(share_bytes), _Share(share_bytes)

    def note(self, sender: Sender, held_bytes: int) -> None:
        """Record how much a connection holds now. Cuts off it or another one where the share is used up."""
        is_large = held_bytes > LARGE_BYTES
        self._small.note(sender, 0 if is_large else held_bytes)
        self._large.note(sender, held_bytes if is_large else 0)

    def cut_off_lately(self) -> int:
        """Return how many connections were cut off since the last call."""
        shares = (self._small, self._large)
        count = sum(share.cut_off for share in shares)
        for share in shares:
            share.cut_off = 0
        return count


class _Share:
    """A number of bytes to hold. When they are used up, the request that has been incomplete for longest is cut off.

    Where every other request is complete, the newest one is.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: dict[Sender, int] = {}  # in the order in which they began
        self._total = 0
        self.cut_off = 0

    def note(self, sender: Sender, held_bytes: int) -> None:
        self._total += held_bytes - self._held.get(sender, 0)
        if held_bytes:
            self._held[sender] = held_bytes
        else:
            self._held.pop(sender, None)
        while self._total > self._most_bytes:
            loser = next((other for other in self._held if other.sending), sender)
            self._total -= self._held.pop(loser)
            self.cut_off += 1
            loser.cut_off()
