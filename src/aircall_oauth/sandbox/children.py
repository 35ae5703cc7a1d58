"""Child processes of the `dev` command, which never outlive it."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

STOP_SECONDS = 10.0
STEP_SECONDS = 0.03
LOG_LINES = 8
PR_SET_PDEATHSIG = 1


class DevError(Exception):
    """The `dev` command can't go on; the message is one clear line."""


class Child:
    """One process, with its output in a file."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the `dev` command only, which then stops everything in order.
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no threads here yet
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def require_running(self) -> None:
        if not self.running:
            raise DevError(f"{self.name} stopped by itself: {self.last_words()}")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return " | ".join(lines) or f"nothing in {self.log}"

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def wait_until(
    question: Callable[[], bool], children: Sequence[Child], seconds: float, *, step_seconds: float = STEP_SECONDS
) -> None:
    """Wait until `question` is true; raises `DevError` after `seconds`, or when one of the processes ends."""
    deadline = time.monotonic() + seconds
    while not question():
        for child in children:
            child.require_running()
        if time.monotonic() > deadline:
            raise DevError(f"no answer after {seconds:.0f} s: {children[-1].last_words()}")
        time.sleep(step_seconds)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
