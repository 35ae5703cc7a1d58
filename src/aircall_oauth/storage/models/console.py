"""The tables of the console: one-time links, who is signed in, and forms that were sent."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Index, LargeBinary, Text
from sqlalchemy.dialects.postgresql import JSONB

from aircall_oauth.storage.models.base import Table, column, text_column, time_column


class ConsoleLink(Table, table=True):
    """A one-time link that signs a person in; only its fingerprint is kept, until it is used or too old."""

    __tablename__ = "console_link"
    __table_args__ = (
        Index("uq_console_link_fingerprint", "fingerprint", unique=True),
        Index("ix_console_link_expires_at", "expires_at"),
    )

    id: str = text_column(primary_key=True)
    fingerprint: bytes = column(LargeBinary)
    person: str = text_column()
    scopes: list[str] = column(ARRAY(Text))
    expires_at: datetime = time_column()


class ConsoleSession(Table, table=True):
    """A person who is signed in; only the fingerprint of the cookie is kept."""

    __tablename__ = "console_session"
    __table_args__ = (
        Index("uq_console_session_fingerprint", "fingerprint", unique=True),
        Index("ix_console_session_expires_at", "expires_at"),
        Index("ix_console_session_actor", "actor"),
    )

    id: str = text_column(primary_key=True)
    fingerprint: bytes = column(LargeBinary)
    actor: str = text_column()  # in the audit: an API key's id, or `person:` with a name
    person: str = text_column()  # as the console shows the name
    api_key_id: str | None = text_column(nullable=True)  # the key it was opened with; it ends with that key
    scopes: list[str] = column(ARRAY(Text))
    address: str = text_column()
    created_at: datetime = time_column()
    last_seen_at: datetime = time_column()
    expires_at: datetime = time_column()


class ConsoleForm(Table, table=True):
    """A form that was sent, by its fingerprint, and what its person was told; null while it is not known."""

    __tablename__ = "console_form"
    __table_args__ = (Index("ix_console_form_expires_at", "expires_at"),)

    fingerprint: bytes = column(LargeBinary, primary_key=True)
    begun_at: datetime = time_column()
    answer: dict[str, Any] | None = column(JSONB(none_as_null=True), nullable=True)
    expires_at: datetime = time_column()
