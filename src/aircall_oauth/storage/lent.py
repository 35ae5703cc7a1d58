"""Connections that are lent a session for each transaction: through a pooler in transaction mode."""

from typing import Any

import asyncpg

# What a session of our own is told once (`hosts`, `database`), for each transaction: each may get another session.
OF_EACH_TRANSACTION = """
    SELECT set_config('idle_in_transaction_session_timeout', '5s', true),
           set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
"""


class Lent(asyncpg.Connection):  # type: ignore[misc]
    """Tells the session at the beginning of each transaction what holds for all of ours, in the same message."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        begins = query.startswith("BEGIN") and not args
        told: str = await super().execute(query + OF_EACH_TRANSACTION if begins else query, *args, timeout=timeout)
        return told


# No statement is kept prepared: the next one may meet a session that does not know it.
LENT: dict[str, Any] = {"statement_cache_size": 0, "connection_class": Lent}
# The same for SQLAlchemy, which prepares each statement itself; a statement without a name is sent with its execution.
LENT_BELOW: dict[str, Any] = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}
