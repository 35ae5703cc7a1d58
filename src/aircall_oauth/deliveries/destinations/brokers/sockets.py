"""Makes the sockets of the brokers' clients, so that each goes to a judged address only.

Kafka's and NATS's brokers tell their clients of more servers, and a name may mean another address when the client looks
it up itself. Some clients do not let their sockets be made for them, so asyncio's `create_connection` is replaced: in a
broker's context it connects by that broker's `connect`, everywhere else as ever.
"""

import asyncio
import contextvars
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aircall_oauth.deliveries.destinations.addresses import AddressBlocked

Connect = Callable[[str, int], Awaitable[socket.socket]]


class Gate:
    """Connects for one broker's clients; `blocked` once an address was refused to one of them."""

    def __init__(self, connect: Connect) -> None:
        self.blocked = False
        self._connect = connect

    def context(self) -> contextvars.Context:
        """Return a context: its tasks, and the tasks that they make, connect through this gate."""
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
