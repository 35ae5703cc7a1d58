"""The table of data keys: events are encrypted under them, and the vault seals them."""

from datetime import datetime

from sqlalchemy import Index, text

from aircall_oauth.storage.models.base import Table, text_column, time_column


class DataKeyRow(Table, table=True):
    """A key of one installation's events while one owner has it; an erased one stays as a row without its key."""

    __tablename__ = "data_key"
    __table_args__ = (
        Index(
            "uq_data_key_installation_id",
            "installation_id",
            "owner",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("erased_at IS NULL"),
        ),
    )

    id: str = text_column(primary_key=True)
    installation_id: str = text_column()
    owner: str | None = text_column(nullable=True)
    key_sealed: str | None = text_column(nullable=True)
    created_at: datetime = time_column(server_default=text("now()"))
    erased_at: datetime | None = time_column(nullable=True)
