"""Problem details: errors as the API answers them, `application/problem+json` (RFC 9457)."""

from typing import Any

from pydantic import BaseModel, Field

from aircall_oauth.errors import (
    AircallUnavailable,
    AppError,
    BodyTooLarge,
    BodyTooSlow,
    ConsoleError,
    DatabaseAway,
    EncodingRefused,
    EventMalformed,
    FlowError,
    InvalidRequest,
    NotFound,
    PositionGone,
    PositionUnknown,
    ScopeMissing,
    StartRefused,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:aircall-oauth:problem:"

MEANINGS = {
    400: "The request is malformed",
    401: "A valid API key, or a known webhook token, is needed",
    403: "The API key lacks the scope, or is for another owner",
    404: "There is no such thing, or this API key may not see it",
    405: "This address does not take that method",
    408: "The body did not arrive in time",
    409: "Not possible in the present status",
    410: "The position is older than what is kept; `oldest` is the oldest valid one",
    413: "The body is too large",
    415: "The body must have no content-encoding",
    422: "A parameter is not valid",
    429: "Too many requests; try again after `Retry-After` seconds",
    502: "Aircall could not be reached, or its answer could not be passed on",
    503: "Try again after `Retry-After` seconds",
}
EXAMPLE_REQUEST_ID = "req_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"
# The error that documents a status, unless an endpoint names one of its own.
EXAMPLES: dict[int, AppError] = {
    error.status: error
    for error in (
        EventMalformed(),
        Unauthenticated(),
        ScopeMissing(),
        NotFound(),
        BodyTooSlow(),
        PositionGone(4000),
        BodyTooLarge(),
        EncodingRefused(),
        InvalidRequest("query.limit: must be 1000 or less"),
        TooManyRequests(13),
        AircallUnavailable("timeout"),
        DatabaseAway(),
    )
}


# A page of the install flow or the console has none, and a process that does not start answers nothing.
CODES = {
    kind.code()
    for kind in AppError.every()
    if not issubclass(kind, ConsoleError | FlowError | StartRefused) and kind.__module__ == AppError.__module__
}


class Problem(BaseModel):
    """What went wrong. Branch on `code`; `detail` is for people."""

    type: str = Field(examples=[f"{TYPE_PREFIX}installation_not_found"])
    title: str = Field(examples=["There is no such installation."])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no such installation."])
    code: str = Field(
        description="Stable; more may be added",
        examples=["installation_not_found"],
        json_schema_extra={"enum": [*sorted(CODES)]},
    )
    request_id: str | None = Field(examples=[EXAMPLE_REQUEST_ID])
    oldest: int | None = Field(None, description="With `position_gone`: the oldest valid position", examples=[4000])
    resume_from: int | None = Field(
        None, description="With `position_unknown`: the `after` from which nothing is missed", examples=[4711]
    )
    newest: int | None = Field(None, description="With `position_unknown`: the log's newest position", examples=[4800])


def problem(error: AppError, request_id: str | None) -> dict[str, Any]:
    """Return the body for an error."""
    return Problem(
        type=TYPE_PREFIX + error.code(),
        title=error.title(),
        status=error.status,
        detail=error.detail,
        code=error.code(),
        request_id=request_id,
    ).model_dump(exclude={"oldest", "resume_from", "newest"}) | _more(error)


def _more(error: AppError) -> dict[str, Any]:
    match error:
        case PositionGone():
            return {"oldest": error.oldest}
        case PositionUnknown():
            return {"resume_from": error.resume_from, "newest": error.newest}
        case _:
            return {}


def headers(error: AppError) -> dict[str, str]:
    """Return the headers of an error's answer."""
    known = {"cache-control": "no-store"}
    if isinstance(error, Unavailable | TooManyRequests):
        known["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, BodyTooSlow):
        # The rest of the body is not read.
        known["connection"] = "close"
    if error.status == 401:
        known["www-authenticate"] = "Bearer"
    return known


def problems(*refusals: int | AppError) -> dict[int | str, dict[str, Any]]:
    """Document an endpoint's errors: each by its status, or by an error that serves as the example."""
    errors = [EXAMPLES[refusal] if isinstance(refusal, int) else refusal for refusal in refusals]
    return {error.status: {"description": MEANINGS[error.status], "content": _content(error)} for error in errors}


def _content(error: AppError) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {MEDIA_TYPE: {"schema": schema, "example": problem(error, EXAMPLE_REQUEST_ID)}}
