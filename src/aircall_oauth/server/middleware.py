"""What happens around every request: its id, its log line, the limit of its body, the answer to unexpected errors."""

import time
from collections.abc import Awaitable, Callable

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aircall_oauth.errors import AppError, BodyTooLarge
from aircall_oauth.server.outermost import ARRIVED, template
from aircall_oauth.telemetry import log

logger = log.get(__name__)

MAX_BODY_BYTES = 1024 * 1024


class RequestMiddleware:
    """Gives a request its id, bounds its body and logs it: with its path's template, never with its query string."""

    def __init__(self, app: ASGIApp, on_error: Callable[[Request, AppError], Awaitable[Response]]) -> None:
        self._app = app
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = log.request_id(dict(scope["headers"]).get(b"x-request-id"))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=scope["request_id"])
        started, status, received = scope.get(ARRIVED) or time.perf_counter(), 0, 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received <= MAX_BODY_BYTES:
                return message
            if status:
                # Too late to refuse it: the answer is under way, and the route only waits for its caller to leave.
                return {"type": "http.disconnect"}
            raise BodyTooLarge

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", scope["request_id"].encode()))
            await send(message)

        try:
            _refuse_large(scope)
            await self._app(scope, counting, noting)
        except BodyTooLarge as error:
            await (await self._on_error(Request(scope), error))(scope, receive, noting)
        except Exception:
            logger.exception("request failed")
            if not status:
                await (await self._on_error(Request(scope), AppError()))(scope, receive, noting)
        finally:
            path = template(scope)
            scope["app"].state.resources.metrics.requested(
                method=scope["method"], path=path, status=status, started=started
            )
            log.request(
                method=scope["method"],
                path=path,
                status=status,
                started=started,
                request_id=scope["request_id"],
                api_key_id=structlog.contextvars.get_contextvars().get("api_key_id"),
            )


def _refuse_large(scope: Scope) -> None:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise BodyTooLarge
