"""`/v1/installations/{id}/aircall/…`: the Aircall Public API for the partner's systems."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aircall_oauth.access.dependencies import AircallCaller, ResourcesDep, WhoDep
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import KeyedRoute
from aircall_oauth.aircall.asked import Asked
from aircall_oauth.errors import (
    AircallUnavailable,
    BodyTooLarge,
    BodyTooSlow,
    InstallationNotActive,
    InstallationNotFound,
    PathNotAllowed,
    PathRefused,
)
from aircall_oauth.proxy import forward, headers
from aircall_oauth.proxy.path import judged
from aircall_oauth.telemetry import log

if TYPE_CHECKING:
    from aircall_oauth.aircall.relay import Answer

logger = log.get(__name__)
# The query is Aircall's.
api = APIRouter(tags=["Aircall"], route_class=KeyedRoute)

PATH = "/v1/installations/{installation_id}/aircall/{path:path}"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
WITHOUT_STREAM = {"GET", "HEAD", "OPTIONS"}
MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 10.0


async def ask_aircall(
    request: Request,
    installation_id: Annotated[str, Path(pattern=r"^ins_[0-9a-f]{32}$")],
    path: Annotated[
        str,
        Path(
            min_length=1,
            examples=["calls"],
            description="A path of Aircall's, its slashes as they are or as `%2F`. It may begin with a version, as "
            "`v2/users` does; without one it is `v1`",
        ),
    ],
    key: AircallCaller,
    who: WhoDep,
    resources: ResourcesDep,
) -> Response:
    """Ask the Aircall Public API as this installation: the method, the path, the query and the body as they are.

    All versions of Aircall's API share the company's budget. What Aircall answers is passed on as it comes, its errors
    too. Errors of this service have a `code`.
    """
    asked = await _asked(request)
    return PassedOn(await forward.pass_on(resources, key, who, installation_id, asked))


class PassedOn(Response):
    """Aircall's answer, passed on as it arrives. Where it is cut short, the caller's connection is closed too."""

    def __init__(self, answer: "Answer") -> None:
        self._answer = answer
        self.status_code = answer.status
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def take(chunk: bytes) -> None:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        async with self._answer as answer:
            passed = headers.to_caller(answer.status, answer.headers.raw)
            await send({"type": "http.response.start", "status": answer.status, "headers": passed})
            try:
                await answer.pour(take)
            except AircallUnavailable as error:
                logger.warning("answer cut short", reason=error.reason)
                return
            await send({"type": "http.response.body", "body": b""})


async def _asked(request: Request) -> Asked:
    path, query = judged(_path(request), request.scope["query_string"])
    passed = headers.to_aircall(request.scope["headers"])
    sent = request.headers
    if "transfer-encoding" not in sent and sent.get("content-length", "0") == "0":
        return Asked(request.method, path, query, passed)
    if request.method in WITHOUT_STREAM:
        # Read whole, so that it can be sent once more.
        body = b"".join([chunk async for chunk in _body(request)])
        passed = [*(one for one in passed if one[0] != b"content-length"), (b"content-length", b"%d" % len(body))]
        return Asked(request.method, path, query, passed, body)
    if "content-length" not in sent:
        passed.append((b"transfer-encoding", b"chunked"))
    return Asked(request.method, path, query, passed, _body(request))


def _path(request: Request) -> bytes:
    """Return Aircall's path as the request line has it, undecoded; empty where our own part of the path is encoded."""
    raw: bytes = request.scope["raw_path"]
    prefix = PATH.partition("{path:path}")[0].format(**request.path_params).encode()
    return raw.removeprefix(prefix) if raw.startswith(prefix) else b""


async def _body(request: Request) -> AsyncIterator[bytes]:
    """Yield the caller's body, bounded in size and time."""
    received, ends_at = 0, asyncio.get_running_loop().time() + BODY_SECONDS
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(ends_at):
                chunk = await anext(chunks, None)
        except (TimeoutError, ClientDisconnect):
            raise BodyTooSlow from None
        if chunk is None:
            return
        received += len(chunk)
        if received > MAX_BODY_BYTES:
            raise BodyTooLarge
        yield chunk


ANYTHING: dict[str, Any] = {"application/json": {"schema": {}}}
PASSED_ON = {"description": "What Aircall answers, whatever it is", "content": ANYTHING}
EMPTY = {"description": "Aircall's answer, which has no body"}
WITH_BODY = {"POST", "PUT", "PATCH"}


def _answers() -> dict[int | str, dict[str, Any]]:
    """Return the documented answers: Aircall uses the same statuses, but only ours are `application/problem+json`."""
    ours = problems(
        PathRefused(),
        401,
        PathNotAllowed(),
        InstallationNotFound(),
        408,
        InstallationNotActive(),
        413,
        422,
        429,
        502,
        503,
    )
    for refusal in ours.values():
        refusal["description"] += "; or what Aircall answers"
        refusal["content"] = refusal["content"] | ANYTHING
    return {200: PASSED_ON, 201: PASSED_ON, 204: EMPTY, "default": PASSED_ON, **ours}


for _method in METHODS:
    api.add_api_route(
        PATH,
        ask_aircall,
        methods=[_method],
        name=f"ask_aircall_{_method.lower()}",
        summary=f"Ask Aircall ({_method})",
        response_class=Response,
        responses=_answers(),
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": {}}}}}
        if _method in WITH_BODY
        else None,
    )
