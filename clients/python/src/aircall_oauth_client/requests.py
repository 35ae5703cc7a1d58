"""What the clients send and how they read an answer, without a network: shared by both."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from aircall_oauth_client import errors

PROBLEM = "application/problem+json"
# Of these the service says that the request was not passed on, or may be sent once more.
NOT_SENT_ON = {"budget_spent", "too_many_at_once", "intake_full", "not_ready", "leaving"}
AGAIN = {429, 502, 503, 504}
LONGEST_PAUSE_SECONDS = 30.0

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One request. `repeatable`: sending it twice does what sending it once does."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    repeatable: bool = False
    of_aircall: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def get(path: str, **params: Any) -> Request:
    return Request("GET", path, known(params), repeatable=True)


def post(path: str, body: Any = None, *, repeatable: bool = False) -> Request:
    return Request("POST", path, body=body, repeatable=repeatable)


def known(params: Params) -> dict[str, Any]:
    """Return the parameters that were given, as a query takes them."""
    given = {name: value for name, value in params.items() if value is not None and value != []}
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in given.items()}


def to_aircall(installation_id: str, method: str, path: str, params: Params, body: Any) -> Request:
    """Return a request that the service passes on to Aircall."""
    plain = "/".join(quote(segment, safe="~!$&'()*+,;=:@") for segment in path.strip("/").split("/"))
    door = f"/v1/installations/{quote(installation_id, safe='')}/aircall/{plain}"
    return Request(method, door, known(params), body, repeatable=method in {"GET", "HEAD"}, of_aircall=True)


def require(base_url: str, api_key: str) -> None:
    """Raise `ValueError` for no address or no key, such as those of a variable that is not set."""
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("The first argument is the service's address, such as https://aircall.example.com")
    if not api_key:
        raise ValueError("The second argument is an API key (aok_…); `aircall-oauth keys create` makes one")


def no_answer(request: Request, error: httpx.TransportError) -> str:
    """Say that a request had no answer, and what to look at."""
    asked = f"{request.method} {request.path} had no answer ({type(error).__name__})."
    try:
        url = error.request.url
    except RuntimeError:
        return asked
    return f"{asked} Is {url.scheme}://{url.netloc.decode()} the service's address, and is it running?"


def answer_of(request: Request, response: httpx.Response) -> Any:
    """Return the JSON of an answer, or None; raises the error that it is."""
    if response.status_code >= 400:
        raise error_of(request, response)
    if not response.content or response.status_code == 204:
        return None
    media_type = response.headers.get("content-type", "")
    return response.json() if "json" in media_type else response.text


def error_of(request: Request, response: httpx.Response) -> errors.ClientError:
    """Return the error of an answer: the service's own have a `code`, the rest are Aircall's."""
    pause = retry_after(response)
    data = _data(response)
    if response.headers.get("content-type", "").startswith(PROBLEM) and isinstance(data, dict) and "code" in data:
        return errors.service_error(data, retry_after=pause)
    if request.of_aircall:
        return errors.AircallError(response.status_code, data, retry_after=pause)
    unknown = {"code": "unknown", "status": response.status_code, "detail": f"answered {response.status_code}"}
    return errors.service_error(unknown, retry_after=pause)


def _data(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        return response.text


def retry_after(response: httpx.Response) -> float | None:
    said = response.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 7 else None


def pause_before_again(request: Request, error: Exception, attempt: int) -> float | None:
    """Return the seconds to wait before the request is sent again; None where it must not be."""
    backing_off = min(LONGEST_PAUSE_SECONDS, 0.25 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 - spreads the load
    if isinstance(error, errors.ConnectionLost):
        return backing_off if request.repeatable else None
    if isinstance(error, errors.AircallError):
        may = error.status == 429 or (request.repeatable and error.status in AGAIN)
        return (error.retry_after or backing_off) if may else None
    if isinstance(error, errors.ServiceError):
        refused = error.status == 429 or error.code in NOT_SENT_ON
        may = refused or (request.repeatable and error.status in AGAIN)
        return (error.retry_after or backing_off) if may else None
    return None


def next_page(data: Any, params: Params) -> dict[str, Any] | None:
    """Return the query of the next page of a list of Aircall's; None at its end."""
    link = data.get("meta", {}).get("next_page_link") if isinstance(data, dict) else None
    query = dict(parse_qsl(urlsplit(link).query)) if isinstance(link, str) else {}
    return {**params, **query} if query else None


def items_of(data: Any) -> list[Any]:
    """Return the items of a list of Aircall's: `{"meta": …, "calls": […]}`."""
    lists = [value for value in data.values() if isinstance(value, list)] if isinstance(data, dict) else []
    if len(lists) != 1:
        raise TypeError("This answer of Aircall's is not a list; use its `data`")
    items: list[Any] = lists[0]
    return items


def path_of(*segments: str) -> str:
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
