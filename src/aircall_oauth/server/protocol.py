"""HTTP/1.1 on both ports of the service: uvicorn, with the limits that it lacks."""

import asyncio
import json
import time
from typing import Any

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aircall_oauth.access.problems import MEDIA_TYPE, headers, problem
from aircall_oauth.errors import BodyTooSlow, IntakeFull
from aircall_oauth.events.receiver import body as bodies
from aircall_oauth.events.receiver.endpoint import PATH, Answer, Receiver, answer_to, refused
from aircall_oauth.events.receiver.envelope import LARGE_BYTES
from aircall_oauth.events.receiver.inbox import Outcome
from aircall_oauth.server.intake import Intake
from aircall_oauth.telemetry import log

logger = log.get(__name__)

HEADERS_SECONDS = 10.0
# As in uvicorn's other protocol: an incomplete head is kept, and copied with every piece that arrives.
HEAD_BYTES = 64 * 1024
# As in other servers; each header costs far more memory than its bytes.
MOST_HEADERS = 100
# On any route; the receiver has a shorter limit of its own, and answers with its own error.
BODY_SECONDS = 30.0
TICKS_PER_SECOND = 10
END_OF_HEAD = b"\r\n\r\n"
DIRECT_URL = PATH.encode()
# The least to parse at once of a chunked body: only the parser knows where it ends.
LEAST_PIECE = 64


class State(ServerState):
    """The state that the connections of a port share."""

    def __init__(self, intake: Intake, receiver: Receiver | None) -> None:
        super().__init__()
        self.intake, self.receiver = intake, receiver


class _Unheard:
    """The event of an ASGI task, for a request that has none."""

    def set(self) -> None: ...


class Protocol(HttpToolsProtocol):
    """Parses one request of a connection at a time; what follows it stays unparsed until the answer is out.

    A request that offers an upgrade to another protocol (`Upgrade`, as Java's client sends wherever there is no TLS)
    is answered in this one. The parser takes the bytes behind such a head for the other protocol, and the request's
    body would be lost (github.com/Kludex/uvicorn/issues/2722): so a new parser is given the head without the offer.
    """

    server_state: State

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head = b""  # of a request that offers an upgrade, without the offer
        self._without_end = 0  # bytes parsed since the last complete head or piece of a body
        self._in_body = False
        self._body_left = 0  # bytes, where the length was declared
        self._unread = b""  # bytes behind a request that is not answered yet
        self._held = 0  # bytes, as the intake counts them

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
        if isinstance(self.cycle, DirectCycle):
            self.cycle.hung_up()

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
            sent = dict(self.headers)
            self._body_left = int(sent.get(b"content-length", 0))
            receiver = self._direct_receiver(sent)
            if receiver is None:
                super().on_headers_complete()
            else:
                self.cycle = DirectCycle(self, receiver, sent.get(b"x-request-id"))  # type: ignore[assignment]

    def _direct_receiver(self, sent: dict[bytes, bytes]) -> Receiver | None:
        """Return the receiver for a small event, sent as nearly every client sends it; all else takes the usual way."""
        receiver = self.server_state.receiver
        return (
            receiver
            if receiver is not None
            and self.url == DIRECT_URL
            # A chunked request is parsed along with the head of the next one, which waits for its turn.
            and (self.cycle is None or self.cycle.response_complete)
            and 0 < self._body_left <= LARGE_BYTES
            and receiver.answers_directly
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and b"content-encoding" not in sent
            and not self.expect_100_continue
            and not self.flow.write_paused
            else None
        )

    def on_body(self, body: bytes) -> None:
        self._without_end = 0
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_offer():
            self._in_body = False
            super().on_message_complete()
            if isinstance(self.cycle, DirectCycle) and not self.cycle.response_complete:
                self.cycle.begin()

    def _hold(self, held_bytes: int) -> None:
        self._held = held_bytes
        self.server_state.intake.note(self, held_bytes)

    def _is_answering(self) -> bool:
        """Whether a request is complete and its answer is not."""
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
        if self._in_body and isinstance(self.cycle, DirectCycle):
            self.cycle.wait_for_the_rest()

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """Return where the current request may end, so that a later one is not parsed along with it."""
        if self._body_left:
            return min(start + self._body_left, len(data))
        found = data.find(END_OF_HEAD, start + LEAST_PIECE if self._in_body else start)
        return len(data) if found < 0 else found + len(END_OF_HEAD)

    def _begin_anew(self) -> None:
        if self._head:
            self._head, self.parser = b"", HttpRequestParser(self)
            # As uvicorn sets it on its own parser.
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _is_offer(self) -> bool:
        # The parser reports CONNECT as an upgrade too; it can't be served without one.
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _without_offer(self) -> bytes:
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = (name + b": " + value for name, value in self.headers if name != b"upgrade")
        return b"\r\n".join([line, *kept, b"", b""])


class DirectCycle:
    """An event and its answer, without ASGI: what uvicorn's own cycle is to a connection, and nothing more.

    Its event is not forgotten when the sender hangs up: it is committed, counted and logged, and not answered.
    """

    message_event = _Unheard()
    disconnected = False
    keep_alive = True  # False: close the connection after this answer
    more_body = True
    response_started = False
    response_complete = False

    def __init__(self, connection: Protocol, receiver: Receiver, request_id: bytes | None) -> None:
        self._connection, self._receiver = connection, receiver
        self._request_id = log.request_id(request_id)
        self._started = time.perf_counter()
        self.body = bytearray()
        self._patience: asyncio.TimerHandle | None = None

    def hung_up(self) -> None:
        """Note that the connection is lost; an event that is complete goes its way all the same."""
        if self.more_body and not self.response_complete:
            self.response_complete = True
            self._wait_no_longer()
            self._receiver.note_answer(None, started=self._started, request_id=self._request_id)

    def wait_for_the_rest(self) -> None:
        """Refuse the event if the rest of its body takes too long; most come as a whole, and need no timer."""
        if self._patience is None and not self.response_complete:
            self._patience = self._connection.loop.call_later(bodies.BODY_SECONDS, self._refuse_slow)

    def _refuse_slow(self) -> None:
        self._answer(refused(BodyTooSlow(), self._request_id))

    def _wait_no_longer(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def begin(self) -> None:
        """Put the event into the inbox. It is answered later in any case: the parser is still busy with its request."""
        self._wait_no_longer()
        try:
            self._receiver.offer(bytes(self.body), self._end)
        except Exception as error:
            self._connection.loop.call_soon(self._answer, refused(error, self._request_id))

    def _end(self, outcome: Outcome) -> None:
        self._answer(answer_to(outcome, self._request_id))

    def _answer(self, answer: Answer) -> None:
        connection = self._connection
        self.response_started = self.response_complete = True
        if not connection.transport.is_closing():
            connection.transport.write(self._in_bytes(answer))
            if not self.keep_alive:
                connection.transport.close()
        connection.on_response_complete()
        self._receiver.note_answer(answer, started=self._started, request_id=self._request_id)

    def _in_bytes(self, answer: Answer) -> bytes:
        sent = [*self._connection.server_state.default_headers, *answer.all_headers(self._request_id)]
        if not self.keep_alive:
            sent.append((b"connection", b"close"))
        lines = [b"%s: %s\r\n" % line for line in sent]
        return b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", answer.body])


class BoundedServer(uvicorn.Server):
    """A uvicorn server that closes connections which send no complete request in time.

    A receiver's events are answered without ASGI where they can be.
    """

    def __init__(self, config: uvicorn.Config, intake: Intake | None = None, receiver: Receiver | None = None) -> None:
        super().__init__(config)
        self._intake = intake or Intake()
        self.server_state = State(self._intake, receiver)
        # By connection and request: a busy connection sends one request after the other.
        self._sending_since: dict[tuple[HttpToolsProtocol, RequestResponseCycle], float] = {}

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            self._cut_off_slow()
            if count := self._intake.cut_off_lately():
                logger.warning("more is being sent in than can be held", cut_off=count)
        return await super().on_tick(counter)

    def _cut_off_slow(self) -> None:
        """Close connections on which a request has been incomplete, or has not begun, for too long.

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
    """Return for how many seconds a connection may stay in its present state; 0 where there is no limit."""
    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete:
        return BODY_SECONDS if cycle.more_body else 0
    # Between two requests uvicorn's own timer runs, until the first byte of the next.
    return 0 if connection.timeout_keep_alive_task else HEADERS_SECONDS


def _refusal() -> bytes:
    """Return the bytes of an `IntakeFull` answer, for a request that has not reached the application."""
    error = IntakeFull()
    body = json.dumps(problem(error, None)).encode()
    also = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "connection": "close"}
    lines = [f"{name}: {value}\r\n".encode() for name, value in (headers(error) | also).items()]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])
