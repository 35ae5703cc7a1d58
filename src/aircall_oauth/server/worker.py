"""The background work: a list of chores, and the readers that deliver."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from aircall_oauth.access import audit
from aircall_oauth.console.sessions import forget as forget_console_sessions
from aircall_oauth.deliveries import repeated, sealing, telling, troubled
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.deliveries.replays.runner import replaying
from aircall_oauth.deliveries.retention import forget_attempts, forget_parked
from aircall_oauth.events import retention
from aircall_oauth.installations.attempts import recording as attempts
from aircall_oauth.installations.disconnect import farewell, uninstalls
from aircall_oauth.installations.oauth import claims, flow
from aircall_oauth.installations.outages import backfill, silence
from aircall_oauth.installations.upkeep import retired, schedule, switching
from aircall_oauth.operations import figures, measure, moments, sessions
from aircall_oauth.privacy import erasing, erasures, expiring
from aircall_oauth.resources import Resources
from aircall_oauth.server.chores import Chore, begin
from aircall_oauth.telemetry.metrics import Role

CHORES = (
    Chore("look after webhooks", schedule.reconcile_webhooks, timedelta(seconds=2), schedule.HAS_DUE_WEBHOOKS),
    Chore("look after troubles", schedule.after_troubles, timedelta(seconds=2), schedule.HAS_TROUBLES),
    Chore("find overlooked webhooks", schedule.find_overlooked, timedelta(minutes=10)),
    Chore("delete retired webhooks", retired.delete_retired, timedelta(seconds=5), retired.HAS_DUE),
    Chore("forget flows", flow.forget_flows, timedelta(hours=1)),
    Chore("forget install attempts", attempts.forget, timedelta(hours=1)),
    Chore("expire claims", claims.expire, timedelta(minutes=1)),
    Chore("notice uninstalls", uninstalls.notice_uninstalls, timedelta(seconds=2), uninstalls.HAS_NEW_EVENTS),
    Chore("look at uninstalls", uninstalls.confirm_uninstalls, timedelta(seconds=2), uninstalls.HAS_DUE),
    Chore("say goodbyes", farewell.finish_farewells, timedelta(seconds=5), farewell.HAS_DUE),
    Chore("switch on again", switching.make_sure, timedelta(seconds=5), switching.HAS_DUE),
    Chore("fill gaps", backfill.fill_gaps, timedelta(seconds=2), backfill.HAS_DUE),
    Chore("forget gaps", backfill.forget_gaps, timedelta(hours=1)),
    Chore("learn rhythms", silence.learn_rhythms, timedelta(minutes=1), silence.HAS_NEW_EVENTS),
    Chore("make days", retention.make_days, timedelta(hours=1)),
    Chore("drop days", retention.drop_days, timedelta(minutes=10)),
    Chore("forget fingerprints", retention.forget_fingerprints, timedelta(minutes=10)),
    Chore("bring moments back", moments.bring_back, timedelta(seconds=30)),
    Chore("end silent sessions", sessions.end_silent, timedelta(seconds=5), sessions.HAS_WAITING),
    Chore("measure", measure.measure, timedelta(seconds=15)),
    Chore("forget figures", figures.forget, timedelta(minutes=10)),
    Chore("forget the audit", audit.forget_old, timedelta(hours=1)),
    Chore("forget console sessions", forget_console_sessions, timedelta(minutes=10)),
    Chore("seal urls", sealing.seal_urls, timedelta(minutes=1)),
    Chore("tell of destinations", telling.tell_of_destinations, timedelta(seconds=5), telling.HAS_CHANGES),
    Chore("tell of idle filters", troubled.tell_of_idle_filters, timedelta(days=1)),
    Chore("forget attempts", forget_attempts, timedelta(minutes=10)),
    Chore("forget parked", forget_parked, timedelta(minutes=10)),
    Chore("forget creation keys", repeated.forget, timedelta(hours=1)),
    Chore("expire events", expiring.expire, timedelta(minutes=1)),
    Chore("erase", erasing.erase, timedelta(seconds=2), erasing.HAS_DUE),
    Chore("erase the departed", erasures.erase_departed, timedelta(minutes=10)),
    Chore("forget erasures", erasures.forget, timedelta(hours=1)),
)


@asynccontextmanager
async def working(resources: Resources) -> AsyncIterator[None]:
    """Run all chores, and deliver events, while the block lasts.

    At its end, deliveries under way are waited for. Chores are cancelled, which leaves nothing half done: what a chore
    had claimed falls due again when its lease ends.
    """
    resources.metrics.acts_as(Role.WORKER)
    resources.chore_ended_at = time.monotonic()
    resources.metrics.expect_chores(chore.name for chore in CHORES)
    tasks = begin(CHORES, resources)
    try:
        async with figures.kept(resources), reading(resources), replaying(resources):
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
