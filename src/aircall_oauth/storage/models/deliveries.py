"""The tables of subscriptions and their deliveries."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    text,
)
from sqlmodel import Field

from aircall_oauth.storage.models.base import Table, column, one_of, text_column, time_column
from aircall_oauth.storage.statuses import Health, ReplayStatus, SubscriptionKind, SubscriptionOrder, SubscriptionStatus

# The channel on which a change of a subscription is notified.
SUBSCRIPTIONS_CHANGED = "aircall_oauth_subscriptions"


class Subscription(Table, table=True):
    """A named reader of the log: its position, its filter, its destination, and the worker that reads for it."""

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
    # As it is shown (`registry.kept_url`): without credentials, and without the values of its query.
    url: str = text_column()
    url_sealed: str | None = text_column(nullable=True)  # None in a row of an earlier version: `url` is all of it
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
    quiet_until: datetime | None = time_column(nullable=True)  # no request is sent before
    probes: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)
    last_error_at: datetime | None = time_column(nullable=True)
    lease_holder: str | None = text_column(nullable=True)
    lease_until: datetime | None = time_column(nullable=True)
    # Grows with every holder, so that a former holder's writes can be refused.
    lease_number: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    # What other subscriptions were told last of its destination, and when.
    told_health: str = Field(default=Health.UP, sa_column=Column(Text, nullable=False, server_default=text("'up'")))
    told_at: datetime | None = time_column(nullable=True)
    created_at: datetime = time_column()


class CreationKey(Table, table=True):
    """The `Idempotency-Key` of the request that made a subscription; `deliveries/repeated.py`."""

    __tablename__ = "creation_key"
    __table_args__ = (Index("ix_creation_key_subscription_id", "subscription_id"),)

    fingerprint: bytes = column(LargeBinary, primary_key=True)
    body_fingerprint: bytes = column(LargeBinary)
    subscription_id: str = text_column(ForeignKey("subscription.id", ondelete="CASCADE"))
    created_at: datetime = time_column(server_default=text("now()"))


class Parked(Table, table=True):
    """An event that a subscription could not take yet; dead once it is given up, and kept as long as the event."""

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
        Index(
            "ix_parked_subject",
            "subscription_id",
            "installation_id",
            "subject",
            "position",
            postgresql_where=text("dead_at IS NULL"),
        ),
        Index("ix_parked_oldest", "subscription_id", "received_at", postgresql_where=text("dead_at IS NULL")),
        Index("ix_parked_dead", "subscription_id", "position", postgresql_where=text("dead_at IS NOT NULL")),
        CheckConstraint("dead_at IS NULL OR due_at IS NULL", name="due"),
    )

    subscription_id: str = text_column(ForeignKey("subscription.id", ondelete="CASCADE"), primary_key=True)
    position: int = column(BigInteger, primary_key=True, autoincrement=False)
    received_at: datetime = time_column()  # the event's: it tells the day of the log to search
    event_id: str = text_column()
    installation_id: str = text_column()
    # As `EventJson.about`; null in a row that an earlier version wrote.
    subject: str | None = text_column(nullable=True)
    attempts: int = column(Integer)
    reason: str = text_column()
    due_at: datetime | None = time_column(nullable=True)  # null if it waits behind another event, or is dead
    dead_at: datetime | None = time_column(nullable=True)


class Attempt(Table, table=True):
    """One try of a delivery. Rows are only added, many at a time."""

    __tablename__ = "attempt"
    __table_args__ = (
        Index("ix_attempt_subscription_id_id", "subscription_id", "id"),
        Index("ix_attempt_event_id", "event_id"),
        # Rows come in the order of time.
        Index("ix_attempt_at", "at", postgresql_using="brin"),
    )

    id: int | None = column(BigInteger, Identity(always=True), primary_key=True)
    # No foreign key, which would be checked for every row; rows of a deleted subscription go when they are old.
    subscription_id: str = text_column()
    event_id: str = text_column()
    position: int = column(BigInteger)
    at: datetime = time_column()
    outcome: str = text_column()
    milliseconds: int = column(Integer)
    replay_id: str | None = text_column(nullable=True)  # null for a delivery of the live reader


class Replay(Table, table=True):
    """A window of the log that is delivered once more to one subscription, beside its live reader."""

    __tablename__ = "replay"
    __table_args__ = (one_of("status", ReplayStatus), Index("ix_replay_subscription_id_id", "subscription_id", "id"))

    id: str = text_column(primary_key=True)
    subscription_id: str = text_column(ForeignKey("subscription.id", ondelete="CASCADE"))
    status: str = text_column()
    since: datetime | None = time_column(nullable=True)  # received then or later
    until: datetime | None = time_column(nullable=True)  # received before
    first_position: int = column(BigInteger)
    last_position: int = column(BigInteger)
    types: list[str] = column(ARRAY(Text))
    owners: list[str] = column(ARRAY(Text))
    installations: list[str] = column(ARRAY(Text))
    per_second: int = column(Integer)
    events: int = column(BigInteger)  # counted when it was started
    customers: int = column(BigInteger)
    position: int = column(BigInteger)  # every wanted event up to here was delivered or failed
    delivered: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    failed: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)
    created_at: datetime = time_column()
    ended_at: datetime | None = time_column(nullable=True)
    lease_until: datetime | None = time_column(nullable=True)
    # Grows with every worker that takes it over: one with an older number can no longer write.
    lease_number: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
