"""The request bodies of the control API."""

from typing import Annotated, Any, Literal

import msgspec

from aircall_oauth.sandbox.aircall.faults import ALL_DOORS, How

Manner = Literal["at_once", "burst", "late_repeat", "out_of_order"]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Times = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class PlaceCall(msgspec.Struct, forbid_unknown_fields=True):
    company: int | None = None
    pause: Seconds = 0.0


class RecordCalls(msgspec.Struct, forbid_unknown_fields=True):
    """Record calls between two UNIX seconds, without sending events."""

    count: Annotated[int, msgspec.Meta(ge=1, le=50_000)]
    since: float
    until: float
    company: int | None = None


class TellEnd(msgspec.Struct, forbid_unknown_fields=True):
    """Send the end of a listed call, however late."""

    call_id: int
    company: int | None = None
    repeat: Times = 1


class SendEvent(msgspec.Struct, forbid_unknown_fields=True):
    """Send an event. `data` replaces the sample's; `repeat` sends the same body more than once.

    `manner`: a burst of different events, a repeat that comes late, or a pair of which the later one comes first.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.-]{1,100}$")]
    data: Any = None
    company: int | None = None
    repeat: Times = 1
    manner: Manner = "at_once"


class Uninstall(msgspec.Struct, forbid_unknown_fields=True):
    company: int | None = None
    keep_integration_id: bool = True


class GiveConsent(msgspec.Struct, forbid_unknown_fields=True):
    company: int | None = None
    challenge: str | None = None


class Break(msgspec.Struct, forbid_unknown_fields=True):
    how: How
    door: str = ALL_DOORS
    times: Times = 1
    seconds: Seconds | None = None
    size: Annotated[int, msgspec.Meta(ge=0, le=2**30)] = 50 * 1024 * 1024


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    rate_per_minute: Annotated[int, msgspec.Meta(ge=0)] | None = None
    attempt_pause: Seconds | None = None
    disable_after: Times | None = None
    webhook_timeout: Seconds | None = None
    hide_integration_id: bool | None = None
    same_token_again: bool | None = None
