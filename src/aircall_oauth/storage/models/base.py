"""What all tables share: metadata and kinds of columns."""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    MetaData,
    Text,
)
from sqlmodel import Field, SQLModel

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(SQLModel):
    """The base of all tables; its metadata has a name for every constraint."""

    metadata = MetaData(naming_convention=NAMING)


def column(type_: Any, *constraints: Any, nullable: bool = False, **options: Any) -> Any:
    """Define a column of any type; a nullable one is None by default."""
    column = Column(type_, *constraints, nullable=nullable, **options)
    return Field(default=None, sa_column=column) if nullable else Field(sa_column=column)


def text_column(*constraints: Any, **options: Any) -> Any:
    return column(Text, *constraints, **options)


def time_column(**options: Any) -> Any:
    return column(DateTime(timezone=True), **options)


def one_of(column: str, words: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(str(word)) for word in words)})", name=column)
