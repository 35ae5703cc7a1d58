"""Child processes of the `dev` command, which never outlive it."""

import ctypes
import signal
import socket
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
LAST_PORT = 65535


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


def require_free(port: int, what: str, *, variable: str, option: str) -> None:
    """Raise `DevError` where a port is in use, with make's variable and dev's option that choose another."""
    if not _is_free(port):
        other = next((number for number in range(port + 1, min(port + 100, LAST_PORT)) if _is_free(number)), port + 1)
        ways = f"make run {variable}={other}, or aircall-oauth dev {option} {other}"
        raise DevError(f"port {port} is in use; choose another for {what}: {ways}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(question: Callable[[], bool], children: Sequence[Child], seconds: float) -> None:
    """Wait until `question` is true; raises `DevError` after `seconds`, or when one of the processes ends."""
    deadline = time.monotonic() + seconds
    while not question():
        for child in children:
            child.require_running()
        if time.monotonic() > deadline:
            raise DevError(f"no answer after {seconds:.0f} s: {children[-1].last_words()}")
        time.sleep(STEP_SECONDS)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
