"""HTTP/1.1 as each of this service's ports speaks it: uvicorn, bounded where it is not."""

import json
import time
from typing import Any

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aircall_oauth.access.problems import MEDIA_TYPE, headers, problem
from aircall_oauth.errors import IntakeFull
from aircall_oauth.server.intake import Intake
from aircall_oauth.telemetry import log

logger = log.get(__name__)

HEADERS_SECONDS = 10.0
# As in uvicorn's other protocol: an incomplete head is kept, and copied with every piece that comes.
HEAD_BYTES = 64 * 1024
# As in other servers; each costs far more memory than its bytes.
MOST_HEADERS = 100
# At any door; the receiver's own is stricter, and says so.
BODY_SECONDS = 30.0
TICKS_PER_SECOND = 10
END_OF_HEAD = b"\r\n\r\n"
# Of a chunked body, whose end only the parser knows, at least so much is read at once.
LEAST_PIECE = 64


class State(ServerState):
    """What the connections of a port share."""

    def __init__(self, intake: Intake) -> None:
        super().__init__()
        self.intake = intake


class Protocol(HttpToolsProtocol):
    """Reads one request at a time: what follows it waits unread until it is answered.

    Serves clients that offer to go on in another protocol in this one, as Java's do wherever there is no TLS.
    The parser takes what follows an offer for the other protocol, and the request's body would be lost
    (github.com/Kludex/uvicorn/issues/2722): so a new one is given the head once more, without the offer.
    """

    server_state: State

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head = b""  # of an offer
        self._without_end = 0  # bytes since the last whole head or piece of a body
        self._in_body = False
        self._body_left = 0  # where its length was declared
        self._unread = b""  # what came behind a request that is not answered yet
        self._held = 0

    @property
    def sending(self) -> bool:
        return not self._is_answering()

    def cut_off(self) -> None:
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(_refusal())
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._unread:
            self._unread += data
            self.flow.pause_reading()
        else:
            self._read(data)
        if not (self._in_body and self.cycle.response_complete):
            self._hold(self._held + len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        self._hold(0)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        unread, self._unread = self._unread, b""
        self._hold(len(unread))
        if unread and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._read(unread)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MOST_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._without_end = 0
        if self._is_offer():
            self._head = self._without_offer()
        else:
            self._in_body = True
            self._body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._without_end = 0
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_offer():
            self._in_body = False
            super().on_message_complete()

    def _hold(self, held_bytes: int) -> None:
        self._held = held_bytes
        self.server_state.intake.note(self, held_bytes)

    def _is_answering(self) -> bool:
        """Whether a request is whole, and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _read(self, data: bytes) -> None:
        start = 0
        while start < len(data) and not self.transport.is_closing():
            if self._is_answering():
                self._unread = data[start:]
                self.flow.pause_reading()
                return
            end = self._end_of_piece(data, start)
            self._without_end += end - start
            try:
                self.parser.feed_data(memoryview(data)[start:end])
                start = end
            except HttpParserUpgrade as offer:
                data, start = self._head and self._head + data[start + offer.args[0] :], 0
                self._begin_anew()
            except HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
            if self._without_end > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's head is too long.")

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """Where the request may end that is being read: a later one must not be parsed along with it."""
        if self._body_left:
            return min(start + self._body_left, len(data))
        found = data.find(END_OF_HEAD, start + LEAST_PIECE if self._in_body else start)
        return len(data) if found < 0 else found + len(END_OF_HEAD)

    def _begin_anew(self) -> None:
        if self._head:
            self._head, self.parser = b"", HttpRequestParser(self)
            # As uvicorn has its own.
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _is_offer(self) -> bool:
        # A CONNECT is none, and no request any more without it.
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _without_offer(self) -> bytes:
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = (name + b": " + value for name, value in self.headers if name != b"upgrade")
        return b"\r\n".join([line, *kept, b"", b""])


class BoundedServer(uvicorn.Server):
    """Cuts off connections that send no whole request in time."""

    def __init__(self, config: uvicorn.Config, intake: Intake | None = None) -> None:
        super().__init__(config)
        self._intake = intake or Intake()
        self.server_state = State(self._intake)
        # By connection and its request so far: a busy one sends one request after the other.
        self._sending_since: dict[tuple[HttpToolsProtocol, RequestResponseCycle], float] = {}

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            self._cut_off_slow()
            if count := self._intake.cut_off_lately():
                logger.warning("more is being sent in than can be held", cut_off=count)
        return await super().on_tick(counter)

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


def _may_take(connection: HttpToolsProtocol) -> float:
    """How many seconds it may go on sending what it does; 0 where it sends nothing."""
    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete:
        return BODY_SECONDS if cycle.more_body else 0
    # Between two requests uvicorn has a timer of its own, until the first byte of the next.
    return 0 if connection.timeout_keep_alive_task else HEADERS_SECONDS


def _refusal() -> bytes:
    """The whole answer of `IntakeFull`, for a request that no door has seen."""
    error = IntakeFull()
    body = json.dumps(problem(error, None)).encode()
    also = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "connection": "close"}
    lines = [f"{name}: {value}\r\n".encode() for name, value in (headers(error) | also).items()]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])
