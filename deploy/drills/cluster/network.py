"""The pods' network: a bridge, and for each pod a namespace with an address of its own."""

import asyncio
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

BRIDGE = "pods"
HOST = "10.244.0.1"
RANGE = "10.244.0.0/16"
NAMESPACES = "/run/netns"
CLONE_NEWNET = 0x40000000


class NetworkFailed(Exception):
    """`ip` could not do what it was told."""


def lay_out() -> None:
    """Make the bridge, in a namespace of the drill's own; call it once, before anything listens."""
    subprocess.run(["mkdir", "-p", NAMESPACES], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", NAMESPACES], check=True)
    lines = [
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {HOST}/16 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def addresses(node: int) -> Iterator[str]:
    """Yield the addresses of a node's pods."""
    return (f"10.244.{node}.{last % 250 + 2}" for last in count())


async def join(name: str, address: str) -> None:
    """Make the namespace of a pod, with this address."""
    outer, inner = f"v{name}", f"w{name}"
    await _ip(
        f"netns add {name}",
        f"link add {outer} type veth peer name {inner}",
        f"link set {inner} netns {name}",
        f"link set {outer} master {BRIDGE} up",
    )
    await _ip("link set lo up", f"link set {inner} name eth0", namespace=name)
    await _ip(f"address add {address}/16 dev eth0", "link set eth0 up", f"route add default via {HOST}", namespace=name)


async def listen_inside(name: str, host: str, port: int) -> socket.socket:
    """Listen in a pod's namespace; who connects there is served here."""
    return await asyncio.to_thread(_listen_inside, name, host, port)


def _listen_inside(name: str, host: str, port: int) -> socket.socket:
    # A namespace is a thread's own, and a socket's is that of the thread which made it.
    library = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as own, Path(NAMESPACES, name).open() as inside:
        if library.setns(inside.fileno(), CLONE_NEWNET) != 0:
            raise NetworkFailed(os.strerror(ctypes.get_errno()))
        try:
            return socket.create_server((host, port), backlog=128)
        finally:
            library.setns(own.fileno(), CLONE_NEWNET)


async def leave(name: str) -> None:
    """Take a pod's namespace away, and its link with it."""
    await _ip(f"netns delete {name}")


async def _ip(*lines: str, namespace: str | None = None) -> None:
    where = ["-netns", namespace] if namespace else []
    process = await asyncio.create_subprocess_exec(
        "ip", *where, "-batch", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate("\n".join(lines).encode())
    if process.returncode != 0:
        raise NetworkFailed(f"ip said: {said.decode().strip()}")
