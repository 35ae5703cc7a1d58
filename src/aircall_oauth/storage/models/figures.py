"""The table of the numbers over time."""

from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, Boolean, Index

from aircall_oauth.storage.models.base import Table, column, one_of, text_column, time_column
from aircall_oauth.storage.statuses import Step


class Figure(Table, table=True):
    """What all processes counted together under a name and a label in one minute, or in one hour.

    `telemetry/figures.py` has the names, and says what the amounts of each are.
    """

    __tablename__ = "figure"
    __table_args__ = (one_of("step", Step), Index("ix_figure_step_at", "step", "at"))

    name: str = text_column(primary_key=True)
    label: str = text_column(primary_key=True)  # empty for a figure about everything
    step: str = text_column(primary_key=True)
    at: datetime = time_column(primary_key=True)
    highest: bool = column(Boolean)  # the most at once in that time, instead of a sum
    amounts: list[int] = column(ARRAY(BigInteger))
