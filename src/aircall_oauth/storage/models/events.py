"""The tables of the event log."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    Sequence,
    Text,
    text,
)
from sqlmodel import Field

from aircall_oauth.storage.models.base import Table, column, one_of, text_column, time_column
from aircall_oauth.storage.statuses import EventSource

EVENT_POSITIONS = Sequence("event_position", metadata=Table.metadata, data_type=BigInteger)


class Event(Table, table=True):
    """One event of the log, from Aircall or of the service's own; never changed but by an erasure.

    The table is partitioned by day (`partitions.py`), so that a day past the retention is dropped as a whole.
    """

    __tablename__ = "event"
    __table_args__ = (
        one_of("source", EventSource),
        # No unique index: PostgreSQL wants the partition key in one, and the ids are random enough.
        Index("ix_event_id", "id"),
        Index("ix_event_installation_id_position", "installation_id", "position"),
        Index("ix_event_subject_position", "subject", "position", postgresql_where=text("subject IS NOT NULL")),
        {"postgresql_partition_by": "RANGE (received_at)"},
    )

    position: int | None = column(
        BigInteger, EVENT_POSITIONS, primary_key=True, server_default=EVENT_POSITIONS.next_value()
    )
    received_at: datetime = time_column(primary_key=True)
    id: str = text_column()
    # No foreign key, and a copy of company and owner: an event shows what was true when it was received.
    installation_id: str = text_column()
    company_id: int = column(BigInteger)
    owner: str | None = text_column(nullable=True)
    type: str = text_column()
    resource: str | None = text_column(nullable=True)
    # What it is about, such as call:123; NULL where that is not known, and for what came before migration 0016.
    subject: str | None = text_column(nullable=True)
    occurred_at: datetime | None = time_column(nullable=True)
    source: str = text_column()
    data: str = text_column()
    # Of an encrypted event: the data key, and what `data` would be; `data` is null then.
    data_key: str | None = text_column(nullable=True)
    sealed: bytes | None = column(LargeBinary, nullable=True)
    # Since then `data` is null: it was a person's, or kept long enough.
    erased_at: datetime | None = time_column(nullable=True)


class OwnerRetention(Table, table=True):
    """How long an owner's events are kept, where that is not as long as all others: by type, in the same order."""

    __tablename__ = "owner_retention"
    __table_args__ = (CheckConstraint("cardinality(types) = cardinality(seconds)", name="rules"),)

    owner: str = text_column(primary_key=True)
    types: list[str] = column(ARRAY(Text))
    seconds: list[int] = column(ARRAY(BigInteger))
    changed_at: datetime = time_column(server_default=text("now()"))


class EventFingerprint(Table, table=True):
    """A received event, so that its repeat is recognised."""

    __tablename__ = "event_fingerprint"
    # Rows are added in the order of time, so a block range index finds the old ones at next to no cost.
    __table_args__ = (Index("ix_event_fingerprint_received_at", "received_at", postgresql_using="brin"),)

    fingerprint: bytes = column(LargeBinary, primary_key=True)
    received_at: datetime = time_column()


class LogStart(Table, table=True):
    """The last position that was dropped: one row, or none if nothing was dropped yet."""

    __tablename__ = "log_start"
    __table_args__ = (CheckConstraint("one", name="one"),)

    one: bool = Field(default=True, sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    dropped_to: int = column(BigInteger)


class LogReader(Table, table=True):
    """The position up to which a chore of the worker has read the log."""

    __tablename__ = "log_reader"

    name: str = text_column(primary_key=True)
    position: int = column(BigInteger)


class ToldCall(Table, table=True):
    """A call with its end in the log, so that the event and its back-filled copy are recognised as one."""

    __tablename__ = "told_call"
    __table_args__ = (Index("ix_told_call_received_at", "received_at", postgresql_using="brin"),)

    fingerprint: bytes = column(LargeBinary, primary_key=True)
    received_at: datetime = time_column()
    back_filled: bool = column(Boolean)


class EventDraft(Table, table=True):
    """Events that a transaction appends to the log when it commits; the arrays have one entry per event.

    A deferred trigger (migration 0010) takes the log's lock, draws the positions and deletes the draft.
    """

    __tablename__ = "event_draft"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    id: int | None = column(BigInteger, Identity(always=True), primary_key=True)
    gap_id: str | None = text_column(nullable=True)  # the gap that counts the added events
    installation_id: str = text_column()
    company_id: int = column(BigInteger)
    owner: str | None = text_column(nullable=True)
    type: str = text_column()
    resource: str | None = text_column(nullable=True)
    source: str = text_column()
    ids: list[str] = column(ARRAY(Text))
    # Of a call: an event with one is added only if that call's end is not in the log.
    keys: list[bytes | None] = column(ARRAY(LargeBinary))
    times: list[datetime | None] = column(ARRAY(DateTime(timezone=True)))  # None is the time of the commit
    texts: list[str] = column(ARRAY(Text))
    subjects: list[str | None] | None = column(ARRAY(Text), nullable=True)
    data_key: str | None = text_column(nullable=True)
    sealed: list[bytes] | None = column(ARRAY(LargeBinary), nullable=True)


class LogEpoch(Table, table=True):
    """The database that the log is in, and since which position: a restored log begins another epoch (`epochs`)."""

    __tablename__ = "log_epoch"

    number: int | None = column(BigInteger, Identity(always=True), primary_key=True)
    id: str = text_column()
    database: str = text_column()
    began_after: int = column(BigInteger)
    began_at: datetime = time_column(server_default=text("now()"))
