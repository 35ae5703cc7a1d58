"""How Aircall refuses a request: one exception that carries the answer, and the two shapes of its body.

Aircall's gateway answers `{"message": …}`, its application `{"error": …, "troubleshoot": …}`.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from aircall_oauth.sandbox.aircall import samples


class RefusedError(Exception):
    """An answer of 4xx or 5xx, ready to be sent."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def no_authorization() -> RefusedError:
    """The request has no Authorization header."""
    return _edge(401, "rest.error.401-edge")


def bad_token() -> RefusedError:
    """The token is unknown or dead. It never means a missing permission: Aircall has none."""
    return _edge(403, "rest.error.403-edge")


def no_ai_plan() -> RefusedError:
    """The company lacks the plan that a path needs; its token is well. The body's words are invented."""
    return RefusedError(403, {"error": "Forbidden", "troubleshoot": "This needs the Aircall AI package"})


def no_such_path() -> RefusedError:
    return _edge(404, "rest.error.404-edge")


def no_such_thing(what: str) -> RefusedError:
    """The path is known, the id in it is not."""
    return RefusedError(404, {"error": "Not Found", "troubleshoot": f"{what} not found"})


def bad_request(why: str) -> RefusedError:
    return RefusedError(400, {"error": "Bad Request", "troubleshoot": why})


def invalid_client() -> RefusedError:
    return RefusedError(401, samples.read("rest.oauth-token.401-invalid-client.inferred"))


def invalid_grant() -> RefusedError:
    return RefusedError(400, samples.read("rest.oauth-token.400-invalid-grant.inferred"))


def unsupported_grant_type() -> RefusedError:
    return RefusedError(400, {"error": "unsupported_grant_type"})


def too_many_requests(limit: int, reset_at: int) -> RefusedError:
    """The company's minute is used up. `reset_at` is UNIX seconds; no Retry-After is documented."""
    counts = {"limit": limit, "remaining": 0, "reset": reset_at}
    headers = {f"x-aircallapi-{name}": str(count) for name, count in counts.items()}
    return RefusedError(429, samples.read("rest.error.429")["body"], headers)


def server_error() -> RefusedError:
    return RefusedError(500, {"error": "Internal Server Error", "troubleshoot": "Something went wrong on our side"})


def _edge(status: int, sample: str) -> RefusedError:
    trace = {"apigw-requestid": secrets.token_urlsafe(11), "x-amz-cf-id": secrets.token_urlsafe(42)}
    return RefusedError(status, samples.read(sample), trace)
