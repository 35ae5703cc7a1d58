"""What goes wrong, by the service's stable `code`.

ClientError
├── ServiceError                    the service refused; `code` says why
│   ├── Unauthenticated · ScopeMissing · OwnerNotAllowed
│   ├── NotFound                    nothing by that name, or not for this API key
│   ├── InvalidRequest              what was sent is not valid; `detail` says what and where
│   ├── ClaimNotFound · ClaimOfAnother · InstallationHeld
│   ├── SubscriptionDiffers         there is one of this name that delivers otherwise
│   ├── InstallationNotActive       its customer must connect again
│   ├── PositionGone                `oldest` is the oldest valid position
│   ├── PositionUnknown             the log was restored: go on at `resume_from`
│   ├── TooManyRequests             wait `retry_after` seconds
│   └── Unavailable                 nothing is lost; try again
├── AircallError                    Aircall itself answered with an error; `status` and `data` are Aircall's
├── ConnectionLost                  no answer: whether the request arrived is not known
├── HandlerFailed                   a function of yours raised; its error is the cause
└── SignatureInvalid                a delivery that is not the service's
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The base of every error of this package."""


class ServiceError(ClientError):
    """The service refused. Branch on `code`, or on the class; `detail` is for people."""

    advice = ""

    def __init__(self, problem: Mapping[str, Any], *, retry_after: float | None = None) -> None:
        self.code: str = str(problem.get("code", "unknown"))
        self.status: int = int(problem.get("status", 0))
        self.detail: str = str(problem.get("detail", ""))
        self.request_id: str | None = problem.get("request_id")
        self.retry_after = retry_after
        advice = f" {self.advice}" if self.advice else ""
        super().__init__(f"{self.code}: {self.detail}{advice} (request {self.request_id})")


class Unauthenticated(ServiceError):
    """The API key is not known, revoked or expired."""

    advice = "This one is unknown, revoked or expired; `aircall-oauth keys list` shows those that are good."


class ScopeMissing(ServiceError):
    """The API key lacks the scope that this needs."""

    advice = "`aircall-oauth keys create --scopes …` makes one that has it."


class OwnerNotAllowed(ServiceError):
    """The API key is bound to another owner."""


class NotFound(ServiceError):
    """There is no such thing, or not for this API key."""


class InvalidRequest(ServiceError):
    """What was sent is not valid."""


class ClaimNotFound(NotFound):
    """The claim was never given, was used by another owner, or is older than an hour."""


class ClaimOfAnother(ServiceError):
    """The link that the claim came from was another owner's."""


class InstallationHeld(ServiceError):
    """The installation belongs to another owner."""


class InstallationNotActive(ServiceError):
    """The installation cannot be asked as: its customer must connect again."""


class SubscriptionDiffers(ServiceError):
    """There is a subscription of this name that delivers otherwise."""


class PositionGone(ServiceError):
    """Events past the position were dropped already."""

    def __init__(self, problem: Mapping[str, Any], *, retry_after: float | None = None) -> None:
        super().__init__(problem, retry_after=retry_after)
        self.oldest: int = int(problem["oldest"])


class PositionUnknown(ServiceError):
    """The log was restored and lacks what was read. From `resume_from` on nothing is missed."""

    def __init__(self, problem: Mapping[str, Any], *, retry_after: float | None = None) -> None:
        super().__init__(problem, retry_after=retry_after)
        self.resume_from: int = int(problem["resume_from"])
        self.newest: int = int(problem["newest"])


class TooManyRequests(ServiceError):
    """Wait `retry_after` seconds."""


class Unavailable(ServiceError):
    """Nothing is lost; try again."""


class AircallError(ClientError):
    """Aircall itself answered with an error."""

    def __init__(self, status: int, data: Any, *, retry_after: float | None = None) -> None:
        self.status, self.data, self.retry_after = status, data, retry_after
        super().__init__(f"Aircall answered {status}")


class ConnectionLost(ClientError):
    """There was no answer: whether the request arrived is not known."""


class HandlerFailed(ClientError):
    """A function of yours raised while it dealt with an event; what it raised is the cause.

    A framework answers some errors otherwise than with 500, by a status or a handler for their class. The service would
    take that for your receiver's own answer: a 410 switches the subscription off.
    """


class SignatureInvalid(ClientError):
    """The request is not a delivery of the service, or too old."""


BY_CODE: dict[str, type[ServiceError]] = {
    "unauthenticated": Unauthenticated,
    "scope_missing": ScopeMissing,
    "owner_not_allowed": OwnerNotAllowed,
    "claim_not_found": ClaimNotFound,
    "claim_of_another": ClaimOfAnother,
    "installation_held": InstallationHeld,
    "installation_not_active": InstallationNotActive,
    "subscription_differs": SubscriptionDiffers,
    "position_gone": PositionGone,
    "position_unknown": PositionUnknown,
}
BY_STATUS: dict[int, type[ServiceError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    404: NotFound,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
}


def service_error(problem: Mapping[str, Any], *, retry_after: float | None = None) -> ServiceError:
    """Return the error for a problem of the service; one whose code is not known yet goes by its status."""
    known = BY_CODE.get(str(problem.get("code"))) or BY_STATUS.get(int(problem.get("status", 0)), ServiceError)
    return known(problem, retry_after=retry_after)
