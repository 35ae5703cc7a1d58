"""The client of aircall-oauth: connect customers to Aircall, ask Aircall as them, and take their events."""

from aircall_oauth_client._async.aircall import AsyncAircall, AsyncAnswer
from aircall_oauth_client._async.client import AsyncClient
from aircall_oauth_client._async.connecting import way_home as way_home_async
from aircall_oauth_client._sync.aircall import Aircall, Answer
from aircall_oauth_client._sync.client import Client
from aircall_oauth_client._sync.connecting import way_home
from aircall_oauth_client.errors import (
    AircallError,
    ClaimNotFound,
    ClaimOfAnother,
    ClientError,
    ConnectionLost,
    HandlerFailed,
    InstallationHeld,
    InstallationNotActive,
    InvalidRequest,
    NotFound,
    OwnerNotAllowed,
    PositionGone,
    PositionUnknown,
    ScopeMissing,
    ServiceError,
    SignatureInvalid,
    SubscriptionDiffers,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from aircall_oauth_client.home import Home
from aircall_oauth_client.inbox import Inbox, Seen, SqlSeen, sqlite_seen
from aircall_oauth_client.models import Event, Installation, InstallLink, Subscription
from aircall_oauth_client.signatures import verify

__all__ = [
    "Aircall",
    "AircallError",
    "Answer",
    "AsyncAircall",
    "AsyncAnswer",
    "AsyncClient",
    "ClaimNotFound",
    "ClaimOfAnother",
    "Client",
    "ClientError",
    "ConnectionLost",
    "Event",
    "HandlerFailed",
    "Home",
    "Inbox",
    "InstallLink",
    "Installation",
    "InstallationHeld",
    "InstallationNotActive",
    "InvalidRequest",
    "NotFound",
    "OwnerNotAllowed",
    "PositionGone",
    "PositionUnknown",
    "ScopeMissing",
    "Seen",
    "ServiceError",
    "SignatureInvalid",
    "SqlSeen",
    "Subscription",
    "SubscriptionDiffers",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "sqlite_seen",
    "verify",
    "way_home",
    "way_home_async",
]
