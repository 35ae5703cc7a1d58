"""Leases on rows that belong to an installation: claim those that are due, put them off, back off after failures."""

import random
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, func, inspect
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.storage.models.installations import Farewell, Gap, Installation, RetiredWebhook, Uninstall, Webhook

Row = TypeVar("Row", Farewell, Gap, RetiredWebhook, Uninstall, Webhook)

# 2 to the power of this is more than any longest pause allows.
MOST_DOUBLINGS = 16


def is_due(table: type[Row]) -> ColumnElement[bool]:
    return col(table.due_at) <= func.now()


def after(pause: timedelta) -> ColumnElement[Any]:
    """Return the moment that lies so far ahead by the database's clock, as leases and due times are written."""
    return func.now() + pause


def any_of(table: type[Row], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a row meets the conditions with which `claim` claims rows."""
    return _rows(table, *conditions).exists()


async def claim(
    session: AsyncSession, table: type[Row], *conditions: ColumnElement[bool], limit: int, **values: Any
) -> list[tuple[Row, Installation]]:
    """Claim the rows that meet the conditions, the longest due first, each with its installation.

    `values` are written to the claimed rows and say until when they are leased: either `due_at` or a column of its own.
    Rows that another process is just claiming are passed over, so every row goes to one process.
    """
    key = _key(table)
    due = (
        _rows(table, *conditions)
        .order_by(col(table.due_at))
        .limit(limit)
        .with_for_update(of=table, skip_locked=True)
        .cte("due")
    )
    claimed = (
        update(table)
        .where(key == due.c[key.key], col(Installation.id) == col(table.installation_id))
        .values(**values)
        .returning(table, Installation)
    )
    return [(row[0], row[1]) for row in (await session.exec(claimed)).all()]


async def put_off(
    session: AsyncSession, row: Row, pause: timedelta, *conditions: ColumnElement[bool], **values: Any
) -> None:
    """Make a row due again after the pause, if it still meets the conditions."""
    table = type(row)
    key = _key(table)
    it = update(table).where(key == getattr(row, key.key), *conditions)
    await session.exec(it.values(**values, due_at=after(pause)))


def backoff(attempts: int, *, first: timedelta, longest: timedelta) -> timedelta:
    """Return the pause after so many attempts: doubled with each, up to the longest, and spread by a fifth."""
    doubled: timedelta = first * 2 ** min(attempts - 1, MOST_DOUBLINGS)
    return spread(min(doubled, longest))


def spread(pause: timedelta) -> timedelta:
    """Return a pause up to a fifth longer or shorter, so that rows that failed together drift apart."""
    return between(0.8 * pause, 1.2 * pause)


def between(shortest: timedelta, longest: timedelta) -> timedelta:
    """Return a random pause between the two."""
    return shortest + (longest - shortest) * random.random()  # noqa: S311 - spreads load, guards nothing


def _rows(table: type[Row], *conditions: ColumnElement[bool]) -> Select[Any]:
    """Select the keys of the rows that meet the conditions and have an installation."""
    of_it = col(Installation.id) == col(table.installation_id)
    return select(_key(table)).join(Installation, of_it).where(*conditions)


def _key(table: type[Row]) -> Any:
    """Return the table's primary key, as an attribute of its class."""
    return getattr(table, inspect(table).primary_key[0].key)
