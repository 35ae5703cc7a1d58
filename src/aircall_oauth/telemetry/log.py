"""Log lines: one JSON object each, on stderr, with no secret in them."""

import asyncio
import itertools
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Iterable, MutableMapping
from datetime import UTC, datetime
from io import StringIO
from typing import Any, TextIO

from pydantic import SecretStr

from aircall_oauth.imports import hidden
from aircall_oauth.telemetry.answered import Answered
from aircall_oauth.telemetry.text import readable

# It would import them for tracebacks in colours, which are not printed here.
with hidden("rich"):
    import structlog

OURS = "aircall_oauth"
# Below this level, libraries log addresses, headers and the parameters of statements.
LIBRARIES_LEVEL = logging.WARNING
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PROCESS = secrets.token_hex(8)
_counted = itertools.count(1)
SECRET_NAMES = {
    "access_token",
    "api_key",
    "authorization",
    "client_secret",
    "code",
    "cookie",
    "password",
    "secret",
    "state",
    "token",
}


_requests = logging.getLogger(f"{OURS}.edge")
_lines: TextIO | None = None  # where JSON lines go
_held: list[str] = []


def configure(level: str, format_: str) -> None:
    """Send our log lines and the libraries' warnings to stderr, all in one format."""
    global _lines  # noqa: PLW0603 - as global as the logging it configures
    _lines = sys.stderr if format_ == "json" else None
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if format_ == "json"
        else [
            _make_readable,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback),
        ]
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(LIBRARIES_LEVEL)
    logging.getLogger(OURS).setLevel(level.upper())


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of one of our modules."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def redact(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide values under a secret's name, and each `SecretStr`: the last guard before a line is written."""
    for name, value in line.items():
        if name.lower() in SECRET_NAMES or isinstance(value, SecretStr):
            line[name] = "(hidden)"
    return line


def _make_readable(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in line.items():
        if isinstance(value, str):
            line[name] = readable(value)
    return line


def _plain_traceback(sio: TextIO, exc_info: Any) -> None:
    written = StringIO()
    structlog.dev.plain_traceback(written, exc_info)
    sio.write("\n".join(map(readable, written.getvalue().split("\n"))))


def request(
    *, method: str, path: str, status: int, started: float, request_id: str, api_key_id: str | None = None
) -> None:
    """Log a request in one line. `path` is the template, never the path asked for; `started` is a `perf_counter` time.

    The line is put together by hand, because for an event the usual way would cost as much as storing the event. Lines
    of one turn of the event loop are written together: each write is a system call.
    """
    seconds = time.perf_counter() - started
    if not _requests.isEnabledFor(logging.INFO):
        return
    if _lines is not None:
        key = f'"api_key_id": "{api_key_id}", ' if api_key_id else ""
        if not _held:
            asyncio.get_running_loop().call_soon(_write_held)
        _held.append(_line(_begun(method, path), status, seconds, request_id, _ended(), key))
    else:
        also = {"api_key_id": api_key_id} if api_key_id else {}
        _log_usually(method, path, status, seconds, request_id, **also)


def requests(method: str, path: str, answered: Iterable[Answered]) -> None:
    """Log requests of one kind that were answered just now, in a line each."""
    if not _requests.isEnabledFor(logging.INFO):
        return
    if _lines is not None:
        begun, ended = _begun(method, path), _ended()
        _lines.write("".join([_line(begun, status, s, id_, ended) for status, _, s, id_ in answered]))
    else:
        for status, _, seconds, id_ in answered:
            _log_usually(method, path, status, seconds, id_)


def _begun(method: str, path: str) -> str:
    return f'{{"method": {json.dumps(method)}, "path": "{path}", "status": '


def _ended() -> str:
    at = datetime.now(UTC).isoformat()[:-6]
    return f'", "level": "info", "logger": "{_requests.name}", "timestamp": "{at}Z"}}\n'


def _line(begun: str, status: int, seconds: float, request_id: str, ended: str, key: str = "") -> str:
    return f'{begun}{status}, "ms": {seconds * 1000:.1f}, "event": "request", {key}"request_id": "{request_id}{ended}'


def _log_usually(method: str, path: str, status: int, seconds: float, request_id: str, **also: str) -> None:
    milliseconds = round(seconds * 1000, 1)
    get(_requests.name).info(
        "request", method=method, path=path, status=status, ms=milliseconds, request_id=request_id, **also
    )


def _write_held() -> None:
    if _lines is not None:
        _lines.write("".join(_held))
    _held.clear()


def request_id(given: bytes | None) -> str:
    """Return a request's id: the caller's own where it is a plain word, so that all systems log the same one."""
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"req_{_PROCESS}{next(_counted):016x}"
