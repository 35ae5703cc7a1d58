"""One memory budget for the events that all readers of a process hold."""

TOTAL_BYTES = 64 * 1024 * 1024


class Memory:
    """How many bytes each reader holds, and how many more it may hold.

    Together they hold at most twice the budget, and one event each besides: a reader always has room for its share,
    even if the others took the whole budget before it came.
    """

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        self._total = total_bytes
        self._of: dict[object, int] = {}
        self.held = 0

    def note(self, reader: object, held: int) -> None:
        """Set how many bytes a reader holds."""
        self.held += held - self._of.get(reader, 0)
        self._of[reader] = held

    def leave(self, reader: object) -> None:
        """Free what a reader held: it has ended."""
        self.held -= self._of.pop(reader, 0)

    def room(self, reader: object) -> int:
        """Return how many more bytes a reader may hold: the rest of the budget, or of its share if that is more."""
        share = self._total // max(len(self._of), 1)
        return max(self._total - self.held, share - self._of.get(reader, 0))
