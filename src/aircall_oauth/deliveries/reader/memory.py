"""One budget of memory for the events that all readers of a process hold."""

TOTAL_BYTES = 64 * 1024 * 1024


class Memory:
    """How much each reader holds, and how much more it may.

    Together they hold at most twice the budget, and one event each beside it: a reader always has room for its share,
    also where the others took the budget before it came.
    """

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        self._total = total_bytes
        self._of: dict[object, int] = {}
        self.held = 0

    def note(self, reader: object, held: int) -> None:
        """A reader holds so many bytes now."""
        self.held += held - self._of.get(reader, 0)
        self._of[reader] = held

    def leave(self, reader: object) -> None:
        """A reader has ended."""
        self.held -= self._of.pop(reader, 0)

    def room(self, reader: object) -> int:
        """How many bytes more it may hold: what is left of the budget, or of its share."""
        share = self._total // max(len(self._of), 1)
        return max(self._total - self.held, share - self._of.get(reader, 0))
