"""The table of the budget of calls to Aircall."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
)

from aircall_oauth.storage.models.base import Table, column, time_column


class Budget(Table, table=True):
    """The calls of the last minute for one Aircall company; `aircall/budget.py` has the statements."""

    __tablename__ = "budget"

    company_id: int = column(BigInteger, primary_key=True, autoincrement=False)
    second: int = column(BigInteger)  # the UNIX second of `spent[1]`; each further entry is one second older
    spent: list[int] = column(ARRAY(Integer))
    closed_until: datetime | None = time_column(nullable=True)  # Aircall said that nothing is left until then
