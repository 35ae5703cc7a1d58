"""The bodies of the subscriptions' doors, beside the views: what is sent, and what a change answers."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model

from aircall_oauth.deliveries.destinations import brokers
from aircall_oauth.deliveries.destinations.brokers import BrokerKind
from aircall_oauth.deliveries.filters import FilterWarning
from aircall_oauth.deliveries.of_event import DeliveryStatus
from aircall_oauth.deliveries.views import SubscriptionView
from aircall_oauth.events.routes import EventView
from aircall_oauth.storage.statuses import SubscriptionKind, SubscriptionOrder

LAST_POSITION = 2**63 - 1

# PostgreSQL has no text with a NUL in it.
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$", examples=["crm"])]
Url = Annotated[
    str, Field(min_length=1, max_length=2048, pattern=r"^[!-~]*$", examples=["https://crm.example.com/aircall"])
]
Types = Annotated[
    list[Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]],
    Field(
        max_length=100, description="Event types; `call.*` is all that begin so; empty is all", examples=[["call.*"]]
    ),
]
Owners = Annotated[
    list[Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]],
    Field(max_length=1000, description="Only events of installations that belong to these; empty is all"),
]
Installations = Annotated[
    list[Annotated[str, Field(pattern=r"^ins_[0-9a-f]{32}$")]],
    Field(max_length=1000, description="Only events of these; empty is all"),
]
Position = Annotated[int, Field(ge=0, le=LAST_POSITION, strict=True)]
Order = Annotated[
    SubscriptionOrder,
    Field(
        description="Which events arrive one after the other, none past an earlier one that failed and is still tried: "
        "those about the same call, user, contact, number, message or installation (`subject`), all of an "
        "installation (`installation`), or no two (`none`)"
    ),
]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NewBody(Body):
    name: Name
    url: Url
    types: Types = []
    owners: Owners = []
    installations: Installations = []
    order: Order = SubscriptionOrder.SUBJECT
    start: Annotated[Literal["now", "beginning"] | Position, Field(alias="from")] = "now"
    ensure: Annotated[
        bool,
        Field(
            description="Make none if there is one of this name for the same owners: that one is answered, without its "
            "secret. One that delivers otherwise is a 409"
        ),
    ] = False


class NewHttp(NewBody):
    kind: Literal[SubscriptionKind.HTTP]


def _new_broker(broker: BrokerKind) -> type[NewBody]:
    fields: dict[str, Any] = {
        "kind": (Literal[broker.kind], ...),
        "url": (Url, Field(examples=[broker.example_url])),
        **broker.target,
    }
    return create_model(f"New{broker.kind.capitalize()}", __base__=NewBody, __module__=__name__, **fields)


if TYPE_CHECKING:
    NewSubscription = NewBody
else:
    NewSubscription = Annotated[
        Union[NewHttp, *map(_new_broker, brokers.KINDS.values())],
        Field(discriminator="kind"),
    ]


class SubscriptionChange(Body):
    """What is left out stays as it is."""

    # No field has a default in the OpenAPI document: a generated client would send it.
    name: Name = Field(default_factory=str)
    url: Url = Field(default_factory=str)
    types: Types = Field(default_factory=list)
    owners: Owners = Field(default_factory=list)
    installations: Installations = Field(default_factory=list)
    order: Order = Field(default_factory=lambda: SubscriptionOrder.SUBJECT)

    @property
    def fields(self) -> dict[str, Any]:
        """Return what is to be changed, as the subscription calls it."""
        given = self.model_dump(exclude_unset=True)
        return {"ordering" if name == "order" else name: value for name, value in given.items()}


class SubscriptionSaved(SubscriptionView):
    warnings: list[FilterWarning] = Field(
        description="Of each of its `types` that no known event type matches, and none of the newest 10,000 events'"
    )


class SubscriptionCreated(SubscriptionSaved):
    secret: str | None = Field(
        description="Signs every delivery; shown this once, and to a repeat with the same `Idempotency-Key`. Null for "
        "a broker, and for one that `ensure` found",
        examples=["whsec_MfKQ9r8GKYqrTwjU…"],
    )


class Rotation(Body):
    now: bool = Field(False, description="End the old secret at once, instead of after 24 hours")


class SecretView(BaseModel):
    secret: str = Field(description="Shown this once", examples=["whsec_MfKQ9r8GKYqrTwjU…"])


class TestResult(BaseModel):
    __test__ = False

    delivered: bool
    outcome: str = Field(examples=["delivered"])
    milliseconds: int = Field(examples=[23])


class DeadRetry(Body):
    event_ids: Annotated[list[Annotated[str, Field(pattern=r"^evt_[0-9a-f]{32}$")]], Field(max_length=1000)] | None = (
        Field(None, description="Left out: all of them")
    )


class DeadRetried(BaseModel):
    retried: int = Field(description="So many were put back", examples=[1])


class DeliveryView(BaseModel):
    """How far one subscription is with an event."""

    subscription_id: str = Field(examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    name: str = Field(examples=["crm"])
    status: DeliveryStatus
    attempts: int = Field(examples=[1])
    last_outcome: str | None = Field(examples=["delivered"])
    last_at: datetime | None


class EventShown(EventView):
    """One event, and what became of it."""

    deliveries: list[DeliveryView] = Field(description="For each subscription that wants it")
