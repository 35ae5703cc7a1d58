"""Every error that this service raises itself, in one tree.

    AppError
    ├── StartRefused                  the process does not start
    │   ├── SettingsInvalid
    │   ├── DatabaseUnfit · RoleRefused
    │   ├── KeysUnfit · KeyServiceFailed
    │   ├── PoolerRefused
    │   └── DirectElsewhere
    ├── OutputLost                    a command could not print its output
    ├── RotationUnderWay              only one runs at a time
    ├── SealError                     a sealed secret that does not open
    │   ├── SealBroken
    │   └── SealKeyMissing
    ├── AircallError                  a call to Aircall failed
    │   ├── AircallRefused            do not repeat
    │   └── AircallUnavailable        may be repeated
    │       └── AircallBusy           its own limit is reached
    ├── FlowError                     an ending of the install flow, shown as a page
    │   ├── ParametersInvalid · ReturnAddressRefused · PrefetchRefused
    │   ├── LinkInvalid · LinkExpired · LinkUsed
    │   ├── StateInvalid · StateExpired · WrongBrowser
    │   ├── Declined · CodeRefused · AppRefused · TokenMixedUp
    │   ├── AircallAway · FlowUnknown · TryAgainLater · TooManyFailedInstalls
    ├── ApiError                      a problem+json answer
    │   ├── Unauthenticated · ScopeMissing · OwnerNotAllowed
    │   ├── NotFound · InstallationNotFound · InstallAttemptNotFound · MethodNotAllowed
    │   ├── InstallationNotActive · CheckUnderWay · EventNotFound · EventErased · PositionGone · PositionUnknown
    │   ├── InvalidRequest · ErasureNotFound
    │   ├── SubscriptionNotFound · SubscriptionUnsigned · SubscriptionsFull · DestinationRefused · ExtraMissing
    │   ├── SubscriptionDiffers · IdempotencyKeyUsed
    │   ├── ClaimNotFound · ClaimOfAnother · InstallationHeld
    │   ├── TooManyRequests           repeat after `Retry-After`
    │   │   ├── TooManyTokenReads · TooManyStreams
    │   │   └── BudgetSpent
    │   ├── EventMalformed · WebhookTokenUnknown
    │   ├── PathRefused · PathNotAllowed · RedirectRefused
    │   └── BodyTooLarge · BodyTooSlow · EncodingRefused
    ├── ConsoleError                  a page of the console that is refused
    │   ├── SignInNeeded · SignInRefused · LinkSpent · TooManySignIns
    │   └── ReadOnly · PayloadsHidden · PayloadsNeeded · OtherHostRefused · CrossSiteRefused
    └── Unavailable                   nothing is lost; repeat it
        ├── DataKeyUnusable
        ├── DatabaseAway · InboxFull · IntakeFull
        ├── BackfillPutOff · ClocksDisagree
        └── NotReady · Leaving

A class's name is its stable `code`, its docstring the message that users read, its `status` the HTTP status.
No message carries a secret, a code, a token or a body.
"""

import re
from collections.abc import Sequence
from datetime import timedelta


class AppError(Exception):
    """Something went wrong."""

    status = 500

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or type(self).title()
        super().__init__(self.detail)

    @classmethod
    def code(cls) -> str:
        """Return the stable name that programs compare: `InstallationNotFound` is `installation_not_found`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def title(cls) -> str:
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0]

    @classmethod
    def every(cls) -> "list[type[AppError]]":
        """Return this class and every class below it in the tree."""
        return [cls, *(kind for child in cls.__subclasses__() for kind in child.every())]


class StartRefused(AppError):
    """The service cannot start."""

    status = 503


class SettingsInvalid(StartRefused):
    """The settings are not right."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("The settings are not right:\n" + "\n".join(f"  - {problem}" for problem in problems))


class DatabaseUnfit(StartRefused):
    """The database is not one that the service can work with."""

    def __init__(self, seen: str, advice: str) -> None:
        self.seen, self.advice = seen, advice
        super().__init__(f"The database cannot be used. {seen} {advice}")


class RoleRefused(StartRefused):
    """This role can't be given the service's rights."""


class KeysUnfit(StartRefused):
    """The configured keys cannot open what is stored."""


class KeyServiceFailed(StartRefused):
    """A key service did not wrap or unwrap a key."""

    def __init__(self, seen: str, advice: str) -> None:
        self.seen, self.advice = seen, advice
        super().__init__(f"{seen}. {advice}")

    def about(self, which: str) -> "KeyServiceFailed":
        """Return this error with the name of the key that it is about."""
        return KeyServiceFailed(f"{which[0].upper()}{which[1:]} can't be had: {self.seen}", self.advice)


DIRECT_URL = "AIRCALL_OAUTH_DATABASE_DIRECT_URL"


class PoolerRefused(StartRefused):
    """A session of our own is needed, and the way there is a pooler in transaction mode."""

    def __init__(self, setting: str) -> None:
        self.seen = (
            f"{setting} leads through a connection pooler in transaction mode, which lends each transaction another "
            "session"
        )
        past = "Lead it past the pooler, to PostgreSQL"
        if setting != DIRECT_URL:
            past = f"Name the way past it as {DIRECT_URL}"
        self.advice = f"{past}, or use a pool in session mode (PgBouncer: pool_mode=session)."
        super().__init__(f"{self.seen}. {self.advice}")


class DirectElsewhere(StartRefused):
    """The two URLs of the database lead to two databases."""

    def __init__(self) -> None:
        self.seen = f"{DIRECT_URL} leads to another database than AIRCALL_OAUTH_DATABASE_URL"
        self.advice = "It must be the same one, past the pooler."
        super().__init__(f"{self.seen}. {self.advice}")


class OutputLost(AppError):
    """The output could not be written."""


class RotationUnderWay(AppError):
    """A rotation is under way already."""

    status = 409


class SealError(AppError):
    """A sealed secret does not open."""


class SealBroken(SealError):
    """A sealed secret was altered, cut short, moved to another place, or sealed under another key."""


class SealKeyMissing(SealError):
    """A sealed secret needs a key that is not configured."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(f"A sealed secret needs the key with the id {key_id!r}, which is not configured.")


class AircallError(AppError):
    """A call to Aircall did not succeed."""

    status = 502


class AircallRefused(AircallError):
    """Aircall refused; asking the same again will not help."""

    def __init__(self, *, aircall_status: int, reason: str) -> None:
        self.aircall_status = aircall_status
        self.reason = reason
        super().__init__(f"Aircall answered {aircall_status}: {reason}")


class AircallUnavailable(AircallError):
    """Aircall could not be reached, or its answer could not be read."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"Aircall is unavailable: {reason}")


class AircallBusy(AircallUnavailable):
    """Aircall's own limit for this company is reached."""


class FlowError(AppError):
    """The install flow ended without an installation."""

    status = 400


class ParametersInvalid(FlowError):
    """The address that was opened is incomplete or damaged."""


class ReturnAddressRefused(FlowError):
    """The return address is not on this service's list."""


class PrefetchRefused(FlowError):
    """This page is not loaded ahead of a click."""


class LinkInvalid(FlowError):
    """The install link is damaged."""


class LinkExpired(FlowError):
    """The install link is older than thirty minutes."""


class LinkUsed(FlowError):
    """The install link was used before."""

    status = 409


class StateInvalid(FlowError):
    """This browser's installation could not be recognised."""


class StateExpired(FlowError):
    """The installation took longer than ten minutes."""


class WrongBrowser(FlowError):
    """The installation was started in another browser."""


class Declined(FlowError):
    """The connection was declined at Aircall."""

    status = 200


class CodeRefused(FlowError):
    """Aircall did not accept the authorization."""


class AppRefused(FlowError):
    """Aircall does not accept this app's own credentials."""

    status = 502


class TokenMixedUp(FlowError):
    """Aircall gave a token that belongs to another installation."""

    status = 502


class AircallAway(FlowError):
    """Aircall could not be reached."""

    status = 502


class FlowUnknown(FlowError):
    """It is not known whether the installation was finished."""

    status = 409


class TryAgainLater(FlowError):
    """This service cannot save an installation right now."""

    status = 503
    retry_after_seconds = 2


class TooManyFailedInstalls(FlowError):
    """Too many installations failed here within a minute; try again later."""

    status = 429

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__()


class ApiError(AppError):
    """The request cannot be served."""

    status = 400


class Unauthenticated(ApiError):
    """A valid API key is needed: `Authorization: Bearer <API key>`."""

    status = 401


class ScopeMissing(ApiError):
    """The API key does not have the scope that this endpoint needs."""

    status = 403


class OwnerNotAllowed(ApiError):
    """The API key is bound to another owner."""

    status = 403


class NotFound(ApiError):
    """There is nothing at this address."""

    status = 404


class InstallationNotFound(ApiError):
    """There is no such installation."""

    status = 404


class InstallAttemptNotFound(ApiError):
    """There is no such install attempt."""

    status = 404


class MethodNotAllowed(ApiError):
    """This address does not take that method."""

    status = 405


class InstallationNotActive(ApiError):
    """The installation is not active, so its token cannot be used."""

    status = 409


class CheckUnderWay(ApiError):
    """This installation is being checked already; try again in a minute."""

    status = 409


class ClaimNotFound(ApiError):
    """There is no such claim: it was never given, was used, or is older than an hour."""

    status = 404


class ClaimOfAnother(ApiError):
    """The installation was begun with another owner's install link."""

    status = 403


class InstallationHeld(ApiError):
    """The installation belongs to another owner."""

    status = 409


class EventNotFound(ApiError):
    """There is no such event."""

    status = 404


class EventErased(ApiError):
    """What this event held was erased."""

    status = 410


class ErasureNotFound(ApiError):
    """There is no such erasure."""

    status = 404


class PositionGone(ApiError):
    """Events past this position were already dropped."""

    status = 410

    def __init__(self, oldest: int) -> None:
        self.oldest = oldest
        super().__init__(f"Events past this position were already dropped; the oldest valid position is {oldest}.")


class PositionUnknown(ApiError):
    """The log was restored or failed over: it does not have the position that the reader has come to."""

    status = 409

    def __init__(self, *, resume_from: int, newest: int) -> None:
        self.resume_from, self.newest = resume_from, newest
        super().__init__(
            "The log was restored or failed over: it does not have the position that the reader has come to. Up to "
            f"{resume_from} it is the same: go on with after={resume_from} and without epoch; its newest position is "
            f"{newest}."
        )


class InvalidRequest(ApiError):
    """The request is not valid."""

    status = 422


class SubscriptionNotFound(ApiError):
    """There is no such subscription."""

    status = 404


class ReplayNotFound(ApiError):
    """There is no such replay of this subscription."""

    status = 404


class SubscriptionUnsigned(ApiError):
    """What goes to a broker is not signed, so there is no secret to rotate."""

    status = 409


class SubscriptionsFull(ApiError):
    """There are as many subscriptions as the settings allow."""

    status = 409

    def __init__(self, setting: str) -> None:
        super().__init__(f"There are as many subscriptions as AIRCALL_OAUTH_{setting} allows; delete one first.")


class SubscriptionDiffers(ApiError):
    """There is a subscription of this name that delivers otherwise."""

    status = 409

    def __init__(self, fields: Sequence[str] = ()) -> None:
        told = f" It differs in: {', '.join(fields)}." if fields else ""
        super().__init__(f"There is a subscription of this name that delivers otherwise.{told} Change it with PATCH.")


class IdempotencyKeyUsed(ApiError):
    """This Idempotency-Key was used for another request; make a new one for each subscription."""

    status = 422


class DestinationRefused(ApiError):
    """Deliveries may not go to this destination."""

    status = 422


class ExtraMissing(ApiError):
    """This kind of destination needs an extra that is not installed."""

    status = 422

    def __init__(self, extra: str) -> None:
        self.extra = extra
        super().__init__(f"This kind of destination needs an extra that is not installed: aircall-oauth[{extra}].")


class TooManyRequests(ApiError):
    """Too many requests; try again later."""

    status = 429

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__()


class TooManyTokenReads(TooManyRequests):
    """This API key has read too many raw tokens within a minute."""


class TooManyStreams(TooManyRequests):
    """This API key has too many streams open; close one first."""


class BudgetSpent(TooManyRequests):
    """This Aircall company's budget of requests is spent; try again later."""


class PathRefused(ApiError):
    """A path of the Aircall Public API is needed: plain segments, each percent-encoded once at most."""


class PathNotAllowed(ApiError):
    """The API key may not ask Aircall for this."""

    status = 403


class RedirectRefused(ApiError):
    """Aircall answered with a redirect, which is neither followed nor passed on."""

    status = 502


class EventMalformed(ApiError):
    """The body is not an Aircall event."""


class WebhookTokenUnknown(ApiError):
    """The event's token belongs to no webhook of this service."""

    status = 401


class BodyTooSlow(ApiError):
    """The body did not arrive in time."""

    status = 408


class BodyTooLarge(ApiError):
    """The body is larger than this endpoint takes."""

    status = 413


class EncodingRefused(ApiError):
    """The body must be sent without a content-encoding."""

    status = 415


class ConsoleError(AppError):
    """The console refuses this."""

    status = 403


class SignInNeeded(ConsoleError):
    """Sign in to the console first."""

    status = 401


class SignInRefused(ConsoleError):
    """This API key does not open the console."""


class LinkSpent(ConsoleError):
    """This sign-in link is used up, or older than a minute."""


class TooManySignIns(ConsoleError):
    """Too many sign-ins failed lately."""

    status = 429

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class ReadOnly(ConsoleError):
    """You may look here, but not act: that needs the scope console:act."""


class PayloadsHidden(ConsoleError):
    """Personal data are shown with the scope payloads:read only."""


class PayloadsNeeded(ConsoleError):
    """This can bring personal data out of the console: it needs the scope payloads:read too."""


class OtherHostRefused(ConsoleError):
    """This name is not the console's."""

    status = 421


class CrossSiteRefused(ConsoleError):
    """This was sent by a page that is not the console's."""


class Unavailable(AppError):
    """The service cannot do this right now; try again."""

    status = 503
    retry_after_seconds = 2


class TooManyAtOnce(Unavailable):
    """Too many requests wait for Aircall right now; try again."""


class DataKeyUnusable(Unavailable):
    """The key that a customer's events are encrypted under does not open, or an event does not open with it."""


class DatabaseAway(Unavailable):
    """The database cannot be reached right now; try again."""


class InboxFull(Unavailable):
    """More events are coming in than can be kept right now; send it again."""


class IntakeFull(Unavailable):
    """More is being sent in than can be held right now; send it again."""


class BackfillPutOff(Unavailable):
    """Aircall has to be waited for; the worker goes on with it."""


class ClocksDisagree(Unavailable):
    """The clocks of the database and of this process disagree."""

    def __init__(self, ahead: timedelta) -> None:
        seconds = round(ahead.total_seconds())
        super().__init__(
            f"The database's clock is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} this machine's: "
            "nothing is deleted for its age until they agree."
        )


class NotReady(Unavailable):
    """The service is not ready yet; try again."""


class Leaving(Unavailable):
    """The process is about to stop; another one takes over."""
