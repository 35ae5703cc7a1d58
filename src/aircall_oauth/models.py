"""The tables, and the changes they allow."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import BIT
from sqlmodel import Field, SQLModel
from uuid_utils import uuid7

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(SQLModel):
    """What our tables have in common: their metadata, with a name for every constraint."""

    metadata = MetaData(naming_convention=NAMING)


def new_id(kind: str) -> str:
    """An id that sorts by time and names what it is of: `ins_0198…`."""
    return f"{kind}_{uuid7().hex}"


def now() -> datetime:
    return datetime.now(UTC)


def _column(type_: Any, *constraints: Any, nullable: bool = False, **options: Any) -> Any:
    """A column as PostgreSQL has it; one that may be NULL is None unless told."""
    column = Column(type_, *constraints, nullable=nullable, **options)
    return Field(default=None, sa_column=column) if nullable else Field(sa_column=column)


def _text(*constraints: Any, **options: Any) -> Any:
    return _column(Text, *constraints, **options)


def _time(**options: Any) -> Any:
    return _column(DateTime(timezone=True), **options)


def _one_of(column: str, words: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(str(word)) for word in words)})", name=column)


class InstallationStatus(StrEnum):
    UNCLAIMED = "unclaimed"  # saved, but nobody has claimed it: no webhook, no token, no proxy
    ACTIVE = "active"
    UNAUTHORIZED = "unauthorized"  # Aircall no longer accepts its token
    REMOVED = "removed"  # uninstalled or disconnected: the token is erased


# Where an installation's token stands sealed, and what it is fingerprinted as.
TOKEN_COLUMN = "installation.token_sealed"
CLAIM_TOKEN_COLUMN = "claim.token_sealed"
FAREWELL_TOKEN_COLUMN = "farewell.token_sealed"
TOKEN_PURPOSE = "access-token"
WEBHOOK_TOKEN_PURPOSE = "webhook-token"
API_KEY_PURPOSE = "api-key"
CLAIM_PURPOSE = "claim"


@dataclass(frozen=True)
class Sealed:
    """A column of sealed secrets, in a table whose key is `id`, and their fingerprints' where there is one."""

    table: str
    column: str
    fingerprint: str | None = None
    purpose: str = TOKEN_PURPOSE

    @property
    def place(self) -> str:
        return f"{self.table}.{self.column}"


# Every such column there is: what the start looks at, and what a rotation seals anew.
SEALED = (
    Sealed("installation", "token_sealed", "token_fingerprint"),
    Sealed("claim", "token_sealed", "token_fingerprint"),
    Sealed("farewell", "token_sealed", "token_fingerprint"),
    Sealed("subscription", "secret_sealed"),
    Sealed("subscription", "old_secret_sealed"),
    Sealed("subscription", "url_sealed"),
)


class Installation(Table, table=True):
    """One Aircall company's grant to our app."""

    __tablename__ = "installation"
    __table_args__ = (
        _one_of("status", InstallationStatus),
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

    id: str = _text(primary_key=True)
    status: str = _text()
    owner: str | None = _text(nullable=True)
    company_id: int = _column(BigInteger)
    integration_id: int | None = _column(BigInteger, nullable=True)
    company_name: str | None = _text(nullable=True)
    number_ids: list[int] = Field(
        default_factory=list, sa_column=Column(ARRAY(BigInteger), nullable=False, server_default=text("'{}'"))
    )
    # Whether Aircall has the integration switched on, as far as it told.
    integration_active: bool = Field(
        default=True, sa_column=Column(Boolean, nullable=False, server_default=text("true"))
    )
    # When to see to it that the integration is on at Aircall: once it was connected, and once whatever we told Aircall
    # to switch it off is over. Counts only while the installation is active.
    switch_on_at: datetime | None = _time(nullable=True)
    token_sealed: str | None = _text(nullable=True)
    token_fingerprint: bytes | None = _column(LargeBinary, nullable=True)
    connected_at: datetime = _time()


class WebhookStatus(StrEnum):
    PENDING = "pending"  # not registered yet; the worker goes on trying
    ACTIVE = "active"
    DISABLED = "disabled"  # Aircall switched it off
    MISSING = "missing"  # Aircall has it no more


class Webhook(Table, table=True):
    """The object registered in an installation's Aircall account, which sends us its events."""

    __tablename__ = "webhook"
    __table_args__ = (
        _one_of("status", WebhookStatus),
        Index("ix_webhook_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("uq_webhook_installation_id", "installation_id", unique=True),
        Index("uq_webhook_token_fingerprint", "token_fingerprint", unique=True),
    )

    id: str = _text(primary_key=True)
    installation_id: str = _text(ForeignKey("installation.id", ondelete="CASCADE"))
    status: str = _text()
    webhook_id: str | None = _text(nullable=True)
    token_fingerprint: bytes | None = _column(LargeBinary, nullable=True)
    checked_at: datetime | None = _time(nullable=True)
    due_at: datetime | None = _time(nullable=True)  # when to look at it next
    leased_until: datetime | None = _time(nullable=True)  # whoever looks at it has it until then
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = _text(nullable=True)
    thorough_at: datetime | None = _time(nullable=True)  # last looked at with all that belongs to it
    refused_at: datetime | None = _time(nullable=True)  # since when Aircall refuses the token
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

    webhook_id: str = _text(primary_key=True)
    installation_id: str = _text(ForeignKey("installation.id", ondelete="CASCADE"))
    token_fingerprint: bytes | None = _column(LargeBinary, nullable=True)
    due_at: datetime = _time()  # while somebody is at it: when another one may take over
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    deleted_at: datetime | None = _time(nullable=True)  # it is forgotten a little later


class FlowStatus(StrEnum):
    UNKNOWN = "unknown"  # used up, and no ending known yet: under way, or the process died
    CONNECTED = "connected"
    ENDED = "ended"  # without an installation; `ending` says how


class Flow(Table, table=True):
    """An install flow whose state was used up, and how it ended."""

    __tablename__ = "flow"
    __table_args__ = (
        _one_of("status", FlowStatus),
        Index("ix_flow_used_at", "used_at"),
        # An install link is used up by the first flow that comes back with a code.
        Index("uq_flow_link_id", "link_id", unique=True, postgresql_where=text("link_id IS NOT NULL")),
    )

    id: str = _text(primary_key=True)
    status: str = _text()
    ending: str | None = _text(nullable=True)
    installation_id: str | None = _text(ForeignKey("installation.id", ondelete="SET NULL"), nullable=True)
    return_to: str | None = _text(nullable=True)
    used_at: datetime = _time()
    link_id: str | None = _text(nullable=True)


class EventSource(StrEnum):
    AIRCALL = "aircall"
    SERVICE = "service"
    BACKFILL = "backfill"  # Aircall told it when asked, not by itself


EVENT_POSITIONS = Sequence("event_position", metadata=Table.metadata, data_type=BigInteger)


class Event(Table, table=True):
    """What Aircall told us, or we noticed: one row of the log, never changed.

    The table is cut by day (`partitions.py`), so that a day past the retention goes in one stroke.
    """

    __tablename__ = "event"
    __table_args__ = (
        _one_of("source", EventSource),
        # No unique index: PostgreSQL wants the partition key in one, and the ids are random enough.
        Index("ix_event_id", "id"),
        Index("ix_event_installation_id_position", "installation_id", "position"),
        {"postgresql_partition_by": "RANGE (received_at)"},
    )

    position: int | None = _column(
        BigInteger, EVENT_POSITIONS, primary_key=True, server_default=EVENT_POSITIONS.next_value()
    )
    received_at: datetime = _time(primary_key=True)
    id: str = _text()
    # No foreign key and a copy of company and owner: an event tells what was so when it came.
    installation_id: str = _text()
    company_id: int = _column(BigInteger)
    owner: str | None = _text(nullable=True)
    type: str = _text()
    resource: str | None = _text(nullable=True)
    occurred_at: datetime | None = _time(nullable=True)
    source: str = _text()
    data: str = _text()


class EventDraft(Table, table=True):
    """Events that a transaction adds to the log as it commits, one beside the other; nothing of it stays here.

    A deferred trigger of its migration takes the log's lock, draws the positions and deletes the draft.
    """

    __tablename__ = "event_draft"
    __table_args__ = {"prefixes": ["UNLOGGED"]}

    id: int | None = _column(BigInteger, Identity(always=True), primary_key=True)
    gap_id: str | None = _text(nullable=True)  # counts what was added
    installation_id: str = _text()
    company_id: int = _column(BigInteger)
    owner: str | None = _text(nullable=True)
    type: str = _text()
    resource: str | None = _text(nullable=True)
    source: str = _text()
    ids: list[str] = _column(ARRAY(Text))
    keys: list[bytes | None] = _column(ARRAY(LargeBinary))  # with one, the event is added where it was not told before
    times: list[datetime | None] = _column(ARRAY(DateTime(timezone=True)))  # without one, it occurs at the commit
    texts: list[str] = _column(ARRAY(Text))


class EventFingerprint(Table, table=True):
    """An event already taken in, so that its repeat is recognised."""

    __tablename__ = "event_fingerprint"
    # Rows come in the order of time, so a block range index finds the old ones and costs next to nothing to keep.
    __table_args__ = (Index("ix_event_fingerprint_received_at", "received_at", postgresql_using="brin"),)

    fingerprint: bytes = _column(LargeBinary, primary_key=True)
    received_at: datetime = _time()


class LogStart(Table, table=True):
    """How far the log was dropped: one row, once something was."""

    __tablename__ = "log_start"
    __table_args__ = (CheckConstraint("one", name="one"),)

    one: bool = Field(default=True, sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    dropped_to: int = _column(BigInteger)


class LogEpoch(Table, table=True):
    """Since when the log is that of one database, and which: a restored log begins another epoch (`epochs.py`)."""

    __tablename__ = "log_epoch"

    number: int | None = _column(BigInteger, Identity(always=True), primary_key=True)
    id: str = _text()
    database: str = _text()
    began_after: int = _column(BigInteger)
    began_at: datetime = _time(server_default=text("now()"))


class Scope(StrEnum):
    INSTALLATIONS_READ = "installations:read"
    INSTALLATIONS_WRITE = "installations:write"
    TOKENS_READ = "tokens:read"
    AIRCALL_CALL = "aircall:call"
    EVENTS_READ = "events:read"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    SUBSCRIPTIONS_BROKERS = "subscriptions:brokers"  # without it a key bound to an owner makes HTTP destinations only


API_KEY_PREFIX = "aok_"


def new_api_key() -> str:
    """A fresh API key: 256 random bits behind a prefix that secret scanners can recognise."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


class ApiKey(Table, table=True):
    """What one of the partner's systems shows us; only its fingerprint is kept."""

    __tablename__ = "api_key"
    __table_args__ = (
        Index("uq_api_key_fingerprint", "fingerprint", unique=True),
        CheckConstraint("cardinality(scopes) > 0", name="scopes"),
    )

    id: str = _text(primary_key=True)
    name: str = _text()
    fingerprint: bytes = _column(LargeBinary)
    scopes: list[str] = _column(ARRAY(Text))
    owner: str | None = _text(nullable=True)
    # What it may ask Aircall for, as `GET,POST /calls/*`; None is anything. `rules.py` reads them.
    aircall_rules: list[str] | None = _column(ARRAY(Text), nullable=True)
    created_at: datetime = _time()
    expires_at: datetime | None = _time(nullable=True)
    last_used_at: datetime | None = _time(nullable=True)
    revoked_at: datetime | None = _time(nullable=True)

    def valid_at(self, moment: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > moment)


class Audit(Table, table=True):
    """Who did what, when and from where. Rows are only ever added; a trigger of migration 0003 holds it."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_installation_id_at", "installation_id", "at"),
        Index("ix_audit_actor_at", "actor", "at"),
        Index("ix_audit_at", "at"),
    )

    id: str = _text(primary_key=True)
    at: datetime = _time(server_default=func.now())
    actor: str = _text()
    action: str = _text()
    installation_id: str | None = _text(nullable=True)
    request_id: str | None = _text(nullable=True)
    address: str = _text(server_default=text("'-'"))
    outcome: str = _text(server_default=text("'done'"))


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

    id: str = _text(primary_key=True)
    installation_id: str = _text(ForeignKey("installation.id", ondelete="CASCADE"))
    fingerprint: bytes = _column(LargeBinary)
    owner: str | None = _text(nullable=True)  # the install link's, and the claimer's: no other may claim it
    token_sealed: str | None = _text(nullable=True)
    token_fingerprint: bytes | None = _column(LargeBinary, nullable=True)
    expires_at: datetime = _time()
    claimed_at: datetime | None = _time(nullable=True)


class Uninstall(Table, table=True):
    """Aircall said that an admin removed our app; it is looked at until that is certain, one way or the other."""

    __tablename__ = "uninstall"
    __table_args__ = (Index("ix_uninstall_due_at", "due_at"),)

    installation_id: str = _text(ForeignKey("installation.id", ondelete="CASCADE"), primary_key=True)
    due_at: datetime = _time()
    looks: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))


class Farewell(Table, table=True):
    """What is still to be undone at Aircall for an installation removed here; the token is kept for that alone."""

    __tablename__ = "farewell"
    __table_args__ = (Index("ix_farewell_due_at", "due_at"), Index("ix_farewell_installation_id", "installation_id"))

    id: str = _text(primary_key=True)
    installation_id: str = _text(ForeignKey("installation.id", ondelete="CASCADE"))
    token_sealed: str = _text()
    token_fingerprint: bytes = _column(LargeBinary)
    webhook_id: str | None = _text(nullable=True)
    begun_at: datetime = _time()
    due_at: datetime = _time()  # while somebody is at it: when another one may take over
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = _text(nullable=True)


class Trouble(Table, table=True):
    """A web process answered many events with an error of ours, and it is over: the webhooks are to be looked at."""

    __tablename__ = "trouble"

    id: str = _text(primary_key=True)
    began_at: datetime = _time()
    ended_at: datetime = _time()
    failures: int = _column(Integer)


class LogReader(Table, table=True):
    """How far a chore of our own has read the log."""

    __tablename__ = "log_reader"

    name: str = _text(primary_key=True)
    position: int = _column(BigInteger)


class Budget(Table, table=True):
    """How much of Aircall's limit one Aircall company has spent; `aircall/budget.py` has its statements."""

    __tablename__ = "budget"

    company_id: int = _column(BigInteger, primary_key=True, autoincrement=False)
    second: int = _column(BigInteger)  # the UNIX second of `spent[1]`; each further entry is one second older
    spent: list[int] = _column(ARRAY(Integer))
    closed_until: datetime | None = _time(nullable=True)  # Aircall said that nothing is left until then


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


# Where a subscription's secrets stand sealed.
SECRET_COLUMN = "subscription.secret_sealed"
OLD_SECRET_COLUMN = "subscription.old_secret_sealed"
URL_COLUMN = "subscription.url_sealed"


class Subscription(Table, table=True):
    """A named reader of the log: where it stands, what it wants, where it goes, and which worker reads for it."""

    __tablename__ = "subscription"
    __table_args__ = (
        _one_of("kind", SubscriptionKind),
        _one_of("ordering", SubscriptionOrder),
        _one_of("status", SubscriptionStatus),
        _one_of("health", Health),
        CheckConstraint("(kind = 'http') = (secret_sealed IS NOT NULL)", name="secret"),
        CheckConstraint("kind = 'http' OR url_sealed IS NOT NULL", name="url_sealed"),
    )

    id: str = _text(primary_key=True)
    name: str = _text()
    kind: str = _text()
    url: str = _text()  # as it is shown (`destinations.kept_url`): without credentials, and without what a query says
    url_sealed: str | None = _text(nullable=True)  # None: an earlier version wrote the row, and `url` is all
    subject: str | None = _text(nullable=True)
    exchange: str | None = _text(nullable=True)
    routing_key: str | None = _text(nullable=True)
    topic: str | None = _text(nullable=True)
    secret_sealed: str | None = _text(nullable=True)
    old_secret_sealed: str | None = _text(nullable=True)
    old_secret_until: datetime | None = _time(nullable=True)
    types: list[str] = _column(ARRAY(Text))
    owners: list[str] = _column(ARRAY(Text))
    installations: list[str] = _column(ARRAY(Text))
    ordering: str = _text()
    status: str = _text()
    version: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    position: int = _column(BigInteger)
    health: str = Field(default=Health.UP, sa_column=Column(Text, nullable=False, server_default=text("'up'")))
    quiet_until: datetime | None = _time(nullable=True)  # no request goes out before
    probes: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = _text(nullable=True)
    last_error_at: datetime | None = _time(nullable=True)
    lease_holder: str | None = _text(nullable=True)
    lease_until: datetime | None = _time(nullable=True)
    # Grows with every holder: whoever writes with an older number is fenced off.
    lease_number: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    created_at: datetime = _time()


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

    subscription_id: str = _text(ForeignKey("subscription.id", ondelete="CASCADE"), primary_key=True)
    position: int = _column(BigInteger, primary_key=True, autoincrement=False)
    received_at: datetime = _time()  # the event's: it names the day to look in
    event_id: str = _text()
    installation_id: str = _text()
    attempts: int = _column(Integer)
    reason: str = _text()
    due_at: datetime | None = _time(nullable=True)  # null for one that waits behind another, and for a dead one
    dead_at: datetime | None = _time(nullable=True)


class Attempt(Table, table=True):
    """One try of a delivery. Rows are only ever added, many at a time."""

    __tablename__ = "attempt"
    __table_args__ = (
        Index("ix_attempt_subscription_id_id", "subscription_id", "id"),
        Index("ix_attempt_event_id", "event_id"),
        # Rows come in the order of time.
        Index("ix_attempt_at", "at", postgresql_using="brin"),
    )

    id: int | None = _column(BigInteger, Identity(always=True), primary_key=True)
    # No foreign key, which would be looked up for every row; the rows of one that was deleted go when they are old.
    subscription_id: str = _text()
    event_id: str = _text()
    position: int = _column(BigInteger)
    at: datetime = _time()
    outcome: str = _text()
    milliseconds: int = _column(Integer)


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
        _one_of("reason", GapReason),
        CheckConstraint("until IS NOT NULL OR (due_at IS NULL AND done_at IS NULL)", name="open"),
        Index("uq_gap_installation_id", "installation_id", unique=True, postgresql_where=text("until IS NULL")),
        Index("ix_gap_installation_id_since", "installation_id", "since"),
        Index("ix_gap_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: str = _text(primary_key=True)
    installation_id: str = _text(ForeignKey("installation.id", ondelete="CASCADE"))
    reason: str = _text()
    since: datetime = _time()
    until: datetime | None = _time(nullable=True)
    due_at: datetime | None = _time(nullable=True)  # while somebody is at it: when another one may take over
    listed_to: datetime | None = _time(nullable=True)  # calls that started before this are done
    part_to: datetime | None = _time(nullable=True)  # where the part that is being listed ends
    page: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    found: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    added: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_error: str | None = _text(nullable=True)
    done_at: datetime | None = _time(nullable=True)


class Pulse(Table, table=True):
    """When a process that receives was last alive: one row, once one was."""

    __tablename__ = "pulse"
    __table_args__ = (CheckConstraint("one", name="one"),)

    one: bool = Field(default=True, sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    at: datetime = _time()


class ToldCall(Table, table=True):
    """A call whose end is in the log, so that the event and its back-filled twin are recognised as one."""

    __tablename__ = "told_call"
    __table_args__ = (Index("ix_told_call_received_at", "received_at", postgresql_using="brin"),)

    fingerprint: bytes = _column(LargeBinary, primary_key=True)
    received_at: datetime = _time()
    back_filled: bool = _column(Boolean)


RHYTHM_HOURS = 4 * 7 * 24


class Rhythm(Table, table=True):
    """In which hours of the last four weeks before it last spoke an installation spoke, the newest first."""

    __tablename__ = "rhythm"
    __table_args__ = (Index("ix_rhythm_silent_at", "silent_at", postgresql_where=text("silent_at IS NOT NULL")),)

    installation_id: str = _text(ForeignKey("installation.id", ondelete="CASCADE"), primary_key=True)
    hour: int = _column(BigInteger)  # of the first bit: hours since 1970
    spoke: Any = _column(BIT(RHYTHM_HOURS))
    silent_at: datetime | None = _time(nullable=True)  # from then on, silence is not its way
