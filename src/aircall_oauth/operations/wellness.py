"""What needs a person now, by what the database knows: nobody is asked over the network, and few rows are read."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, auto

from aircall_oauth.deliveries import troubled
from aircall_oauth.operations import doctor, measure
from aircall_oauth.operations.doctor import Level
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.deliveries import SubscriptionStatus
from aircall_oauth.storage.models.installations import InstallationStatus, WebhookStatus
from aircall_oauth.telemetry.metrics import Measurement

# How many are named; the rest is counted.
MOST_NAMED = 3
MOST_COUNTED = 1000
NAME = "coalesce(i.company_name, i.owner, i.id)"
ACTIVE = f"i.status = '{InstallationStatus.ACTIVE}'"
OFF = f"'{WebhookStatus.DISABLED}', '{WebhookStatus.MISSING}'"
# Each gives id, name and since when; the longest first.
REFUSED = f"""
    SELECT i.id, {NAME}, w.refused_at FROM installation AS i LEFT JOIN webhook AS w ON w.installation_id = i.id
    WHERE i.status = '{InstallationStatus.UNAUTHORIZED}' ORDER BY w.refused_at, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - only constants of ours are put in
SWITCHED_OFF = f"""
    SELECT i.id, {NAME}, g.since FROM webhook AS w JOIN installation AS i ON i.id = w.installation_id AND {ACTIVE}
    LEFT JOIN LATERAL (SELECT min(since) AS since FROM gap WHERE installation_id = i.id AND until IS NULL) AS g ON true
    WHERE w.status IN ({OFF}) ORDER BY g.since, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
SILENT = f"""
    SELECT i.id, {NAME}, to_timestamp(3600 * (r.hour + 1)) FROM rhythm AS r
    JOIN installation AS i ON i.id = r.installation_id AND {ACTIVE}
    WHERE r.silent_at <= now() ORDER BY r.silent_at, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
NUMBERLESS = f"""
    SELECT i.id, {NAME}, i.connected_at FROM installation AS i
    WHERE {ACTIVE} AND i.number_ids = '{{}}' ORDER BY i.connected_at, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
NAMES = "SELECT id, name FROM subscription WHERE id = ANY($1)"


class Cause(StrEnum):
    """What can need a person."""

    WORKER = auto()
    TOKENS_REFUSED = auto()
    WEBHOOKS_OFF = auto()
    DESTINATION = auto()
    DEAD_EVENTS = auto()
    SILENT = auto()
    NO_NUMBERS = auto()


@dataclass(frozen=True)
class Touched:
    """A customer or a destination that a need is about."""

    id: str
    name: str


@dataclass(frozen=True)
class Need:
    """Something that needs a person: how bad it is, what, since when, whom it touches, and how many there are."""

    cause: Cause
    level: Level
    what: str
    advice: str
    since: datetime | None = None
    touched: tuple[Touched, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Wellness:
    """What was measured, and what needs a person, the worst first."""

    measured: Measurement
    needs: list[Need]
    worker_alive: bool


async def examine(resources: Resources) -> Wellness:
    """Look at everything that the database knows; raises `DatabaseAway`."""
    measured = await measure.read(resources)
    worker = await doctor.worker_finding(resources)
    needs = [] if worker.level == Level.OK else [_worker(worker.advice)]
    needs += await _customers(resources)
    needs += await _destinations(resources, measured)
    ordered = sorted(needs, key=lambda need: need.level != Level.PROBLEM)
    return Wellness(measured, ordered, worker.level == Level.OK)


def _worker(advice: str | None) -> Need:
    what = "No worker runs: work is overdue, and nothing is delivered."
    return Need(Cause.WORKER, Level.PROBLEM, what, advice or "Run `aircall-oauth work`.")


async def _customers(resources: Resources) -> list[Need]:
    told = (
        (
            Cause.TOKENS_REFUSED,
            Level.PROBLEM,
            REFUSED,
            "Aircall no longer accepts the token of",
            "Ask its admin to install the app again; id and owner stay.",
        ),
        (
            Cause.WEBHOOKS_OFF,
            Level.PROBLEM,
            SWITCHED_OFF,
            "The webhook at Aircall is off or gone of",
            "The worker repairs it; check now to see why it can't.",
        ),
        (
            Cause.SILENT,
            Level.WARNING,
            SILENT,
            "No events come, at hours when they usually do, from",
            "Check now: it says whether webhook, numbers and token are well.",
        ),
        (
            Cause.NO_NUMBERS,
            Level.WARNING,
            NUMBERLESS,
            "No number is linked to the app in Aircall, so no calls come, from",
            "Only its admin can choose numbers, in Aircall's Dashboard.",
        ),
    )
    needs = []
    for cause, level, statement, what, advice in told:
        async with resources.database.driver_connection() as connection:
            rows = await connection.fetch(statement)
        if rows:
            named = tuple(Touched(row[0], row[1]) for row in rows[:MOST_NAMED])
            needs.append(Need(cause, level, what, advice, rows[0][2], named, len(rows)))
    return needs


async def _destinations(resources: Resources, measured: Measurement) -> list[Need]:
    down = {each.subscription_id: each for each in await troubled.taking_nothing(resources)}
    dead = {key: reading.dead for key, reading in measured.subscriptions.items() if reading.dead and key not in down}
    async with resources.database.driver_connection() as connection:
        names = dict(await connection.fetch(NAMES, [*down, *dead]))
    needs = []
    for key, each in down.items():
        disabled = each.status == SubscriptionStatus.DISABLED
        what = (
            f"The destination {'wants no more events' if disabled else 'is down'} ({each.last_error or 'not tried'}):"
        )
        advice = doctor.DISABLED_ADVICE if disabled else doctor.DOWN_ADVICE
        touched = (Touched(key, names.get(key, key)),)
        needs.append(Need(Cause.DESTINATION, Level.PROBLEM, what, advice, each.last_error_at, touched))
    for key, count in dead.items():
        what = f"{count} event{'s were' if count != 1 else ' was'} given up on for"
        advice = "See why they failed, and put them back once the destination takes them."
        needs.append(Need(Cause.DEAD_EVENTS, Level.WARNING, what, advice, None, (Touched(key, names.get(key, key)),)))
    return needs
