"""Measurements of the database for the metrics, taken by every worker with one statement, at its own pace.

They are not taken when Prometheus scrapes: how often the database is asked must not depend on that.
"""

import json
from enum import StrEnum

from aircall_oauth.events.positions import HOLDERS, NEWEST_POSITION
from aircall_oauth.resources import Resources
from aircall_oauth.storage.partitions import DAYS_AHEAD
from aircall_oauth.storage.statuses import Health, InstallationStatus, SubscriptionStatus, WebhookStatus
from aircall_oauth.telemetry.metrics import MOST_BESIDE, MOST_SUBSCRIPTIONS, Measurement, Reading

MEASURE_SECONDS = 5.0
# The first event past a position, in any of the log's days.
OLDEST_UNREAD = "SELECT received_at FROM event WHERE position > subscription.position ORDER BY position LIMIT 1"
OLDEST_PARKED = """
    SELECT received_at FROM parked WHERE subscription_id = subscription.id AND dead_at IS NULL
    ORDER BY received_at LIMIT 1
"""
HAS_DEAD = "EXISTS (SELECT FROM parked WHERE subscription_id = subscription.id AND dead_at IS NOT NULL)"
# Waiting and dead events have an index each; a table of millions is not counted to its end every time.
FEW_BESIDE = 1_000  # for a page
BESIDE = """
    (SELECT count(*) FROM (
        SELECT FROM parked WHERE subscription_id = subscription.id AND dead_at {} LIMIT $1
    ) AS bounded)
"""
UP = f"health = '{Health.UP}' AND status = '{SubscriptionStatus.ACTIVE}'"
# Those that most need attention come first, so that the worst are measured even where there are too many to expose.
SUBSCRIPTIONS = f"""
    SELECT id, json_build_object(
        'name', name,
        'lag', greatest({NEWEST_POSITION} - position, 0),
        'lag_seconds', coalesce(greatest(extract(epoch FROM clock_timestamp() - unread.at), 0), 0),
        'oldest_seconds', coalesce(greatest(extract(epoch FROM clock_timestamp() - least(
            unread.at, ({OLDEST_PARKED})
        )), 0), 0),
        'up', {UP},
        'parked', {BESIDE.format("IS NULL")},
        'dead', {BESIDE.format("IS NOT NULL")}
    ) AS reading
    FROM (
        SELECT * FROM subscription WHERE status {{}} '{SubscriptionStatus.PAUSED}'
        ORDER BY {UP}, NOT {HAS_DEAD}, position, id LIMIT {MOST_SUBSCRIPTIONS}
    ) AS subscription LEFT JOIN LATERAL ({OLDEST_UNREAD}) AS unread (at) ON true
"""  # noqa: S608 - only constants of ours are put in
OF_ACTIVE = f"JOIN installation ON installation.id = installation_id AND status = '{InstallationStatus.ACTIVE}'"
MEASURE = f"""
    SELECT (SELECT json_object_agg(status, n)::text
            FROM (SELECT status, count(*) AS n FROM installation GROUP BY status) AS counted) AS installations,
           (SELECT json_object_agg(status, n)::text
            FROM (SELECT status, count(*) AS n FROM webhook GROUP BY status) AS counted) AS webhooks,
           (SELECT count(*) FROM rhythm {OF_ACTIVE} WHERE silent_at <= now()) AS silent,
           (SELECT count(*) FROM gap {OF_ACTIVE} WHERE until IS NULL) AS gaps_open,
           (SELECT count(*) FROM gap {OF_ACTIVE} WHERE due_at IS NOT NULL) AS gaps_to_fill,
           (SELECT json_object_agg(id, reading)::text FROM ({SUBSCRIPTIONS.format("<>")}) AS first) AS subscriptions,
           (SELECT json_object_agg(id, reading)::text FROM ({SUBSCRIPTIONS.format("=")}) AS first) AS paused,
           (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
           ) AS oldest_transaction_seconds,
           (SELECT coalesce(max(extract(epoch FROM held_for)), 0) FROM ({HOLDERS}) AS holder) AS log_held_seconds,
           ({DAYS_AHEAD}) AS days_ahead,
           (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM event_position) AS position
"""  # noqa: S608 - only constants of ours are put in


async def measure(resources: Resources) -> None:
    """The worker's chore: measure once, and keep the result for the next scrapes."""
    resources.metrics.measured(await read(resources))


async def read(resources: Resources, *, most_beside: int = MOST_BESIDE) -> Measurement:
    """Measure now; of what waits beside the log, or was given up on, so many events of a subscription are counted."""
    async with resources.database.driver_connection() as connection:
        row = await connection.fetchrow(MEASURE, most_beside, timeout=MEASURE_SECONDS)
    return Measurement(
        installations=_every(InstallationStatus, row["installations"]),
        webhooks=_every(WebhookStatus, row["webhooks"]),
        silent=row["silent"],
        gaps_open=row["gaps_open"],
        gaps_to_fill=row["gaps_to_fill"],
        subscriptions=_readings(row["subscriptions"]),
        paused=_readings(row["paused"]),
        oldest_transaction_seconds=float(row["oldest_transaction_seconds"]),
        log_held_seconds=float(row["log_held_seconds"]),
        days_ahead=row["days_ahead"],
        position=row["position"],
    )


def _every(statuses: type[StrEnum], counted: str | None) -> dict[str, int]:
    """Return a number for every status, zero where no row has it."""
    found: dict[str, int] = json.loads(counted or "{}")
    return dict.fromkeys((str(status) for status in statuses), 0) | found


def _readings(told: str | None) -> dict[str, Reading]:
    return {subscription_id: Reading(**reading) for subscription_id, reading in json.loads(told or "{}").items()}
