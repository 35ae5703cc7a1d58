"""The tables of erasures: whose events were erased is not kept, only which and how many."""

from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, Column, ForeignKey, Index, LargeBinary, text
from sqlmodel import Field

from aircall_oauth.storage.models.base import Table, column, one_of, text_column, time_column
from aircall_oauth.storage.statuses import ErasureKind, ErasureStatus

PATTERN_COLUMN = "erasure.pattern_sealed"


class Erasure(Table, table=True):
    """The erasure of what is held about one person or one customer, and how far it is."""

    __tablename__ = "erasure"
    __table_args__ = (
        one_of("status", ErasureStatus),
        one_of("kind", ErasureKind),
        Index("ix_erasure_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_erasure_owner_id", "owner", "id"),
    )

    id: str = text_column(primary_key=True)
    status: str = text_column()
    kind: str = text_column()
    pattern_sealed: str | None = text_column(nullable=True)  # deleted once it is done
    owner: str | None = text_column(nullable=True)  # only events of this owner
    installation_id: str | None = text_column(nullable=True)  # only events of this installation
    position: int = column(BigInteger)  # events up to here are searched
    last_position: int | None = column(BigInteger, nullable=True)  # the log's newest when the search ended
    searched: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    erased: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    parked: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    # Of those erased, how many some subscription had taken before.
    delivered: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    created_at: datetime = time_column(server_default=text("now()"))
    ended_at: datetime | None = time_column(nullable=True)
    due_at: datetime | None = time_column(nullable=True)  # while a worker has it: when another may take over
    # Grows with every worker that takes it over: one with an older number can no longer write.
    lease_number: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))


class ErasurePart(Table, table=True):
    """The positions that one step of an erasure erased in one day of the log."""

    __tablename__ = "erasure_part"

    erasure_id: str = text_column(ForeignKey("erasure.id", ondelete="CASCADE"), primary_key=True)
    first: int = column(BigInteger, primary_key=True, autoincrement=False)  # the first of the positions
    day: str = text_column()  # the partition's name
    positions: list[int] = column(ARRAY(BigInteger))


class ErasureCall(Table, table=True):
    """A call that an erasure found, as a fingerprint; deleted once it is done."""

    __tablename__ = "erasure_call"

    erasure_id: str = text_column(ForeignKey("erasure.id", ondelete="CASCADE"), primary_key=True)
    fingerprint: bytes = column(LargeBinary, primary_key=True)
