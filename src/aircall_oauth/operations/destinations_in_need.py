"""Destinations that need a person: those that take nothing, refuse events, fall behind, or were given up on.

A destination is named with its worst trouble only. Of each kind of trouble the first are shown one by one; the rest is
counted.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from aircall_oauth.deliveries import troubled
from aircall_oauth.deliveries.waiting import Waiting
from aircall_oauth.operations import doctor, measure
from aircall_oauth.operations.doctor import Level
from aircall_oauth.operations.needs import MOST_NAMED, Cause, Need, Touched
from aircall_oauth.resources import Resources
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import SubscriptionStatus
from aircall_oauth.telemetry.metrics import Measurement, Reading

MOST_SHOWN = 5
LATE_SECONDS = 60
FEW_AGO = timedelta(seconds=LATE_SECONDS)
KNOWN = "SELECT id, name, last_error FROM subscription WHERE id = ANY($1)"
GIVEN_UP = """
    SELECT min(dead_at) AS since, (array_agg(reason ORDER BY dead_at DESC))[1] AS failure FROM (
        SELECT dead_at, reason FROM parked WHERE subscription_id = $1 AND dead_at IS NOT NULL
        ORDER BY position LIMIT 1000
    ) AS oldest
"""
REFUSING_ADVICE = (
    "See what it answers, and correct its address or the app behind it: then all is tried again by itself."
)
SLOW, FAILS = "a destination that is slower than they come:", "a destination that did not take its newest try:"


@dataclass(frozen=True)
class Trouble:
    """A destination and what is the matter with it, before it is known since when."""

    subscription_id: str
    cause: Cause
    level: Level
    what: str
    advice: str
    failure: str | None = None
    since: datetime | None = None
    failed_at: datetime | None = None  # the last time, where no try is kept


async def look(
    resources: Resources, measured: Measurement, waiting: Mapping[str, Waiting], *, worker_alive: bool
) -> list[Need]:
    """Return what destinations need a person for; raises `DatabaseAway`."""
    found: dict[str, Trouble] = {}
    for each in [
        *await _taking_nothing(resources),
        *await _refusing(resources),
        *await _failing(resources),
        *(_behind(measured.subscriptions, waiting) if worker_alive else ()),
    ]:
        found.setdefault(each.subscription_id, each)
    dead = [
        Trouble(key, Cause.DEAD_EVENTS, Level.WARNING, _given_up(reading.dead), "See why, and put them back.")
        for key, reading in measured.subscriptions.items()
        if reading.dead and key not in found
    ]
    return await _needs(resources, [*found.values(), *dead])


async def _taking_nothing(resources: Resources) -> list[Trouble]:
    return [
        Trouble(
            each.subscription_id,
            Cause.DESTINATION,
            Level.PROBLEM,
            "The destination wants no more events:" if is_disabled else "The destination is down:",
            doctor.DISABLED_ADVICE if is_disabled else doctor.DOWN_ADVICE,
            each.last_error,
            # Nothing is tried any more: its last failure is the answer that ended it.
            each.last_error_at if is_disabled else None,
            each.last_error_at,
        )
        for each in await troubled.taking_nothing(resources)
        for is_disabled in [each.status == SubscriptionStatus.DISABLED]
    ]


async def _refusing(resources: Resources) -> list[Trouble]:
    return [
        Trouble(
            each.subscription_id,
            Cause.REFUSING,
            Level.PROBLEM if each.events >= troubled.PROOF else Level.WARNING,
            "The destination answers, but refuses every event:"
            if each.events >= troubled.PROOF
            else "The last events were refused, and are tried again, by",
            REFUSING_ADVICE,
            each.last_failure,
        )
        for each in await troubled.refusing(resources)
    ]


async def _failing(resources: Resources) -> list[Trouble]:
    return [
        Trouble(
            each.subscription_id,
            Cause.FAILING,
            Level.WARNING,
            f"More tries failed within the last hour ({each.failed:,}) than events were taken ({each.delivered:,}) by",
            REFUSING_ADVICE,
        )
        for each in await troubled.failing_lately(resources)
    ]


def _behind(readings: Mapping[str, Reading], waiting: Mapping[str, Waiting]) -> Iterable[Trouble]:
    for key, reading in readings.items():
        waits = waiting.get(key, Waiting())
        if reading.up and reading.lag_seconds > LATE_SECONDS and (waits.events or waits.more):
            since = now() - timedelta(seconds=reading.lag_seconds)
            one = waits == Waiting(1)
            what = f"{waits} event{'' if one else 's'} of the log wait{'s' if one else ''} for {SLOW}"
            advice = "See how long it takes to answer; several workers do not help one slow destination."
            yield Trouble(key, Cause.BEHIND, Level.WARNING, what, advice, since=since)


def _given_up(count: int) -> str:
    more = " or more" if count >= measure.FEW_BESIDE else ""
    return f"{count:,}{more} event{'s were' if count != 1 else ' was'} given up on for"


async def _needs(resources: Resources, troubles: Collection[Trouble]) -> list[Need]:
    """Return a need for each of the first few troubles of a cause, and one for all that are left."""
    if not troubles:
        return []
    async with resources.database.driver_connection() as connection:
        known = await connection.fetch(KNOWN, [each.subscription_id for each in troubles])
    names = {row["id"]: row["name"] for row in known}
    last_errors = {row["id"]: row["last_error"] for row in known}
    needs = []
    for cause in Cause:
        of_cause = [_explained(each, last_errors) for each in troubles if each.cause == cause]
        dated = [await _dated(resources, each, last_errors) for each in of_cause[:MOST_SHOWN]]
        needs += [
            _need(each, names)
            for each in dated
            if each.cause != Cause.REFUSING
            or each.level == Level.PROBLEM
            or (each.since is not None and each.since < now() - FEW_AGO)
        ]
        if rest := of_cause[MOST_SHOWN:]:
            touched = tuple(_touched(each, names) for each in rest[:MOST_NAMED])
            what = "The same is so of more destinations:"
            needs.append(Need(cause, rest[0].level, what, rest[0].advice, None, touched, len(rest), _failures(rest)))
    return needs


def _explained(trouble: Trouble, last_errors: Mapping[str, str | None]) -> Trouble:
    """Say why most tries fail, where only their number is known."""
    return (
        replace(trouble, failure=last_errors.get(trouble.subscription_id))
        if trouble.cause == Cause.FAILING
        else trouble
    )


def _failures(troubles: Sequence[Trouble]) -> tuple[str, ...]:
    """Return the most frequent last failures."""
    counted = Counter(each.failure for each in troubles if each.failure)
    return tuple(failure for failure, _ in counted.most_common(MOST_NAMED))


async def _dated(resources: Resources, trouble: Trouble, last_errors: Mapping[str, str | None]) -> Trouble:
    """Find out since when, where it is not known, and whether a destination that is behind fails."""
    if trouble.cause == Cause.BEHIND:
        failing = await troubled.failing_since(resources, trouble.subscription_id)
        failure = None if failing is None else last_errors.get(trouble.subscription_id)
        if failure is None:
            return trouble
        return replace(trouble, what=trouble.what.replace(SLOW, FAILS), failure=failure, advice=REFUSING_ADVICE)
    if trouble.since is not None:
        return trouble
    if trouble.cause == Cause.DEAD_EVENTS:
        async with resources.database.driver_connection() as connection:
            row = await connection.fetchrow(GIVEN_UP, trouble.subscription_id)
        return replace(trouble, since=row["since"], failure=row["failure"])
    since = await troubled.failing_since(resources, trouble.subscription_id)
    return replace(trouble, since=since or trouble.failed_at)


def _need(trouble: Trouble, names: Mapping[str, str]) -> Need:
    touched = (_touched(trouble, names),)
    return Need(
        trouble.cause,
        trouble.level,
        trouble.what,
        trouble.advice,
        trouble.since,
        touched,
        failures=(trouble.failure,) if trouble.failure else (),
    )


def _touched(trouble: Trouble, names: Mapping[str, str]) -> Touched:
    return Touched(trouble.subscription_id, names.get(trouble.subscription_id, trouble.subscription_id))
