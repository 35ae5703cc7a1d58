"""Where the clients' sockets are made: one way, whatever address a client comes up with.

A broker tells its client where to go on, as Kafka's and NATS's do, and a name may mean something else when the client
looks it up itself. Not every client lets its sockets be made for it, so asyncio is asked to: what runs in a broker's
context connects by that broker's `connect`, and everything else as ever.
"""

import asyncio
import contextvars
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aircall_oauth.deliveries.destinations.addresses import AddressBlocked

Connect = Callable[[str, int], Awaitable[socket.socket]]


class Gate:
    """The way out of one broker's clients; `blocked` once one of them was kept from an address."""

    def __init__(self, connect: Connect) -> None:
        self.blocked = False
        self._connect = connect

    def context(self) -> contextvars.Context:
        """Tasks that run in it, and those that they make, connect through this gate."""
        context = contextvars.copy_context()
        context.run(_gate.set, self)
        _guard_loop(asyncio.get_running_loop())
        return context

    async def connect(self, host: str, port: int) -> socket.socket:
        try:
            return await self._connect(host, port)
        except AddressBlocked:
            self.blocked = True
            raise


_gate: contextvars.ContextVar[Gate | None] = contextvars.ContextVar("gate", default=None)


def _guard_loop(loop: Any) -> None:
    if getattr(loop.create_connection, "is_guarded", False):
        return
    unguarded = loop.create_connection

    async def create_connection(protocol: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        gate = _gate.get()
        if gate is None or host is None:
            return await unguarded(protocol, host, port, **options)
        connection = await gate.connect(host, port)
        if options.get("ssl"):
            options["server_hostname"] = options.get("server_hostname") or host
        try:
            return await unguarded(protocol, sock=connection, **options)
        except BaseException:
            connection.close()
            raise

    create_connection.is_guarded = True  # type: ignore[attr-defined]
    loop.create_connection = create_connection
