"""The signal that ends the `dev` command, kept until it has ended."""

import signal
from types import FrameType
from typing import NoReturn


class Stop:
    """Raises `KeyboardInterrupt` at SIGINT and SIGTERM, and again at each look after one.

    What a handler raises is lost where Python ignores exceptions, as in a finalizer: the look finds it again.
    """

    def __init__(self) -> None:
        self._by: str | None = None

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def look(self) -> None:
        """Raise `KeyboardInterrupt` if there was a signal."""
        if self._by is not None:
            raise KeyboardInterrupt(self._by)

    def _on_signal(self, number: int, _frame: FrameType | None) -> NoReturn:
        name = signal.Signals(number).name
        self._by = f"{name} (Ctrl-C)" if number == signal.SIGINT else name
        raise KeyboardInterrupt(self._by)
