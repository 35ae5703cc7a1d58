"""The socket a process listens on."""

import socket

from aircall_oauth.errors import StartRefused

BACKLOG = 2048


def listening(host: str, port: int) -> socket.socket:
    """Open a listening socket; raises `StartRefused` with the reason in one line."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol given as TCP: otherwise asyncio does not set TCP_NODELAY, and every answer waits 40 ms for the
    # client's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            # Listen on IPv4 too, whatever this machine's default is.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = (error.strerror or str(error)).partition(" (")[0]
        raise StartRefused(f"Cannot listen on {host}, port {port}: {why}.") from None
    return listener
