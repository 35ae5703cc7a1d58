"""Keeps an installation receiving events: its webhook exists in Aircall, once, and is ours to recognise."""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import ColumnElement, and_, case, func, or_
from sqlmodel import col, select, update

from aircall_oauth import log, standing
from aircall_oauth.aircall.payloads import EVENT_NAMES, UNINSTALLED, AircallWebhook
from aircall_oauth.errors import AircallError, AircallRefused, AircallUnavailable, BudgetSpent, DatabaseAway
from aircall_oauth.models import (
    WEBHOOK_TOKEN_PURPOSE,
    Installation,
    InstallationStatus,
    Webhook,
    WebhookStatus,
)
from aircall_oauth.resources import Resources

logger = log.get(__name__)

# Who looks after a webhook has it for this long; the calls to Aircall stay well below.
LEASE = timedelta(seconds=90)
REGISTER_SECONDS = 20.0
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
BATCH = 20
# To look for our webhook, to make or change it, and to read its token.
CALLS_TO_REGISTER = 3


async def ensure_webhook(resources: Resources, installation_id: str) -> None:
    """Register the installation's webhook if it is due and nobody else is at it.

    Where it can't be registered now the installation stays, and the worker tries again with growing pauses.
    """
    try:
        claim = await _claim(resources, installation_id)
        if claim is not None:
            await _register_or_postpone(resources, *claim)
    except DatabaseAway:
        # What was claimed is looked at again when the lease is over; a webhook already made is adopted then.
        logger.warning("webhook left to the worker", installation_id=installation_id)


async def finish_webhooks(resources: Resources) -> None:
    """The worker's chore: register what could not be registered when its installation connected."""
    due = (
        select(Webhook.installation_id)
        .join(Installation, col(Installation.id) == col(Webhook.installation_id))
        .where(_is_due(), col(Installation.status) == InstallationStatus.ACTIVE)
        .order_by(col(Webhook.due_at))
        .limit(BATCH)
    )
    async with resources.database.session() as session:
        installation_ids = (await session.exec(due)).all()
    for installation_id in installation_ids:
        await ensure_webhook(resources, installation_id)


async def _claim(resources: Resources, installation_id: str) -> tuple[Webhook, Installation] | None:
    """Take the webhook for the length of the lease, if it is due and its installation active."""
    claim = (
        update(Webhook)
        .where(
            col(Webhook.installation_id) == installation_id,
            _is_due(),
            col(Installation.id) == col(Webhook.installation_id),
            col(Installation.status) == InstallationStatus.ACTIVE,
        )
        .values(leased_until=func.now() + LEASE, attempts=Webhook.attempts + 1)
        .returning(Webhook, Installation)
    )
    async with resources.database.session() as session:
        row = (await session.exec(claim)).first()
    return None if row is None else (row[0], row[1])


def _is_due() -> ColumnElement[bool]:
    free = or_(col(Webhook.leased_until).is_(None), col(Webhook.leased_until) <= func.now())
    return and_(col(Webhook.due_at) <= func.now(), free)


async def _register_or_postpone(resources: Resources, webhook: Webhook, installation: Installation) -> None:
    token = standing.token_of(resources, installation)
    try:
        async with (
            standing.within_budget(resources, installation.company_id, calls=CALLS_TO_REGISTER),
            asyncio.timeout(REGISTER_SECONDS),
        ):
            registered = await _register(resources, webhook, token)
    except (AircallError, BudgetSpent, TimeoutError) as error:
        await _postpone(resources, webhook, error)
        if isinstance(error, AircallRefused) and error.aircall_status in standing.DEAD_TOKEN:
            await standing.suspect_token(resources, installation.id)
    else:
        await _keep(resources, webhook, registered)


async def _register(resources: Resources, webhook: Webhook, token: SecretStr) -> AircallWebhook:
    """Adopt the webhook that already points here, or create it.

    Aircall lets one URL be registered twice and then sends every event twice, so a webhook whose creation answer
    got lost must be found again instead of made again.
    """
    settings = resources.settings
    wanted = wanted_events(settings.webhook_events)
    ours = await _at_aircall(resources, webhook, token)
    if ours is None:
        registered = await resources.aircall.create_webhook(
            token, url=settings.webhook_url, name=settings.webhook_name, events=wanted
        )
    elif ours.active and (not wanted or set(ours.events) == set(wanted)):
        registered = ours
    else:
        registered = await resources.aircall.update_webhook(
            token,
            ours.webhook_id,
            url=settings.webhook_url,
            name=settings.webhook_name,
            events=wanted or ours.events or EVENT_NAMES,
        )
    if registered.token is None:
        registered = await resources.aircall.get_webhook(token, registered.webhook_id)
    if registered.token is None:
        raise AircallUnavailable("the webhook has no token")
    return registered


async def _at_aircall(resources: Resources, webhook: Webhook, token: SecretStr) -> AircallWebhook | None:
    """The webhook that points here, the one we know first; never one that another installation goes by."""
    url = resources.settings.webhook_url
    here = {w.webhook_id: w async for w in resources.aircall.list_webhooks(token) if w.url == url}
    if webhook.webhook_id in here or not here:
        return here.get(webhook.webhook_id or "")
    of_others = select(Webhook.webhook_id).where(col(Webhook.webhook_id).in_(here), col(Webhook.id) != webhook.id)
    async with resources.database.session() as session:
        taken = set((await session.exec(of_others)).all())
    return next((w for webhook_id, w in here.items() if webhook_id not in taken), None)


def wanted_events(configured: Sequence[str]) -> list[str]:
    """The events a webhook asks for; empty means all. An uninstall is told only to who asks for it."""
    return [*configured, *({UNINSTALLED} - set(configured))] if configured else []


async def _keep(resources: Resources, webhook: Webhook, registered: AircallWebhook) -> None:
    assert registered.token is not None
    kept = await _update(
        resources,
        webhook,
        status=WebhookStatus.ACTIVE,
        webhook_id=registered.webhook_id,
        token_fingerprint=resources.vault.fingerprint(registered.token, WEBHOOK_TOKEN_PURPOSE),
        checked_at=func.now(),
        due_at=_unless_moved(webhook, None),
        attempts=0,
        last_error=None,
    )
    logger.info("webhook registered", installation_id=webhook.installation_id, kept=kept)


async def _postpone(resources: Resources, webhook: Webhook, error: Exception) -> None:
    pause = _pause(webhook.attempts)
    if isinstance(error, AircallUnavailable | BudgetSpent) and error.retry_after_seconds is not None:
        told = min(error.retry_after_seconds, LONGEST_PAUSE.total_seconds())
        pause = max(pause, timedelta(seconds=told))
    reason = str(error) or "timeout"
    logger.warning("webhook not registered", installation_id=webhook.installation_id, reason=reason)
    await _update(resources, webhook, due_at=_unless_moved(webhook, func.now() + pause), last_error=reason)


def _pause(attempts: int) -> timedelta:
    doubled: timedelta = FIRST_PAUSE * 2 ** min(attempts - 1, 16)
    return min(doubled, LONGEST_PAUSE) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing


async def _update(resources: Resources, webhook: Webhook, **values: object) -> bool:
    """Give the row back changed, if it is still ours: after our lease another worker may have it."""
    ours = update(Webhook).where(col(Webhook.id) == webhook.id, col(Webhook.leased_until) == webhook.leased_until)
    async with resources.database.session() as session:
        return (await session.exec(ours.values(**values, leased_until=None))).rowcount == 1


def _unless_moved(webhook: Webhook, next_look: object) -> ColumnElement[object]:
    """A new install that came meanwhile moved `due_at`: it brought another token, so it is looked at once more."""
    return case((col(Webhook.due_at) == webhook.due_at, next_look), else_=col(Webhook.due_at))
