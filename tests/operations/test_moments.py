"""A clock that was ahead for a moment puts nothing off for a month."""

from datetime import timedelta

import pytest
from sqlalchemy import DateTime

from aircall_oauth.operations import moments
from aircall_oauth.operations.moments import MOMENTS, OF_ACTIVE, Moment
from aircall_oauth.storage.models.base import Table
from tests.support.service import Service

MONTH = timedelta(days=32)
# Set by a person, learned from the past, in the past by its meaning, or bounded where it is read.
ELSEWHERE = {
    ("api_key", "expires_at"),
    ("rhythm", "silent_at"),
    ("gap", "until"),
    ("budget", "closed_until"),
    ("replay", "until"),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment.table}.{moment.column}")
async def test_a_moment_a_month_ahead_is_brought_back(service: Service, moment: Moment) -> None:
    installation_id = await service.installed()
    # An empty twin without constraints takes a row that is nothing but its moment.
    await service.sql(f"ALTER TABLE {moment.table} RENAME TO away")
    await service.sql(f"CREATE TABLE {moment.table} AS SELECT * FROM away WHERE false")
    owner = (", installation_id", f", '{installation_id}'") if moment.only == OF_ACTIVE else ("", "")
    for ahead in (moment.furthest - timedelta(minutes=1), MONTH):
        await service.sql(
            f"INSERT INTO {moment.table} ({moment.column}{owner[0]}) VALUES (now() + $1::interval{owner[1]})", ahead
        )

    await moments.bring_back(service.resources)

    rows = await service.sql(f"SELECT {moment.column} - now() AS ahead FROM {moment.table} ORDER BY 1")
    earlier, later = (row["ahead"] for row in rows)
    almost = moment.furthest - timedelta(minutes=2)
    if moment.is_work:
        # A pause of most minutes comes to its end in minutes, not in the day that the longest one may last.
        assert earlier < timedelta(minutes=5)
        assert almost < later < moment.furthest
    else:
        assert almost < earlier < later <= moment.furthest


def test_every_moment_to_come_is_looked_at() -> None:
    looked_at = {(moment.table, moment.column) for moment in MOMENTS}
    columns = {
        (table.name, column.name)
        for table in Table.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, DateTime) and column.name.endswith(("due_at", "until", "switch_on_at", "expires_at"))
    } | {("rhythm", "silent_at")}

    assert columns == looked_at | ELSEWHERE
