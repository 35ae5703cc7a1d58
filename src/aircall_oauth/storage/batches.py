"""Deletes many rows some at a time, so that no transaction is long."""

from typing import Any

from aircall_oauth.storage.database import Database

BATCH = 5000


async def delete(database: Database, statement: str, *values: Any) -> None:
    """Run a DELETE until it finds no more rows, each time in a transaction of its own.

    `statement` deletes at most as many rows as its last parameter says, which is given after `values`. Raises
    `DatabaseAway`; what was deleted before stays deleted.
    """
    deleted = BATCH
    while deleted == BATCH:
        async with database.driver_connection() as connection:
            answer = await connection.execute(statement, *values, BATCH)
        deleted = int(answer.split()[-1])
