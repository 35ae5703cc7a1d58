"""The process that others are forked off: it has imported the service and the sandbox, and runs modules of them.

`python -m tests.support.preforked DESCRIPTOR` reads orders from that socket, each with four descriptors: the new
process's stdin, stdout and stderr, and a socket that is told its pid, and later its exit code. It ends with the socket.
"""

import importlib
import itertools
import json
import os
import runpy
import secrets
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from typing import Any, TextIO

# Before `signal.Signals` and the other numbers: an exit code is negative for the signal that ended a process.
NUMBER = struct.Struct("!i")
MAX_ORDER_BYTES = 128 * 1024
PRELOADED = (
    *(
        "aircall_oauth.cli.main",
        "aircall_oauth.server.processes",
        "aircall_oauth.server.later",
        "aircall_oauth.server.worker",
    ),
    *("aircall_oauth.operations.doctor", "aircall_oauth.operations.rotation", "aircall_oauth.events.retention"),
    *("aircall_oauth.installations.disconnect.revoke_all", "aircall_oauth.installations.outages.backfill"),
    *("aircall_oauth.sandbox.aircall", "alembic.command", "uvicorn"),
    *("rich.progress", "typer.rich_utils", "typer._adapters", "uvloop", "httptools", "aiohttp.web"),
    *("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"),
    "tests.support.frozen",
)


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        for module in PRELOADED:
            importlib.import_module(module)
        order = _take_orders(orders)
    if order is not None:
        _become(order)


def _take_orders(orders: socket.socket) -> Mapping[str, Any] | None:
    """Fork for each order; return its order in the new process, and None in this one when there are no more."""
    children: dict[int, socket.socket] = {}
    woken, wakes = socket.socketpair()
    with woken, wakes:
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([orders, woken], [], [])
            if woken in ready:
                woken.recv(4096)
                _tell_of_the_dead(children)
            if orders in ready:
                content, descriptors, _, _ = socket.recv_fds(orders, MAX_ORDER_BYTES, 4)
                if not content:
                    return None
                *streams, told = descriptors
                pid = os.fork()
                if pid:
                    children[pid] = socket.socket(fileno=told)
                    children[pid].sendall(NUMBER.pack(pid))
                else:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    for child in children.values():
                        child.close()
                    os.close(told)
                    for number, descriptor in enumerate(streams):
                        os.dup2(descriptor, number)
                for descriptor in streams:
                    os.close(descriptor)
                if not pid:
                    return json.loads(content)  # type: ignore[no-any-return]


def _tell_of_the_dead(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as told, suppress(OSError):  # it may not be waited for
            told.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _become(order: Mapping[str, Any]) -> None:
    """Be what `python -m module arguments` would be, in this environment and folder."""
    for name in set(os.environ) - {"LC_CTYPE"}:  # the interpreter itself sets that one in the C locale
        del os.environ[name]
    os.environ.update(order["environment"])
    time.tzset()
    os.chdir(order["folder"])
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = _open(getattr(sys, name), descriptor, mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    _draw_anew()
    sys.argv = [order["module"], *order["arguments"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _open(like: TextIO, descriptor: int, mode: str) -> TextIOWrapper:
    raw = FileIO(descriptor, mode, closefd=False)
    buffer = BufferedReader(raw) if mode == "r" else BufferedWriter(raw)
    return TextIOWrapper(buffer, like.encoding, like.errors, line_buffering=descriptor == 2)


def _draw_anew() -> None:
    """What modules draw at random while they are imported: no two processes have the same."""
    from aircall_oauth.sandbox.aircall import samples
    from aircall_oauth.telemetry import log

    log._PROCESS = secrets.token_hex(8)
    samples._ids = itertools.count(2_000_000_000 + secrets.randbelow(1_000_000_000))


if __name__ == "__main__":
    main()
