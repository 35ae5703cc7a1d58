"""What the routes share: reading a JSON body, refusing, paging through a list."""

import json
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aircall_oauth.sandbox.aircall import refusals
from aircall_oauth.sandbox.aircall.refusals import RefusedError

PER_PAGE = 20
MOST_PER_PAGE = 50


def refused(refusal: RefusedError) -> Response:
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def require_json(request: Request) -> None:
    """Require `Content-Type: application/json` on POST, PUT and DELETE, with or without a body, as Aircall does."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method in ("POST", "PUT", "DELETE") and media_type != "application/json":
        raise refusals.bad_request("Content-Type must be application/json")


async def json_object(request: Request) -> dict[str, Any]:
    """Read the body, which must be a JSON object; raises `RefusedError` (400)."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise refusals.bad_request("Invalid JSON") from None
    if not isinstance(body, dict):
        raise refusals.bad_request("Invalid JSON")
    return body


def page(
    request: Request, base_url: str, name: str, rows: list[dict[str, Any]], *, bound: int | None = None
) -> Response:
    """Answer with one page of the rows under `name`, and with `meta`.

    A page past the bound is refused (`RefusedError`, 400), although the one before links to it.
    """
    number = max(1, whole_number(request, "page", 1))
    size = min(MOST_PER_PAGE, max(1, whole_number(request, "per_page", PER_PAGE)))
    if bound is not None and number * size > bound:
        raise refusals.bad_request(f"no more than {bound} {name} are listed")
    shown = rows[(number - 1) * size : number * size]
    meta = {
        "count": len(shown),
        "total": len(rows),
        "current_page": number,
        "per_page": size,
        "next_page_link": _link(request, base_url, number + 1, size) if number * size < len(rows) else None,
        "previous_page_link": _link(request, base_url, number - 1, size) if number > 1 else None,
    }
    return JSONResponse({"meta": meta, name: shown})


def whole_number(request: Request, name: str, default: int) -> int:
    """Read a query parameter that must be digits; raises `RefusedError` (400)."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise refusals.bad_request(f"{name} must be an integer")
    return int(text)


def in_order(request: Request, rows: list[Any]) -> list[Any]:
    """Sort rows as `order` asks: oldest first (`asc`, the default) or newest first (`desc`)."""
    match request.query_params.get("order", "asc"):
        case "asc":
            return rows
        case "desc":
            return rows[::-1]
        case _:
            raise refusals.bad_request("order must be asc or desc")


def _link(request: Request, base_url: str, number: int, size: int) -> str:
    query = {**request.query_params, "page": number, "per_page": size}
    return f"{base_url}{request.url.path}?{urlencode(query)}"
