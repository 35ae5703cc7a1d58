"""How long a process takes to begin.

First the servers: from exec to the first 200 of `/readyz` (the plain handler's: to its first answer); until a request
is answered that needs the whole application; and memory then. Then commands: the CPU of a whole process, against
interpreters that only import.

python -m bench.start [--rounds 7]
"""

import argparse
import asyncio
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from bench import ground
from bench.processor import busy_seconds

NOTHING = "pass"
LIBRARIES = "import pydantic, typer"
NOWHERE = "postgresql://user@127.0.0.1:1/nowhere"
COMMANDS = {
    "--help": ["--help"],
    "a usage error": ["nonsense"],
    "keys list, no database": ["keys", "list"],
    "import of serve and work": [],
}
SERVERS = {
    "plain": ["uvicorn", "bench.plain:app", "--no-access-log", "--log-level", "warning"],
    "serve": ["aircall_oauth", "serve"],
    "serve --with-worker": ["aircall_oauth", "serve", "--with-worker"],
}
# A path, and how the first line of its answer begins; the plain handler has neither, and answers 404.
READY = (b"/readyz", b"HTTP/1.1 (200|404) ")
WHOLE = (b"/v1/installations", b"HTTP/1.1 401 ")
# Often enough for a start of tenths of a second, and seldom enough to leave both cores to it.
STEP_SECONDS = 0.005


@dataclass(frozen=True)
class Start:
    """What a server took until it was ready, and until all of it was loaded; and its memory then."""

    seconds: float
    cpu_seconds: float
    whole_seconds: float
    whole_cpu_seconds: float
    memory: ground.Memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    compare_servers(rounds)
    compare_commands(rounds)


def compare_servers(rounds: int) -> None:
    """Start each server in turns, on one database that each has seen before, and print the medians."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        for name in SERVERS:
            start(name, folder, url)
        found = [
            {name: start(name, folder, url) for name in (SERVERS if number % 2 else reversed(SERVERS))}
            for number in range(rounds)
        ]
    columns = ("ready", "/ plain", "CPU", "/ plain", "whole", "/ plain", "CPU", "/ plain", "RSS", "PSS", "USS")
    print(f"{'':<22}" + "".join(f"{column:>9}" for column in columns))
    for name in SERVERS:
        starts = [each[name] for each in found]
        ratios = sorted(each[name].seconds / each["plain"].seconds for each in found)
        print(
            f"{name:<22}{median(each.seconds for each in starts):>7.2f} s{median(ratios):>9.2f}"
            f"{median(each.cpu_seconds for each in starts):>8.2f} s"
            f"{median(each[name].cpu_seconds / each['plain'].cpu_seconds for each in found):>9.2f}"
            f"{median(each.whole_seconds for each in starts):>7.2f} s"
            f"{median(each[name].whole_seconds / each['plain'].whole_seconds for each in found):>9.2f}"
            f"{median(each.whole_cpu_seconds for each in starts):>7.2f} s"
            f"{median(each[name].whole_cpu_seconds / each['plain'].whole_cpu_seconds for each in found):>9.2f}"
            + "".join(
                f"{median(getattr(each.memory, kind) for each in starts):>6.1f} MB" for kind in ("rss", "pss", "uss")
            )
            + f"   ({ratios[0]:.2f} to {ratios[-1]:.2f} of plain)"
        )


def start(name: str, folder: Path, url: str) -> Start:
    """Start a server, wait until it is ready, and stop it."""
    port = free_port()
    began = time.perf_counter()
    command = [*SERVERS[name], "--port", str(port)]
    with Child(name, command, ground.environment(url, port), folder / f"{name}.log") as child:
        ready = _until_answered(child, port, READY, began)
        whole = _until_answered(child, port, WHOLE, began) if name != "plain" else ready
        return Start(*ready, *whole, ground.memory_of(child.pid))


def _until_answered(child: Child, port: int, request: tuple[bytes, bytes], began: float) -> tuple[float, float]:
    """The seconds since then, and of the server's processor time, until a request is answered with a line like this."""
    wait_until(lambda: _is_answered(port, *request), [child], ground.READY_SECONDS, step_seconds=STEP_SECONDS)
    return time.perf_counter() - began, busy_seconds(child.pid)


def _is_answered(port: int, path: bytes, line: bytes) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30.0) as connection:
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return re.match(line, connection.recv(4096)) is not None
    return False


def compare_commands(rounds: int) -> None:
    """Run each command in turns, and print the medians of its CPU."""
    environment = {"PATH": os.environ["PATH"], **ground.environment(NOWHERE, 8000)}
    commands = {name: _command(arguments) for name, arguments in COMMANDS.items()}
    commands |= {text: [sys.executable, "-c", text] for text in (NOTHING, LIBRARIES)}
    # Taken in turns, so that what else the machine does meets all alike.
    taken = [{name: _cpu(command, environment) for name, command in commands.items()} for _ in range(rounds)]
    print(f"{'':<26}{'CPU':>9}{'/ pass':>9}{'/ pydantic, typer':>20}")
    for name in commands:
        cpu, of_nothing, of_libraries = (
            median(ratio)
            for ratio in zip(*((t[name], t[name] / t[NOTHING], t[name] / t[LIBRARIES]) for t in taken), strict=True)
        )
        print(f"{name:<26}{cpu * 1000:>6.0f} ms{of_nothing:>9.1f}{of_libraries:>20.2f}")


def _command(arguments: list[str]) -> list[str]:
    if not arguments:
        return [sys.executable, "-c", "import aircall_oauth.server.processes"]
    return [sys.executable, "-m", "aircall_oauth", *arguments]


def _cpu(command: list[str], environment: dict[str, str]) -> float:
    """The seconds of CPU that a process took, in itself and in the kernel."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
