"""Tables of subscriptions and their deliveries."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Text,
    text,
)
from sqlmodel import Field

from aircall_oauth.storage.models.base import Table, column, one_of, text_column, time_column


class SubscriptionKind(StrEnum):
    HTTP = "http"
    NATS = "nats"
    RABBITMQ = "rabbitmq"
    KAFKA = "kafka"


class SubscriptionOrder(StrEnum):
    NONE = "none"
    INSTALLATION = "installation"  # an installation's later events wait behind its parked one


class SubscriptionStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"  # its destination wants no more


class Health(StrEnum):
    UP = "up"
    DOWN = "down"  # the position holds, and one probe at a time goes out


class Subscription(Table, table=True):
    """A named reader of the log: where it stands, what it wants, where it goes, and which worker reads for it."""

    __tablename__ = "subscription"
    __table_args__ = (
        one_of("kind", SubscriptionKind),
        one_of("ordering", SubscriptionOrder),
        one_of("status", SubscriptionStatus),
        one_of("health", Health),
        CheckConstraint("(kind = 'http') = (secret_sealed IS NOT NULL)", name="secret"),
        CheckConstraint("kind = 'http' OR url_sealed IS NOT NULL", name="url_sealed"),
    )

    id: str = text_column(primary_key=True)
    name: str = text_column()
    kind: str = text_column()
    url: str = (
        text_column()
    )  # as it is shown (`destinations.kept_url`): without credentials, and without what a query says
    url_sealed: str | None = text_column(nullable=True)  # None: an earlier version wrote the row, and `url` is all
    subject: str | None = text_column(nullable=True)
    exchange: str | None = text_column(nullable=True)
    routing_key: str | None = text_column(nullable=True)
    topic: str | None = text_column(nullable=True)
    secret_sealed: str | None = text_column(nullable=True)
    old_secret_sealed: str | None = text_column(nullable=True)
    old_secret_until: datetime | None = time_column(nullable=True)
    types: list[str] = column(ARRAY(Text))
    owners: list[str] = column(ARRAY(Text))
    installations: list[str] = column(ARRAY(Text))
    ordering: str = text_column()
    status: str = text_column()
    version: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    position: int = column(BigInteger)
    health: str = Field(default=Health.UP, sa_column=Column(Text, nullable=False, server_default=text("'up'")))
    quiet_until: datetime | None = time_column(nullable=True)  # no request goes out before
    probes: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)
    last_error_at: datetime | None = time_column(nullable=True)
    lease_holder: str | None = text_column(nullable=True)
    lease_until: datetime | None = time_column(nullable=True)
    # Grows with every holder: whoever writes with an older number is fenced off.
    lease_number: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    created_at: datetime = time_column()


class Parked(Table, table=True):
    """An event one subscription could not take yet; dead once it was given up on, and kept as long as the event."""

    __tablename__ = "parked"
    __table_args__ = (
        Index("ix_parked_due", "subscription_id", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index(
            "ix_parked_waiting",
            "subscription_id",
            "installation_id",
            "position",
            postgresql_where=text("dead_at IS NULL"),
        ),
        Index("ix_parked_dead", "subscription_id", "position", postgresql_where=text("dead_at IS NOT NULL")),
        CheckConstraint("dead_at IS NULL OR due_at IS NULL", name="due"),
    )

    subscription_id: str = text_column(ForeignKey("subscription.id", ondelete="CASCADE"), primary_key=True)
    position: int = column(BigInteger, primary_key=True, autoincrement=False)
    received_at: datetime = time_column()  # the event's: it names the day to look in
    event_id: str = text_column()
    installation_id: str = text_column()
    attempts: int = column(Integer)
    reason: str = text_column()
    due_at: datetime | None = time_column(nullable=True)  # null for one that waits behind another, and for a dead one
    dead_at: datetime | None = time_column(nullable=True)


class Attempt(Table, table=True):
    """One try of a delivery. Rows are only ever added, many at a time."""

    __tablename__ = "attempt"
    __table_args__ = (
        Index("ix_attempt_subscription_id_id", "subscription_id", "id"),
        Index("ix_attempt_event_id", "event_id"),
        # Rows come in the order of time.
        Index("ix_attempt_at", "at", postgresql_using="brin"),
    )

    id: int | None = column(BigInteger, Identity(always=True), primary_key=True)
    # No foreign key, which would be looked up for every row; the rows of one that was deleted go when they are old.
    subscription_id: str = text_column()
    event_id: str = text_column()
    position: int = column(BigInteger)
    at: datetime = time_column()
    outcome: str = text_column()
    milliseconds: int = column(Integer)
