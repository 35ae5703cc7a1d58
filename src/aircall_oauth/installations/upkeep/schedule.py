"""The schedule of upkeep: each webhook is reconciled every few minutes, many at once, within its company's budget."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Update, func
from sqlmodel import col, delete, select, update

from aircall_oauth.errors import AircallRefused, AircallUnavailable, BudgetSpent, DatabaseAway
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.lifecycle import TokenState
from aircall_oauth.installations.outages import gaps
from aircall_oauth.installations.pool import Piece, work_off
from aircall_oauth.installations.tokens import ASKING_ERRORS
from aircall_oauth.installations.upkeep import facts, leases, reconcile
from aircall_oauth.installations.upkeep.reconcile import Oddity
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import reason
from aircall_oauth.storage.leases import any_of, backoff, between, is_due
from aircall_oauth.storage.models.installations import Installation, Trouble, Webhook
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import GapReason, InstallationStatus, WebhookStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

RECONCILE_SECONDS = 30.0
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
# A webhook in use is reconciled at least every quarter of an hour, also after failures.
LONGEST_PAUSE_IN_USE = timedelta(minutes=12)
# A chore believes a refusal of a token only after a second one, this much later: a bad minute at Aircall must not end
# an installation.
SECOND_REFUSAL = timedelta(minutes=2), timedelta(minutes=4)
# The token of an `unauthorized` installation is probed now and then, to revive what Aircall refused by mistake.
FIRST_PAUSE_UNAUTHORIZED = timedelta(minutes=15)
LONGEST_PAUSE_UNAUTHORIZED = timedelta(days=1)
THOROUGH_EVERY = timedelta(hours=1)
AT_ONCE = 20
# After errors of our own, all webhooks are reconciled within this time,
SPREAD = timedelta(minutes=1)
# but none so soon after its last time: a sender that makes us fail must not make us ask Aircall without end.
SHORTEST_INTERVAL = timedelta(minutes=2)
KEPT_UP = (InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED)
HAS_DUE_WEBHOOKS = any_of(Webhook, is_due(Webhook), *leases.free(KEPT_UP))
HAS_TROUBLES = select(Trouble.id).exists()


async def ensure_webhook(resources: Resources, installation_id: str) -> None:
    """Register the installation's webhook for a waiting caller, if it is due and no other process works on it.

    Where Aircall can't be asked now, the installation stays, and the worker tries again with growing pauses.
    """
    mine = (col(Webhook.installation_id) == installation_id, is_due(Webhook))
    try:
        for webhook, installation in await leases.take(resources, *mine, statuses=[InstallationStatus.ACTIVE]):
            with suppress(*ASKING_ERRORS):
                await reconcile_leased(resources, webhook, installation, chore=False)
    except DatabaseAway:
        # The worker reconciles it once the lease is over, and adopts a webhook that was made already.
        logger.warning("webhook left to the worker", installation_id=installation_id)


async def reconcile_webhooks(resources: Resources) -> None:
    """Chore: reconcile all webhooks that are due, many at once, each in one process."""

    async def due(free: int) -> list[Piece]:
        taken = await leases.take(resources, is_due(Webhook), statuses=KEPT_UP, limit=free)
        return [_reconcile_one(resources, *one) for one in taken]

    await work_off(due, at_once=AT_ONCE)


async def reconcile_leased(
    resources: Resources, webhook: Webhook, installation: Installation, *, chore: bool
) -> list[Oddity]:
    """Reconcile a leased webhook and, every hour, the installation's facts. Returns what was odd.

    On one of `ASKING_ERRORS` the webhook is put off and the error raised.
    """
    thorough = not chore or webhook.thorough_at is None or webhook.thorough_at <= now() - THOROUGH_EVERY
    try:
        async with asyncio.timeout(RECONCILE_SECONDS):
            odd = await reconcile.reconcile(resources, webhook, installation, chore=chore, thorough=thorough)
    except ASKING_ERRORS as error:
        await _put_off(resources, webhook, installation, error)
        raise
    if odd is None:
        return []
    if thorough:
        await _refresh_facts(resources, installation, chore=chore)
    return odd


async def after_troubles(resources: Resources) -> None:
    """Chore: after a burst of our receiver's own errors, make all webhooks due soon.

    Aircall may have switched off any of them. Each is reconciled within its own company's budget.
    """
    soon = func.greatest(func.now(), col(Webhook.checked_at) + SHORTEST_INTERVAL) + func.random() * SPREAD
    in_use = select(Installation.id).where(col(Installation.status) == InstallationStatus.ACTIVE)
    async with resources.database.session() as session:
        if (await session.exec(delete(Trouble))).rowcount:
            later = _update_in_order(col(Webhook.due_at) > func.now(), col(Webhook.installation_id).in_(in_use))
            made_due = (await session.exec(later.values(due_at=func.least(Webhook.due_at, soon)))).rowcount
            logger.warning("all webhooks are looked at after troubles of our own", webhooks=made_due)


async def find_overlooked(resources: Resources) -> None:
    """Chore: make webhooks in use due that have no due time. An earlier version left them so."""
    in_use = select(Installation.id).where(col(Installation.status).in_(KEPT_UP))
    overlooked = _update_in_order(col(Webhook.due_at).is_(None), col(Webhook.installation_id).in_(in_use))
    async with resources.database.session() as session:
        await session.exec(overlooked.values(due_at=func.now() + func.random() * SPREAD))


def _update_in_order(*conditions: ColumnElement[bool]) -> Update:
    """Return an update of many webhooks that locks them in the order of their installations, as `revoke_all` does."""
    in_order = select(Webhook.id).where(*conditions).order_by(col(Webhook.installation_id)).with_for_update()
    return update(Webhook).where(col(Webhook.id).in_(in_order))


async def _reconcile_one(resources: Resources, webhook: Webhook, installation: Installation) -> None:
    try:
        if installation.status == InstallationStatus.UNAUTHORIZED:
            await _probe_unauthorized(resources, webhook, installation)
        else:
            with suppress(*ASKING_ERRORS):
                await reconcile_leased(resources, webhook, installation, chore=True)
    except DatabaseAway as error:
        # It is due again once the lease is over; the others go on.
        logger.warning("look broken off", installation_id=installation.id, reason=reason(error))


async def _refresh_facts(resources: Resources, installation: Installation, *, chore: bool) -> None:
    """Learn the facts Aircall tells besides the webhook. A waiting caller has learnt them already."""
    try:
        if chore:
            await facts.learn(resources, installation, chore=chore)
    except ASKING_ERRORS as error:
        logger.info("facts not learnt", installation_id=installation.id, reason=str(error) or "timeout")
    else:
        thorough = update(Webhook).where(col(Webhook.installation_id) == installation.id)
        async with resources.database.session() as session:
            await session.exec(thorough.values(thorough_at=func.now()))


async def _probe_unauthorized(resources: Resources, webhook: Webhook, installation: Installation) -> None:
    state, _ = await tokens.probe_token(resources, installation)
    if state == TokenState.ALIVE:
        await lifecycle.revive(resources, installation)
    pause = backoff(webhook.attempts, first=FIRST_PAUSE_UNAUTHORIZED, longest=LONGEST_PAUSE_UNAUTHORIZED)
    async with resources.database.session() as session:
        await leases.give_back(session, webhook, due_in=pause)


async def _put_off(resources: Resources, webhook: Webhook, installation: Installation, error: Exception) -> None:
    reason = str(error) or "timeout"
    logger.warning("webhook looked at in vain", installation_id=webhook.installation_id, reason=reason)
    refused = isinstance(error, AircallRefused) and error.aircall_status in tokens.DEAD_TOKEN
    values: dict[str, Any] = {"last_error": reason}
    pause = _pause(webhook, error)
    if refused:
        values["refused_at"] = func.coalesce(Webhook.refused_at, func.now())
        pause = between(*SECOND_REFUSAL) if webhook.refused_at is None else pause
    elif isinstance(error, BudgetSpent):
        # Not a failure, so it must not lengthen the next pause.
        values["attempts"] = min(webhook.attempts, 2)
    async with resources.database.session() as session:
        await lifecycle.lock(session, installation.id)
        await leases.give_back(session, webhook, due_in=pause, **values)
        if webhook.webhook_id is None:
            await gaps.begin(
                session, installation.id, reason=GapReason.WEBHOOK_MISSING, since=installation.connected_at
            )
    if refused and webhook.refused_at is not None and webhook.refused_at <= now() - SECOND_REFUSAL[0]:
        await tokens.suspect_token(resources, installation.id)


def _pause(webhook: Webhook, error: Exception) -> timedelta:
    longest = LONGEST_PAUSE if webhook.status == WebhookStatus.PENDING else LONGEST_PAUSE_IN_USE
    attempts = 1 if isinstance(error, BudgetSpent) else webhook.attempts
    pause = backoff(attempts, first=FIRST_PAUSE, longest=longest)
    told = error.retry_after_seconds if isinstance(error, AircallUnavailable | BudgetSpent) else None
    return max(pause, timedelta(seconds=min(told or 0.0, LONGEST_PAUSE.total_seconds())))
