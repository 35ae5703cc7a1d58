"""What needs a person now, by what the database knows: nobody is asked over the network, and few rows are read."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from aircall_oauth.deliveries import waiting
from aircall_oauth.deliveries.waiting import Waiting
from aircall_oauth.operations import customers_in_need, destinations_in_need, doctor, measure
from aircall_oauth.operations.doctor import Level
from aircall_oauth.operations.needs import Cause, Need
from aircall_oauth.resources import Resources
from aircall_oauth.storage import figures
from aircall_oauth.telemetry.figures import ACK_SECONDS, ALL, Name, quantile
from aircall_oauth.telemetry.metrics import Measurement

HOUR = timedelta(hours=1)
# Aircall waits five seconds, and switches the webhook off after some that took longer.
SLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Wellness:
    """What was measured, and what needs a person, the worst first.

    `ack_seconds` is within how many seconds 99 of 100 events of the last hour were answered; None if none came.
    `waiting` is how many deliveries wait in the log, of all destinations together.
    """

    measured: Measurement
    needs: list[Need]
    worker_alive: bool
    ack_seconds: float | None
    waiting: Waiting


async def examine(resources: Resources) -> Wellness:
    """Look at everything that the database knows; raises `DatabaseAway`."""
    measured = await measure.read(resources, most_beside=measure.FEW_BESIDE)
    worker = await _worker(resources, measured.days_ahead)
    ack_seconds = await _slow_ack_seconds(resources)
    needs = [] if worker is None else [worker]
    if ack_seconds is not None and ack_seconds >= SLOW_SECONDS:
        needs.append(_slow_answers(ack_seconds))
    needs += await customers_in_need.look(resources)
    waits = await waiting.in_the_log(resources)
    needs += await destinations_in_need.look(resources, measured, waits, worker_alive=worker is None)
    ordered = sorted(needs, key=lambda need: need.level != Level.PROBLEM)
    return Wellness(measured, ordered, worker is None, ack_seconds, sum(waits.values(), Waiting()))


async def _worker(resources: Resources, days_ahead: int) -> Need | None:
    """Return that no worker runs, where none was counted lately or its work is overdue."""
    found = await doctor.work_finding(resources, days_ahead=days_ahead)
    seen_at = await doctor.worker_seen_at(resources)
    is_gone = seen_at is not None and doctor.is_gone(seen_at)
    if found.level == Level.OK and not is_gone:
        return None
    since: datetime | None = seen_at if is_gone else None
    what = "No worker runs: nothing is delivered to any destination, and no customer is looked after."
    return Need(Cause.WORKER, Level.PROBLEM, what, doctor.RUN_WORKER, since)


def _slow_answers(seconds: float) -> Need:
    what = f"All customers' events are answered slowly: one in a hundred of the last hour took {seconds:.1f} s or more."
    advice = "See how busy PostgreSQL and this service's machine are: Aircall switches webhooks off after 5 s."
    return Need(Cause.SLOW_ANSWERS, Level.WARNING, what, advice)


async def _slow_ack_seconds(resources: Resources) -> float | None:
    found = await figures.totals(resources.database, Name.ACK_SECONDS, [ALL], within=HOUR)
    return quantile(0.99, ACK_SECONDS, found.get(ALL, []))
