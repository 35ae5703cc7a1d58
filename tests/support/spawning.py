"""Processes of our programs that are there quickly: forked off one that has imported them. They die like any other."""

import asyncio
import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.support.preforked import NUMBER

ROOT = Path(__file__).parents[2]
PIPE, STDOUT, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT, asyncio.subprocess.DEVNULL
# What an interpreter, or the loader of programs, reads at its very start.
OF_THE_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_")
_orders: socket.socket | None = None


class Forked:
    """A process with the interface of `asyncio.subprocess.Process`; its stdin is empty."""

    def __init__(
        self,
        pid: int,
        told: socket.socket,
        stdout: asyncio.StreamReader | None,
        stderr: asyncio.StreamReader | None,
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        told.setblocking(False)
        self._loop.add_reader(told, self._note_end)

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Its exit code, once it has one; negative for the signal that ended it."""
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        stdout, stderr, _ = await asyncio.gather(_all_of(self.stdout), _all_of(self.stderr), self.wait())
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _note_end(self) -> None:
        code = self._told.recv(NUMBER.size)
        self._loop.remove_reader(self._told)
        self._told.close()
        if code:
            self._ended.set_result(NUMBER.unpack(code)[0])
        else:
            self._ended.set_exception(RuntimeError("The process that others are forked off is gone."))


Running = asyncio.subprocess.Process | Forked


async def spawn(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    stdout: int = PIPE,
    stderr: int = PIPE,
    folder: Path | None = None,
) -> Running:
    """`python -m module …` as a process of its own with this environment and nothing on its stdin.

    Where the environment says how an interpreter starts, one is started. Without a folder it works in an empty one: in
    that of the sources, commands speak of the sandbox that ran there.
    """
    folder = folder or empty_folder()
    if any(name.startswith(OF_THE_START) for name in environment):
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            env=dict(environment),
            cwd=folder,
            stdin=DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    order = {
        "module": module,
        "arguments": arguments,
        "environment": dict(environment),
        "folder": str(folder),
    }
    return await _fork(json.dumps(order).encode(), stdout, stderr)


@cache
def empty_folder() -> Path:
    """A folder with nothing in it, of this test process."""
    folder = tempfile.mkdtemp(prefix="aircall-oauth-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


async def _fork(order: bytes, stdout: int, stderr: int) -> Forked:
    ours, theirs = socket.socketpair()
    nothing = os.open(os.devnull, os.O_RDWR)
    output, of_output = _end_of(stdout, nothing)
    errors, of_errors = (output, None) if stderr == STDOUT else _end_of(stderr, nothing)
    try:
        socket.send_fds(_preforked(), [order], [nothing, output, errors, theirs.fileno()])
    finally:
        theirs.close()
        mine = {nothing} | ({output} if stdout == PIPE else set()) | ({errors} if stderr == PIPE else set())
        for descriptor in mine:
            os.close(descriptor)
    told = await asyncio.to_thread(ours.recv, NUMBER.size, socket.MSG_WAITALL)
    assert told, "the process that others are forked off is gone"
    return Forked(NUMBER.unpack(told)[0], ours, await _reader(of_output), await _reader(of_errors))


def _end_of(wanted: int, nothing: int) -> tuple[int, int | None]:
    """The descriptor that the process writes to, and the one that is read here, if any."""
    if wanted == PIPE:
        read, write = os.pipe()
        return write, read
    return (nothing if wanted == DEVNULL else wanted), None


async def _reader(descriptor: int | None) -> asyncio.StreamReader | None:
    if descriptor is None:
        return None
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb", buffering=0))
    return reader


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream is not None else b""


def _preforked() -> socket.socket:
    """The socket of this process's own preforked one, which is started when it is first needed."""
    global _orders  # noqa: PLW0603 - one for all tests of this process
    if _orders is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.preforked", str(theirs.fileno())],
                env={"PATH": os.environ["PATH"]},
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        _orders = ours
        atexit.register(_end, ours, process)
    return _orders


def _end(orders: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    orders.close()
    process.wait()
