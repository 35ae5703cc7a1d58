"""Reads answers of HTTP destinations: the status line decides, and little is read of the rest.

aiohttp's parser refuses answers although their status is plain (a 204 with a body, a head above its limits), and reads
interim answers without an end.
"""

import re
from asyncio import TimerHandle
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

MAX_INTERIM_ANSWERS = 16
MAX_INTERIM_BYTES = 64 * 1024
MAX_HEAD_BYTES = 256 * 1024
MAX_BODY_BYTES = 4096
# An answer in more pieces than this costs more to read than it can tell.
MAX_READS = 512
# How long to wait for the rest of an answer, so that its connection can be kept.
REST_SECONDS = 2.0
SWITCHING_PROTOCOLS = 101
LONGEST_VERSION_AND_STATUS = len(b"HTTP/1.1 200 ")

_STATUS = re.compile(rb"HTTP/1\.([01]) +([1-9]\d\d)(?=[ \r\n])")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_FIELDS = re.compile(
    rb"^(connection|content-length|retry-after|transfer-encoding)[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE
)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


class NotHttp(aiohttp.ClientError):
    """What came is not an HTTP answer."""


class Flooded(aiohttp.ClientError):
    """More came than is read, and no final answer with it."""


class Head:
    """The headers of an answer that are used here, as far as they came."""

    def __init__(self, head: bytes) -> None:
        self._fields = [(name.lower(), value.strip().decode("latin-1")) for name, value in _FIELDS.findall(head)]

    def values(self, name: bytes) -> list[str]:
        return [value for field, value in self._fields if field == name]

    @property
    def closes(self) -> bool:
        return "close" in ",".join(self.values(b"connection")).lower()

    @property
    def is_chunked(self) -> bool:
        codings = [coding.lower() for coding in self.values(b"transfer-encoding")]
        return codings == ["chunked"] and not self.values(b"content-length")

    @property
    def length(self) -> int | None:
        """The body's length; None if the body is not waited for."""
        lengths = self.values(b"content-length")
        if self.values(b"transfer-encoding") or len(lengths) != 1 or not re.fullmatch(r"[0-9]{1,4}", lengths[0]):
            return None
        return int(lengths[0]) if int(lengths[0]) <= MAX_BODY_BYTES else None

    @property
    def has_no_body(self) -> bool:
        return self.values(b"content-length") in ([], ["0"]) and not self.values(b"transfer-encoding")


class Answer:
    """One answer, as it comes in. `status` is known first; after `complete` nothing more of it is read."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.complete = False
        self.reusable = False
        self._buffer = bytearray()
        self._searched = 0
        self._interim_answers = 0
        self._bytes = 0
        self._reads = 0
        self._speaks_1_1 = False
        self._body_at: int | None = None
        self._length: int | None = None
        self._is_chunked = False

    def feed(self, data: bytes) -> None:
        """Take bytes that came. Raises `NotHttp` and `Flooded`, but not once the status is known."""
        self._reads += 1
        self._bytes += len(data)
        self._buffer += data
        while self.status is None and self._read_status():
            pass
        if self.status is not None:
            self._read_rest()
        elif self._interim_answers > MAX_INTERIM_ANSWERS or self._is_too_much(MAX_INTERIM_BYTES):
            raise Flooded

    def head(self) -> Head:
        """Return its headers, as far as they came."""
        return Head(bytes(self._buffer[: self._body_at]))

    def _read_status(self) -> bool:
        """Find the status, or remove one interim answer; returns whether another one may follow it."""
        status_line = _STATUS.match(self._buffer)
        if status_line is None:
            if len(self._buffer) >= LONGEST_VERSION_AND_STATUS or b"\n" in self._buffer:
                raise NotHttp
            return False
        status = int(status_line[2])
        if status >= 200 or status == SWITCHING_PROTOCOLS:
            self.status = status
            self._speaks_1_1 = status_line[1] == b"1"
            return False
        end = self._end_of_head()
        if end is None or self._interim_answers > MAX_INTERIM_ANSWERS:
            return False
        self._interim_answers += 1
        del self._buffer[:end]
        self._searched = 0
        return True

    def _read_rest(self) -> None:
        if self._body_at is None:
            self._body_at = self._end_of_head()
            if self._body_at is not None:
                self._read_head(self.head())
        if self._body_at is None:
            self.complete = self._is_too_much(MAX_INTERIM_BYTES + MAX_HEAD_BYTES)
        else:
            self._read_body(self._body_at)

    def _read_head(self, head: Head) -> None:
        """Find out how the body ends. A body that ends with its connection, or may not exist, is not waited for."""
        if not self._speaks_1_1 or self.status == SWITCHING_PROTOCOLS or head.closes:
            return
        if self.status in (204, 304):
            self._length = 0 if head.has_no_body else None
        else:
            self._is_chunked, self._length = head.is_chunked, head.length

    def _read_body(self, at: int) -> None:
        came = len(self._buffer) - at
        length = _length_of_chunks(bytes(self._buffer[at:])) if self._is_chunked else self._length
        if length is None or came > length or self._reads > MAX_READS:
            self.complete = True
        elif came == length:
            self.complete = self.reusable = True

    def _end_of_head(self) -> int | None:
        found = _END_OF_HEAD.search(self._buffer, self._searched)
        self._searched = max(0, len(self._buffer) - len(b"\r\n\r"))
        return found.end() if found else None

    def _is_too_much(self, limit: int) -> bool:
        return self._bytes > limit or self._reads > MAX_READS


def _length_of_chunks(body: bytes) -> int | None:
    """Return the length of a chunked body, or at least a byte more than came while its end is missing.

    None if it is malformed or too long.
    """
    at = 0
    while chunk := _CHUNK.match(body, at):
        size, data_at = int(chunk[1], 16), chunk.end()
        at = data_at + size + len(b"\r\n")
        if at > MAX_BODY_BYTES or not b"\r\n".startswith(body[data_at + size : at]):
            return None
        if size == 0:
            return at
    return None if b"\n" in body[at:] else max(at, len(body)) + 1


class AnswerProtocol(ResponseHandler):
    """One connection to a destination. It is kept after an answer that came whole, with the length it announced."""

    _answer: Answer | None = None
    _waiting_for_rest: TimerHandle | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and return its answer.

        Not over a kept connection on which unrequested data has arrived: that would be taken for the answer, and the
        answer for the next one.
        """
        if self.should_close or not self.is_connected():
            raise aiohttp.ServerDisconnectedError("something came unasked")
        assert self.transport is not None
        self._answer = Answer()
        self.transport.write(request)
        answer: Any = await self.read()
        return cast("Answer", answer)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self._drop()
            return
        try:
            answer.feed(data)
        except (NotHttp, Flooded) as error:
            self.set_exception(error)
            self._drop()
            return
        if answer.complete:
            self._hand_over()
        elif answer.status is not None and self._waiting_for_rest is None:
            self._waiting_for_rest = self._loop.call_later(REST_SECONDS, self._hand_over)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._answer is not None and self._answer.status is not None:
            self._hand_over()
        super().connection_lost(exc)

    def _hand_over(self) -> None:
        """Give the answer to the request that waits for it; the rest of it, if any, is not read."""
        answer, self._answer = self._answer, None
        if self._waiting_for_rest is not None:
            self._waiting_for_rest.cancel()
            self._waiting_for_rest = None
        assert answer is not None
        assert answer.status is not None
        feed: Any = self.feed_data
        feed(answer)
        # Who answers before the request is sent whole would read the rest of it as the next one.
        if not answer.reusable or (self.transport is not None and self.transport.get_write_buffer_size()):
            self._drop()

    def _drop(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.abort()


class AnswerConnector(aiohttp.TCPConnector):
    """Makes connections that read answers by `AnswerProtocol`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no public way to set the protocol of its connections.
        self._factory: Any = partial(AnswerProtocol, loop=self._loop)

    async def ask(self, target: aiohttp.ClientRequest, request: bytes, timeout: aiohttp.ClientTimeout) -> Answer:
        """Send a request to where `target` leads, over a kept connection or a new one; return its answer.

        aiohttp's own way from a request to an answer costs more than all the rest of a delivery.
        """
        connection = await self.connect(target, [], timeout)
        try:
            answer = await cast("AnswerProtocol", connection.protocol).ask(request)
        except BaseException:
            connection.close()
            raise
        connection.release()
        return answer
