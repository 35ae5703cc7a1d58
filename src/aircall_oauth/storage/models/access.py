"""The tables of API keys and of the audit."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Index,
    LargeBinary,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from aircall_oauth.storage.models.base import Table, column, text_column, time_column


class ApiKey(Table, table=True):
    """The key of one of the partner's systems; only its fingerprint is kept."""

    __tablename__ = "api_key"
    __table_args__ = (
        Index("uq_api_key_fingerprint", "fingerprint", unique=True),
        CheckConstraint("cardinality(scopes) > 0", name="scopes"),
    )

    id: str = text_column(primary_key=True)
    name: str = text_column()
    fingerprint: bytes = column(LargeBinary)
    scopes: list[str] = column(ARRAY(Text))
    owner: str | None = text_column(nullable=True)
    # The calls to Aircall that it allows, as `GET,POST /calls/*`; None allows all (`access/rules.py`).
    aircall_rules: list[str] | None = column(ARRAY(Text), nullable=True)
    created_at: datetime = time_column()
    expires_at: datetime | None = time_column(nullable=True)
    last_used_at: datetime | None = time_column(nullable=True)
    revoked_at: datetime | None = time_column(nullable=True)


class Audit(Table, table=True):
    """One action: its actor, time and address. Rows are only ever added; a trigger of migration 0003 enforces it."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_installation_id_at", "installation_id", "at"),
        Index("ix_audit_actor_at", "actor", "at"),
        Index("ix_audit_at", "at"),
        Index("ix_audit_action_at", "action", "at"),
        Index("ix_audit_owner_at", "owner", "at", postgresql_where=text("owner IS NOT NULL")),
        Index("ix_audit_request_id", "request_id", postgresql_where=text("request_id IS NOT NULL")),
        Index(
            "ix_audit_subscription_id_at",
            "subscription_id",
            "at",
            postgresql_where=text("subscription_id IS NOT NULL"),
        ),
    )

    id: str = text_column(primary_key=True)
    at: datetime = time_column(server_default=func.now())
    actor: str = text_column()
    action: str = text_column()
    installation_id: str | None = text_column(nullable=True)
    request_id: str | None = text_column(nullable=True)
    address: str = text_column(server_default=text("'-'"))
    outcome: str = text_column(server_default=text("'done'"))
    owner: str | None = text_column(nullable=True)  # whose installation or subscription it concerned, at that time
    subscription_id: str | None = text_column(nullable=True)
    details: dict[str, Any] | None = column(JSONB(none_as_null=True), nullable=True)
