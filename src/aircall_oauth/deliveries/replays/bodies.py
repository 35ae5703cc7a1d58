"""The bodies of the replays' endpoints."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from aircall_oauth.access.parameters import Moment
from aircall_oauth.deliveries.bodies import Body, Installations, Owners, Position, Types
from aircall_oauth.deliveries.replays.jobs import Window
from aircall_oauth.events.query import Filter


class ReplayPast(Body):
    """Move the live reader: read again what lies past a position."""

    position: Position = Field(examples=[4711])


class ReplaySince(Body):
    """Move the live reader: read again what came in from a moment on."""

    since: Moment = Field(examples=["2026-01-01T00:00:00Z"])


class ReplayWindow(Body):
    """Deliver a window of the log once more, beside the live reader. Both ends must be given, by time or position."""

    since: Moment | None = Field(None, description="Events received then or later", examples=["2026-01-01T12:00:00Z"])
    until: Moment | None = Field(None, description="Events received before", examples=["2026-01-01T18:00:00Z"])
    from_: Position | None = Field(None, alias="from", description="Events from this position on", examples=[4001])
    to: Position | None = Field(None, description="Up to and including this position", examples=[4711])
    types: Types = Field(default_factory=list)
    owners: Owners = Field(default_factory=list)
    installations: Installations = Field(default_factory=list)
    everything: bool = Field(
        False, description="Must be true where neither `types`, `owners` nor `installations` limits the replay"
    )
    per_second: int = Field(50, ge=1, le=1000, description="At most so many deliveries a second")
    dry_run: bool = Field(False, description="Only count: nothing is started")

    @model_validator(mode="after")
    def _is_bounded(self) -> "ReplayWindow":
        if self.since is None and self.from_ is None:
            raise ValueError("needs a beginning: `since` (a time) or `from` (a position)")
        if self.until is None and self.to is None:
            raise ValueError("needs an end: `until` (a time) or `to` (a position)")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("`since` must be before `until`")
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise ValueError("`from` must not lie past `to`")
        limited = bool(self.types or self.owners or self.installations)
        if limited == self.everything:
            raise ValueError("needs either `types`, `owners` or `installations`, or `everything: true`")
        return self

    @property
    def window(self) -> Window:
        return Window(self.from_, self.to, self.since, self.until)

    @property
    def wanted(self) -> Filter:
        return Filter(self.types, self.owners, self.installations)


def _kind_of(body: Any) -> str:
    """Which of the three bodies it is; only a body of one field moves the live reader."""
    given = set(body) if isinstance(body, dict) else set()
    return "past" if given == {"position"} else "since" if given == {"since"} else "window"


NewReplay = Annotated[
    Annotated[ReplayPast, Tag("past")] | Annotated[ReplaySince, Tag("since")] | Annotated[ReplayWindow, Tag("window")],
    Discriminator(_kind_of),
]


class Resend(Body):
    subscription_id: Annotated[str, Field(pattern=r"^sub_[0-9a-f]{32}$")]
