"""Who looks at which installation, and when: each every few minutes, within its company's budget, many at once."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Update, func
from sqlmodel import col, delete, select, update

from aircall_oauth.errors import AircallRefused, AircallUnavailable, BudgetSpent, DatabaseAway
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.lifecycle import Look
from aircall_oauth.installations.outages import gaps
from aircall_oauth.installations.pool import Piece, work_off
from aircall_oauth.installations.tokens import NotNow
from aircall_oauth.installations.upkeep import facts, leases, reconcile
from aircall_oauth.installations.upkeep.reconcile import Oddity
from aircall_oauth.resources import Resources
from aircall_oauth.storage.leases import backoff, between, is_due
from aircall_oauth.storage.models.base import now
from aircall_oauth.storage.models.installations import (
    GapReason,
    Installation,
    InstallationStatus,
    Trouble,
    Webhook,
    WebhookStatus,
)
from aircall_oauth.telemetry import log

logger = log.get(__name__)

LOOK_SECONDS = 30.0
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
# A webhook that is in use is looked at again within a quarter of an hour, whatever came in between.
LONGEST_PAUSE_IN_USE = timedelta(minutes=12)
# A token is refused twice, so far apart, before a chore believes it: Aircall's bad minute kills nobody.
SECOND_REFUSAL = timedelta(minutes=2), timedelta(minutes=4)
# An `unauthorized` installation is asked about now and then: what Aircall refused by mistake comes back by itself.
FIRST_PAUSE_OF_THE_DEAD = timedelta(minutes=15)
LONGEST_PAUSE_OF_THE_DEAD = timedelta(days=1)
THOROUGH_EVERY = timedelta(hours=1)
AT_ONCE = 20
# After errors of our own all are looked at within this.
SPREAD = timedelta(minutes=1)
# But none so soon after its last look: whoever can make us fail must not make us ask without end.
BETWEEN_LOOKS = timedelta(minutes=2)
LOOKED_AFTER = (InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED)


async def ensure_webhook(resources: Resources, installation_id: str) -> None:
    """Register the installation's webhook for somebody who waits, if it is due and nobody else is at it.

    Where it can't be registered now the installation stays, and the worker tries again with growing pauses.
    """
    mine = (col(Webhook.installation_id) == installation_id, is_due(Webhook))
    try:
        for webhook, installation in await leases.take(resources, *mine, statuses=[InstallationStatus.ACTIVE]):
            with suppress(*NotNow):
                await attend(resources, webhook, installation, chore=False)
    except DatabaseAway:
        # What was taken is looked at again when the lease is over; a webhook already made is adopted then.
        logger.warning("webhook left to the worker", installation_id=installation_id)


async def look_after_webhooks(resources: Resources) -> None:
    """The worker's chore: look at all that are due, many at once, whichever process comes first."""

    async def due(free: int) -> list[Piece]:
        taken = await leases.take(resources, is_due(Webhook), statuses=LOOKED_AFTER, limit=free)
        return [_look(resources, *one) for one in taken]

    await work_off(due, at_once=AT_ONCE)


async def attend(resources: Resources, webhook: Webhook, installation: Installation, *, chore: bool) -> list[Oddity]:
    """One look at a leased webhook and all that it needs; what was odd.

    What can't be done now is put off, and raised: one of `NotNow`.
    """
    thorough = not chore or webhook.thorough_at is None or webhook.thorough_at <= now() - THOROUGH_EVERY
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            odd = await reconcile.look(resources, webhook, installation, chore=chore, thorough=thorough)
    except NotNow as error:
        await _put_off(resources, webhook, installation, error)
        raise
    if odd is None:
        return []
    if thorough:
        await _look_further(resources, installation, chore=chore)
    return odd


async def after_troubles(resources: Resources) -> None:
    """The worker's chore: once our receiver has failed for a while, Aircall may have switched off any webhook.

    So all of them are looked at soon, each within its own company's budget.
    """
    soon = func.greatest(func.now(), col(Webhook.checked_at) + BETWEEN_LOOKS) + func.random() * SPREAD
    in_use = select(Installation.id).where(col(Installation.status) == InstallationStatus.ACTIVE)
    async with resources.database.session() as session:
        if (await session.exec(delete(Trouble))).rowcount:
            later = _these(col(Webhook.due_at) > func.now(), col(Webhook.installation_id).in_(in_use))
            looked_at = (await session.exec(later.values(due_at=func.least(Webhook.due_at, soon)))).rowcount
            logger.warning("all webhooks are looked at after troubles of our own", webhooks=looked_at)


async def find_overlooked(resources: Resources) -> None:
    """The worker's chore: a webhook in use without a next look gets one. A version before this one left them so."""
    in_use = select(Installation.id).where(col(Installation.status).in_(LOOKED_AFTER))
    overlooked = _these(col(Webhook.due_at).is_(None), col(Webhook.installation_id).in_(in_use))
    async with resources.database.session() as session:
        await session.exec(overlooked.values(due_at=func.now() + func.random() * SPREAD))


def _these(*conditions: ColumnElement[bool]) -> Update:
    """Change many webhooks, locked in the order of their installations, as the kill switch comes by them."""
    in_order = select(Webhook.id).where(*conditions).order_by(col(Webhook.installation_id)).with_for_update()
    return update(Webhook).where(col(Webhook.id).in_(in_order))


async def _look(resources: Resources, webhook: Webhook, installation: Installation) -> None:
    try:
        if installation.status == InstallationStatus.UNAUTHORIZED:
            await _ask_the_dead(resources, webhook, installation)
        else:
            with suppress(*NotNow):
                await attend(resources, webhook, installation, chore=True)
    except DatabaseAway:
        # It is looked at again when the lease is over; the others go on.
        logger.warning("look broken off", installation_id=installation.id)


async def _look_further(resources: Resources, installation: Installation, *, chore: bool) -> None:
    """Learn what else Aircall tells of it. Who waits for a webhook has asked for that himself."""
    try:
        if chore:
            await facts.learn(resources, installation, chore=chore)
    except NotNow as error:
        logger.info("facts not learnt", installation_id=installation.id, reason=str(error) or "timeout")
    else:
        looked = update(Webhook).where(col(Webhook.installation_id) == installation.id)
        async with resources.database.session() as session:
            await session.exec(looked.values(thorough_at=func.now()))


async def _ask_the_dead(resources: Resources, webhook: Webhook, installation: Installation) -> None:
    found, _ = await tokens.look(resources, installation)
    if found == Look.ALIVE:
        await lifecycle.revive(resources, installation)
    pause = backoff(webhook.attempts, first=FIRST_PAUSE_OF_THE_DEAD, longest=LONGEST_PAUSE_OF_THE_DEAD)
    async with resources.database.session() as session:
        await leases.give_back(session, webhook, next_look=pause)


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
        # It is nobody's fault: the next pause is as long.
        values["attempts"] = min(webhook.attempts, 2)
    async with resources.database.session() as session:
        await lifecycle.lock(session, installation.id)
        await leases.give_back(session, webhook, next_look=pause, **values)
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
