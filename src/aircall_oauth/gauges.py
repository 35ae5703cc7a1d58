"""What only the database knows, measured for the metrics: by every worker, with one statement, at its own pace.

Not when somebody scrapes: how often the database is asked must not depend on who looks.
"""

import json
from enum import StrEnum

from aircall_oauth.database import database_errors
from aircall_oauth.metrics import Measurement
from aircall_oauth.models import InstallationStatus, WebhookStatus
from aircall_oauth.partitions import DAYS_AHEAD
from aircall_oauth.resources import Resources

MEASURE_SECONDS = 5.0
MEASURE = f"""
    SELECT (SELECT json_object_agg(status, n)::text
            FROM (SELECT status, count(*) AS n FROM installation GROUP BY status) AS counted) AS installations,
           (SELECT json_object_agg(status, n)::text
            FROM (SELECT status, count(*) AS n FROM webhook GROUP BY status) AS counted) AS webhooks,
           (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
           ) AS oldest_transaction_seconds,
           ({DAYS_AHEAD}) AS days_ahead,
           (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM event_position) AS position
"""  # noqa: S608 - only a constant of ours is put in


async def measure(resources: Resources) -> None:
    """The worker's chore: look once, and keep what was seen for whoever scrapes."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            row = await connection.fetchrow(MEASURE, timeout=MEASURE_SECONDS)
    resources.metrics.measured(
        Measurement(
            installations=_every(InstallationStatus, row["installations"]),
            webhooks=_every(WebhookStatus, row["webhooks"]),
            oldest_transaction_seconds=float(row["oldest_transaction_seconds"]),
            days_ahead=row["days_ahead"],
            position=row["position"],
        )
    )


def _every(statuses: type[StrEnum], counted: str | None) -> dict[str, int]:
    """A number for each status there is: none is zero, not nothing."""
    found: dict[str, int] = json.loads(counted or "{}")
    return dict.fromkeys((str(status) for status in statuses), 0) | found
