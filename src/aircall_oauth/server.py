"""The web server: uvicorn, bounded where it is not, and leaving in order."""

import asyncio
import gc
import resource
import signal
import socket
import time
from contextlib import suppress
from types import FrameType

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aircall_oauth import log
from aircall_oauth.app import App
from aircall_oauth.resources import Resources

logger = log.get(__name__)

GRACEFUL_SECONDS = 20
HEADERS_SECONDS = 10.0
# As in uvicorn's other protocol: what waits for its end is kept, and copied with every piece that comes.
HEAD_BYTES = 64 * 1024
# At any door; the receiver's own is stricter, and says so.
BODY_SECONDS = 30.0
# Longer than the minute for which most proxies keep theirs: whoever closes first must be the one who sends requests, or
# one is sent into a connection that is just closing.
KEEP_ALIVE_SECONDS = 75
TICKS_PER_SECOND = 10
YOUNG_OBJECTS = 10_000


def web_server(app: App, resources: Resources) -> "Server":
    """A server for the application, and the process made fit for many connections."""
    _allow_many_connections()
    _collect_less()
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=Protocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    return Server(config, resources)


class Protocol(HttpToolsProtocol):
    """Serves who offers to go on in another protocol in this one, as Java's clients offer wherever there is no TLS.

    The parser takes what follows an offer for the other protocol, and the request's body would be lost
    (github.com/Kludex/uvicorn/issues/2722): so a new one is given the head once more, without the offer.

    Refuses a head that does not end.
    """

    _head = b""
    _without_end = 0  # bytes since the last whole head or piece of a body

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._without_end += len(data)
        while data:
            data = self._read(data)
        if self._without_end > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def _read(self, data: bytes) -> bytes:
        """What is to be read next, where an offer ended the reading."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            if head := self._head:
                self._head, self.parser = b"", HttpRequestParser(self)
                # As uvicorn has its own.
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                return head + data[offer.args[0] :]
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        return b""

    def on_headers_complete(self) -> None:
        self._without_end = 0
        if self._is_offer():
            self._head = self._without_offer()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._without_end = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_offer():
            super().on_message_complete()

    def _is_offer(self) -> bool:
        # A CONNECT is none, and no request any more without it.
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _without_offer(self) -> bytes:
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = (name + b": " + value for name, value in self.headers if name != b"upgrade")
        return b"\r\n".join([line, *kept, b"", b""])


class Server(uvicorn.Server):
    """Cuts off who sends no whole request. Leaves in order: not ready any more, a drain, closed; readers go home."""

    def __init__(self, config: uvicorn.Config, resources: Resources) -> None:
        super().__init__(config)
        self._resources = resources
        self._loop = asyncio.get_running_loop()
        self._hurry = asyncio.Event()
        # By connection and its request so far: a busy one sends one request after the other.
        self._sending_since: dict[tuple[HttpToolsProtocol, RequestResponseCycle], float] = {}

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            self._cut_off_slow()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Ctrl-C and a second signal mean now.
        if self.should_exit or sig == signal.SIGINT:
            self._loop.call_soon_threadsafe(self._hurry.set)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        app = self.config.app
        assert isinstance(app, App)
        app.state.bell.stop()
        await super().shutdown(sockets)

    def _cut_off_slow(self) -> None:
        """Close the connections whose request has been on its way for too long, or has not begun.

        uvicorn bounds only how long a connection may be silent after an answer.
        """
        now, connections = time.monotonic(), self.server_state.connections
        http = [connection for connection in connections if isinstance(connection, HttpToolsProtocol)]
        sending = {(connection, connection.cycle): _may_take(connection) for connection in http}
        self._sending_since = {key: self._sending_since.get(key, now) for key, seconds in sending.items() if seconds}
        for key, since in self._sending_since.items():
            if now - since > sending[key]:
                key[0].transport.close()

    async def _drain(self) -> None:
        """Serve on until those who send requests have seen that this process is not ready any more."""
        self._resources.leaving = True
        seconds = self._resources.settings.drain.total_seconds()
        if not seconds:
            return
        logger.info("leaving", drain_seconds=seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()


def _may_take(connection: HttpToolsProtocol) -> float:
    """How many seconds it may go on sending what it does; 0 where it sends nothing."""
    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete:
        return BODY_SECONDS if cycle.more_body else 0
    # Between two requests uvicorn has a timer of its own, until the first byte of the next.
    return 0 if connection.timeout_keep_alive_task else HEADERS_SECONDS


def _allow_many_connections() -> None:
    """Many that are slow must leave room for those that are not."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_less() -> None:
    """What is there by now stays to the end: looking through it again and again costs every event."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
