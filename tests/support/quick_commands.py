"""The command `aircall-oauth` for scripts, there quickly: forked off as in `spawning`, with the caller's streams."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.spawning import spawn

BYTES_OF_LENGTH = 4
# An interpreter that has nothing to import but this is there in a hundredth of a second.
COMMAND = f"""#!{sys.executable} -IS
import json, os, socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect(os.path.join(os.path.dirname(__file__), "door"))
os.environ.pop("LC_CTYPE", None)  # the interpreter itself sets it in the C locale
order = json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}).encode()
socket.send_fds(door, [len(order).to_bytes({BYTES_OF_LENGTH}, "big")], [1, 2])
door.sendall(order)
sys.exit(int.from_bytes(door.recv(1), "big"))
"""


@asynccontextmanager
async def quick_commands(folder: Path) -> AsyncIterator[Path]:
    """Put `aircall-oauth` into this folder, to be put into `PATH`, where it works as long as the block lasts."""
    command = folder / "aircall-oauth"
    command.write_text(COMMAND)
    command.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "door"))
        door.listen()
        door.setblocking(False)
        async with asyncio.TaskGroup() as calls:
            listening = calls.create_task(_listen(door, calls))
            yield folder
            listening.cancel()


async def _listen(door: socket.socket, calls: asyncio.TaskGroup) -> None:
    while True:
        caller, _ = await asyncio.get_running_loop().sock_accept(door)
        caller.setblocking(True)
        calls.create_task(_run(caller))


async def _run(caller: socket.socket) -> None:
    with caller:
        order, stdout, stderr = await asyncio.to_thread(_take_order, caller)
        try:
            process = await spawn(
                "aircall_oauth",
                *order["arguments"],
                environment=order["environment"],
                stdout=stdout,
                stderr=stderr,
                folder=Path(order["folder"]),
            )
        finally:
            os.close(stdout)
            os.close(stderr)
        code = await process.wait()
        caller.sendall(bytes([code if code >= 0 else 128 - code]))


def _take_order(caller: socket.socket) -> tuple[Any, int, int]:
    """Return what to run, and the descriptors of the caller's stdout and stderr."""
    length, (stdout, stderr), _, _ = socket.recv_fds(caller, BYTES_OF_LENGTH, 2)
    with caller.makefile("rb") as written:
        return json.loads(written.read(int.from_bytes(length, "big"))), stdout, stderr
