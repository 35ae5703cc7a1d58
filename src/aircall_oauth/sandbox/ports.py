"""The four ports of the sandbox: which are taken, and a line to copy with free ones.

`make run` asks this before it installs anything, so it needs nothing but Python:
`python -m aircall_oauth.sandbox.ports 8000 8100 8200 8300`.
"""

import random
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FIRST_OF_EVERYBODY = 1024
LAST_PORT = 65535
NEAR = 100
# Below those that Linux and others give to outgoing connections.
NEVER_GIVEN = range(20_000, 32_768)
TRIES = 100


@dataclass(frozen=True)
class Use:
    """What a port is for, and how `make run` and `aircall-oauth dev` are told another one."""

    what: str
    variable: str
    option: str


USES = (
    Use("the service", "PORT", "--port"),
    Use("the pretend Aircall", "AIRCALL_PORT", "--aircall-port"),
    Use("the sample receiver", "RECEIVER_PORT", "--receiver-port"),
    Use("the console", "CONSOLE_PORT", "--console-port"),
)


@dataclass(frozen=True)
class Taken:
    """Some of the ports that were asked for are taken; `free` has others in place of those, in the order of `USES`."""

    asked: Sequence[int]
    free: Sequence[int]

    @property
    def said(self) -> str:
        """The ports that are taken, and the line for make."""
        pairs = zip(USES, self.asked, self.free, strict=True)
        taken = ", ".join(f"{asked} ({use.what})" for use, asked, free in pairs if asked != free)
        return f"ports that are taken: {taken}; with free ones:\n  make run {self._told('{0.variable}={1}')}"

    @property
    def command(self) -> str:
        return f"aircall-oauth dev {self._told('{0.option} {1}')}"

    def _told(self, form: str) -> str:
        return " ".join(form.format(use, port) for use, port in zip(USES, self.free, strict=True))


def find_taken(ports: Sequence[int]) -> Taken | None:
    """Return what is taken of four ports, in the order of `USES`; a port that is asked for twice is taken, too."""
    free: list[int] = []
    for number, port in enumerate(ports):
        fits = port not in free and _is_free(port)
        free.append(port if fits else _another(port, [*free, *ports[number + 1 :]]))
    return Taken(ports, free) if free != list(ports) else None


def is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) <= LAST_PORT


def free_port() -> int:
    """Return a port on loopback that nothing listens on, and that no outgoing connection is given before it is used."""
    return next(filter(_is_free, random.sample(NEVER_GIVEN, k=TRIES)), None) or _given_port()


def _given_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _another(port: int, others: Iterable[int]) -> int:
    """Return a free port near this one, if there is one, and none of the others."""
    first = max(port + 1, FIRST_OF_EVERYBODY)
    near = range(first, min(first + NEAR, LAST_PORT + 1))
    return next((number for number in near if number not in others and _is_free(number)), None) or free_port()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _main(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with the ports that make was given."""
    for use, text in zip(USES, arguments, strict=True):
        if not is_port(text):
            return f"make run: {use.variable} must be a port, from 1 to {LAST_PORT}"
    taken = find_taken([int(text) for text in arguments])
    return f"make run: {taken.said}" if taken else None


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
