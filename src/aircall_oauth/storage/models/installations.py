"""Tables of installations, their webhooks, flows, claims, gaps and rhythms."""

from datetime import datetime
from enum import StrEnum
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


class InstallationStatus(StrEnum):
    UNCLAIMED = "unclaimed"  # saved, but nobody has claimed it: no webhook, no token, no proxy
    ACTIVE = "active"
    UNAUTHORIZED = "unauthorized"  # Aircall no longer accepts its token
    REMOVED = "removed"  # uninstalled or disconnected: the token is erased


class Installation(Table, table=True):
    """One Aircall company's grant to our app."""

    __tablename__ = "installation"
    __table_args__ = (
        one_of("status", InstallationStatus),
        CheckConstraint("(status = 'removed') = (token_sealed IS NULL)", name="token"),
        CheckConstraint("(token_sealed IS NULL) = (token_fingerprint IS NULL)", name="fingerprint"),
        # Aircall does not always tell the integration's id; then the company's is the identity.
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
    # Whether Aircall has the integration switched on, as far as it told.
    integration_active: bool = Field(
        default=True, sa_column=Column(Boolean, nullable=False, server_default=text("true"))
    )
    # When to see to it that the integration is on at Aircall: once it was connected, and once whatever we told Aircall
    # to switch it off is over. Counts only while the installation is active.
    switch_on_at: datetime | None = time_column(nullable=True)
    token_sealed: str | None = text_column(nullable=True)
    token_fingerprint: bytes | None = column(LargeBinary, nullable=True)
    connected_at: datetime = time_column()


class WebhookStatus(StrEnum):
    PENDING = "pending"  # not registered yet; the worker goes on trying
    ACTIVE = "active"
    DISABLED = "disabled"  # Aircall switched it off
    MISSING = "missing"  # Aircall has it no more


class Webhook(Table, table=True):
    """The object registered in an installation's Aircall account, which sends us its events."""

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
    due_at: datetime | None = time_column(nullable=True)  # when to look at it next
    leased_until: datetime | None = time_column(nullable=True)  # whoever looks at it has it until then
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)
    thorough_at: datetime | None = time_column(nullable=True)  # last looked at with all that belongs to it
    refused_at: datetime | None = time_column(nullable=True)  # since when Aircall refuses the token
    rotation_wanted: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )


class RetiredWebhook(Table, table=True):
    """A webhook of ours that is to be deleted at Aircall; until it is, its events are recognised like any other's.

    Nobody takes it into use again: that is how a webhook being deleted and one being adopted never are the same.
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
    due_at: datetime = time_column()  # while somebody is at it: when another one may take over
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    deleted_at: datetime | None = time_column(nullable=True)  # it is forgotten a little later


class FlowStatus(StrEnum):
    UNKNOWN = "unknown"  # used up, and no ending known yet: under way, or the process died
    CONNECTED = "connected"
    ENDED = "ended"  # without an installation; `ending` says how


class Flow(Table, table=True):
    """An install flow whose state was used up, and how it ended."""

    __tablename__ = "flow"
    __table_args__ = (
        one_of("status", FlowStatus),
        Index("ix_flow_used_at", "used_at"),
        # An install link is used up by the first flow that comes back with a code.
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
    """A one-time code that somebody carries home from a flow, to say whose the installation is.

    Once it was used it is remembered until it expires, so that the same owner may send it again.

    Where somebody has the installation already, a flow that must be claimed leaves its token here, beside it: so a
    flow that nobody claims changes nothing for whoever has it.
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
    owner: str | None = text_column(nullable=True)  # the install link's, and the claimer's: no other may claim it
    token_sealed: str | None = text_column(nullable=True)
    token_fingerprint: bytes | None = column(LargeBinary, nullable=True)
    expires_at: datetime = time_column()
    claimed_at: datetime | None = time_column(nullable=True)


class Uninstall(Table, table=True):
    """Aircall said that an admin removed our app; it is looked at until that is certain, one way or the other."""

    __tablename__ = "uninstall"
    __table_args__ = (Index("ix_uninstall_due_at", "due_at"),)

    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"), primary_key=True)
    due_at: datetime = time_column()
    looks: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))


class Farewell(Table, table=True):
    """What is still to be undone at Aircall for an installation removed here; the token is kept for that alone."""

    __tablename__ = "farewell"
    __table_args__ = (Index("ix_farewell_due_at", "due_at"), Index("ix_farewell_installation_id", "installation_id"))

    id: str = text_column(primary_key=True)
    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"))
    token_sealed: str = text_column()
    token_fingerprint: bytes = column(LargeBinary)
    webhook_id: str | None = text_column(nullable=True)
    begun_at: datetime = time_column()
    due_at: datetime = time_column()  # while somebody is at it: when another one may take over
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)


class Trouble(Table, table=True):
    """A web process answered many events with an error of ours, and it is over: the webhooks are to be looked at."""

    __tablename__ = "trouble"

    id: str = text_column(primary_key=True)
    began_at: datetime = time_column()
    ended_at: datetime = time_column()
    failures: int = column(Integer)


class GapReason(StrEnum):
    WEBHOOK_DISABLED = "webhook_disabled"
    WEBHOOK_MISSING = "webhook_missing"
    SERVICE_AWAY = "service_away"
    BY_HAND = "by_hand"  # an operator named the window


class Gap(Table, table=True):
    """A window in which an installation could not receive, and how far its back-fill is.

    While the window is open both `until` and `due_at` are empty; once it is filled, `due_at` is empty again.
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
    due_at: datetime | None = time_column(nullable=True)  # while somebody is at it: when another one may take over
    listed_to: datetime | None = time_column(nullable=True)  # calls that started before this are done
    part_to: datetime | None = time_column(nullable=True)  # where the part that is being listed ends
    page: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    found: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    added: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = text_column(nullable=True)
    done_at: datetime | None = time_column(nullable=True)


class Pulse(Table, table=True):
    """When a process that receives was last alive: one row, once one was."""

    __tablename__ = "pulse"
    __table_args__ = (CheckConstraint("one", name="one"),)

    one: bool = Field(default=True, sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    at: datetime = time_column()


RHYTHM_HOURS = 4 * 7 * 24


class Rhythm(Table, table=True):
    """In which hours of the last four weeks before it last spoke an installation spoke, the newest first."""

    __tablename__ = "rhythm"
    __table_args__ = (Index("ix_rhythm_silent_at", "silent_at", postgresql_where=text("silent_at IS NOT NULL")),)

    installation_id: str = text_column(ForeignKey("installation.id", ondelete="CASCADE"), primary_key=True)
    hour: int = column(BigInteger)  # of the first bit: hours since 1970
    spoke: Any = column(BIT(RHYTHM_HOURS))
    silent_at: datetime | None = time_column(nullable=True)  # from then on, silence is not its way
