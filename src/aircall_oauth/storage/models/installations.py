"""The tables of installations: webhooks, flows, claims, gaps and rhythms."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    text,
)
from sqlalchemy.dialects.postgresql import BIT
from sqlmodel import Field

from aircall_oauth.storage.models.base import Table, column, one_of, text_column, time_column
from aircall_oauth.storage.statuses import FlowStatus, GapReason, InstallationStatus, WebhookStatus


class Installation(Table, table=True):
    """One Aircall company's grant to our app."""

    __tablename__ = "installation"
    __table_args__ = (
        one_of("status", InstallationStatus),
        CheckConstraint("(status = 'removed') = (token_sealed IS NULL)", name="token"),
        CheckConstraint("(token_sealed IS NULL) = (token_fingerprint IS NULL)", name="fingerprint"),
        # Aircall does not always tell the integration's id; without it, the company's id identifies the installation.
        Index(
            "uq_installation_integration_id",
            "integration_id",
            unique=True,
            postgresql_where=text("integration_id IS NOT NULL"),
        ),
        Index(
            "uq_installation_company_id",
            "company_id",
            unique=True,
            postgresql_where=text("integration_id IS NULL"),
        ),
        Index("ix_installation_owner", "owner"),
    )

    id: str = text_column(primary_key=True)
    status: str = text_column()
    owner: str | None = text_column(nullable=True)
    company_id: int = column(BigInteger)
    integration_id: int | None = column(BigInteger, nullable=True)
    company_name: str | None = text_column(nullable=True)
    number_ids: list[int] = Field(
        default_factory=list, sa_column=Column(ARRAY(BigInteger), nullable=False, server_default=text("'{}'"))
    )
    # Whether Aircall last told that the integration is switched on.
    integration_active: bool = Field(
        default=True, sa_column=Column(Boolean, nullable=False, server_default=text("true"))
    )
    # When to make sure that the integration is switched on at Aircall: after it was connected, and after a disconnect
    # of ours that switched it off is over. Counts only while the installation is active.
    switch_on_at: datetime | None = time_column(nullable=True)
    token_sealed: str | None = text_column(nullable=True)
    token_fingerprint: bytes | None = column(LargeBinary, nullable=True)
    connected_at: datetime = time_column()


class Webhook(Table, table=True):
    """The webhook in an installation's Aircall account that sends us its events."""

    __tablename__ = "webhook"
    __table_args__ = (
        one_of("status", WebhookStatus),
        Index("ix_webhook_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("uq_webhook_installation_id", "installation_id", unique=True),
        Index("uq_webhook_token_fingerprint", "token_fingerprint", unique=True),
    )

    id: str = text_column(primary_key=True)
    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"))
    status: str = text_column()
    webhook_id: str | None = text_column(nullable=True)
    token_fingerprint: bytes | None = column(LargeBinary, nullable=True)
    checked_at: datetime | None = time_column(nullable=True)
    due_at: datetime | None = time_column(nullable=True)  # when to check it next
    leased_until: datetime | None = time_column(nullable=True)  # until then one process has it to itself
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)
    thorough_at: datetime | None = time_column(nullable=True)  # when everything around it was last checked too
    refused_at: datetime | None = time_column(nullable=True)  # since when Aircall has refused the token
    rotation_wanted: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )


class RetiredWebhook(Table, table=True):
    """A webhook of ours that is to be deleted at Aircall; until then its events are still recognised.

    It is never taken into use again, so a webhook that is being deleted is never adopted at the same time.
    """

    __tablename__ = "retired_webhook"
    __table_args__ = (
        Index("ix_retired_webhook_due_at", "due_at"),
        Index("ix_retired_webhook_installation_id", "installation_id"),
        Index("ix_retired_webhook_token_fingerprint", "token_fingerprint"),
    )

    webhook_id: str = text_column(primary_key=True)
    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"))
    token_fingerprint: bytes | None = column(LargeBinary, nullable=True)
    due_at: datetime = time_column()  # while a worker has it: when another may take over
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    deleted_at: datetime | None = time_column(nullable=True)  # its row is deleted a little later


class Flow(Table, table=True):
    """An install flow that came back with its state, and how it ended."""

    __tablename__ = "flow"
    __table_args__ = (
        one_of("status", FlowStatus),
        Index("ix_flow_used_at", "used_at"),
        # An install link is used by the first flow that comes back with a code.
        Index("uq_flow_link_id", "link_id", unique=True, postgresql_where=text("link_id IS NOT NULL")),
    )

    id: str = text_column(primary_key=True)
    status: str = text_column()
    ending: str | None = text_column(nullable=True)
    installation_id: str | None = text_column(ForeignKey("installation.id", ondelete="SET NULL"), nullable=True)
    return_to: str | None = text_column(nullable=True)
    used_at: datetime = time_column()
    link_id: str | None = text_column(nullable=True)


class Claim(Table, table=True):
    """A one-time code that a browser brings back from a flow, for an owner to claim the installation with.

    A used code is kept until it expires, so that the same owner may send it again.

    If the installation is in use already, a flow that must be claimed leaves its token here, beside the installation's.
    So a flow that is never claimed changes nothing for the present owner.
    """

    __tablename__ = "claim"
    __table_args__ = (
        CheckConstraint("(token_sealed IS NULL) = (token_fingerprint IS NULL)", name="fingerprint"),
        Index("uq_claim_fingerprint", "fingerprint", unique=True),
        Index("ix_claim_installation_id", "installation_id"),
        Index("ix_claim_expires_at", "expires_at"),
    )

    id: str = text_column(primary_key=True)
    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"))
    fingerprint: bytes = column(LargeBinary)
    owner: str | None = text_column(nullable=True)  # the install link's owner, or the one that claimed it: no other may
    token_sealed: str | None = text_column(nullable=True)
    token_fingerprint: bytes | None = column(LargeBinary, nullable=True)
    expires_at: datetime = time_column()
    claimed_at: datetime | None = time_column(nullable=True)
    attempt_reference: str | None = text_column(nullable=True)  # of the install attempt that it ends


class InstallAttempt(Table, table=True):
    """How far an install link's flow, or a flow without a link, came. Never a code, a state or a cookie."""

    __tablename__ = "install_attempt"
    __table_args__ = (
        Index("uq_install_attempt_reference", "reference", unique=True),
        Index("ix_install_attempt_link_id", "link_id"),
        Index("ix_install_attempt_owner_id", "owner", "id"),
        Index("ix_install_attempt_created_at", "created_at"),
        Index("ix_install_attempt_installation_id", "installation_id", postgresql_where=text("live_at IS NULL")),
        Index(
            "ix_install_attempt_of_installation",
            "installation_id",
            "id",
            postgresql_where=text("installation_id IS NOT NULL"),
        ),
    )

    id: str = text_column(primary_key=True)
    reference: str = text_column()
    owner: str | None = text_column(nullable=True)
    link_id: str | None = text_column(nullable=True)
    installation_id: str | None = text_column(nullable=True)
    company_id: int | None = column(BigInteger, nullable=True)
    company_name: str | None = text_column(nullable=True)
    created_at: datetime = time_column()
    made_at: datetime | None = time_column(nullable=True)
    opened_at: datetime | None = time_column(nullable=True)
    consented_at: datetime | None = time_column(nullable=True)
    exchanged_at: datetime | None = time_column(nullable=True)
    identified_at: datetime | None = time_column(nullable=True)
    connected_at: datetime | None = time_column(nullable=True)
    claimed_at: datetime | None = time_column(nullable=True)
    live_at: datetime | None = time_column(nullable=True)
    ended_at: datetime | None = time_column(nullable=True)
    ending: str | None = text_column(nullable=True)  # a `FlowError`'s code, or how it ended well
    shown: str | None = text_column(nullable=True)  # what the browser was shown last, or where it was sent


class InstallTally(Table, table=True):
    """How often something happened within an hour that gets no install attempt of its own."""

    __tablename__ = "install_tally"

    hour: datetime = time_column(primary_key=True)
    what: str = text_column(primary_key=True)  # `opened`, or an ending
    count: int = column(BigInteger)


class Uninstall(Table, table=True):
    """Aircall said that an admin removed our app; checked until it is certain whether that is so."""

    __tablename__ = "uninstall"
    __table_args__ = (Index("ix_uninstall_due_at", "due_at"),)

    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"), primary_key=True)
    due_at: datetime = time_column()
    looks: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))


class Farewell(Table, table=True):
    """What is left to undo at Aircall for an installation that was removed here; its token is kept only for that."""

    __tablename__ = "farewell"
    __table_args__ = (Index("ix_farewell_due_at", "due_at"), Index("ix_farewell_installation_id", "installation_id"))

    id: str = text_column(primary_key=True)
    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"))
    token_sealed: str = text_column()
    token_fingerprint: bytes = column(LargeBinary)
    webhook_id: str | None = text_column(nullable=True)
    begun_at: datetime = time_column()
    due_at: datetime = time_column()  # while a worker has it: when another may take over
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)


class Trouble(Table, table=True):
    """A burst of errors in answers to events, which is over now: all webhooks are to be checked."""

    __tablename__ = "trouble"

    id: str = text_column(primary_key=True)
    began_at: datetime = time_column()
    ended_at: datetime = time_column()
    failures: int = column(Integer)


class Gap(Table, table=True):
    """A window in which an installation could not receive events, and how far its back-fill is.

    `until` and `due_at` are empty while the window is open, and `due_at` again once it is filled.
    """

    __tablename__ = "gap"
    __table_args__ = (
        one_of("reason", GapReason),
        CheckConstraint("until IS NOT NULL OR (due_at IS NULL AND done_at IS NULL)", name="open"),
        Index("uq_gap_installation_id", "installation_id", unique=True, postgresql_where=text("until IS NULL")),
        Index("ix_gap_installation_id_since", "installation_id", "since"),
        Index("ix_gap_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: str = text_column(primary_key=True)
    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"))
    reason: str = text_column()
    since: datetime = time_column()
    until: datetime | None = time_column(nullable=True)
    due_at: datetime | None = time_column(nullable=True)  # while a worker has it: when another may take over
    listed_to: datetime | None = time_column(nullable=True)  # calls that started before this are back-filled
    part_to: datetime | None = time_column(nullable=True)  # the end of the part that is being listed
    page: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    found: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    added: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)
    done_at: datetime | None = time_column(nullable=True)


class Pulse(Table, table=True):
    """When a process that receives events was last alive: one row, or none before the first."""

    __tablename__ = "pulse"
    __table_args__ = (CheckConstraint("one", name="one"),)

    one: bool = Field(default=True, sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    at: datetime = time_column()


RHYTHM_HOURS = 4 * 7 * 24


class Rhythm(Table, table=True):
    """The hours in which an installation sent events, in the four weeks before its last one; the newest first."""

    __tablename__ = "rhythm"
    __table_args__ = (Index("ix_rhythm_silent_at", "silent_at", postgresql_where=text("silent_at IS NOT NULL")),)

    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"), primary_key=True)
    hour: int = column(BigInteger)  # hours since 1970, of the first bit
    spoke: Any = column(BIT(RHYTHM_HOURS))
    silent_at: datetime | None = time_column(nullable=True)  # from then on its silence is unusual
