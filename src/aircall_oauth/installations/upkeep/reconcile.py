"""Reconcile an installation's webhook with what we want: it exists once, is on, has our URL and asks for our events.

A webhook that is as it should be costs one call to Aircall. Only if something is odd, and once an hour, all webhooks of
the account are listed and mended: found again, made, changed, switched on, doubles retired.
"""

from collections.abc import Iterable
from enum import StrEnum

from sqlmodel import col, select

from aircall_oauth.aircall.payloads import AircallWebhook
from aircall_oauth.errors import AircallRefused
from aircall_oauth.installations import tokens
from aircall_oauth.installations.upkeep import registration
from aircall_oauth.installations.upkeep.adopt import adopt, keep_unchanged, note_off
from aircall_oauth.installations.upkeep.run import Run
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Installation, RetiredWebhook, Webhook
from aircall_oauth.storage.statuses import WebhookStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# To list our webhooks, to make or change one, and to read its token.
CALLS_TO_MEND = 3


class Oddity(StrEnum):
    """What can be wrong with a webhook at Aircall."""

    NEW = "webhook_new"  # there was none yet
    MISSING = "webhook_missing"
    DISABLED = "webhook_disabled"
    CHANGED = "webhook_changed"  # another URL, name or list of events than wanted
    DOUBLED = "webhook_doubled"


async def reconcile(
    resources: Resources, webhook: Webhook, installation: Installation, *, chore: bool, thorough: bool
) -> list[Oddity] | None:
    """Compare a leased webhook with Aircall, mend what is odd, and end the lease. Returns what was odd.

    Returns None, and leaves the row alone, if the lease ran out meanwhile. Raises what `Aircall` raises, and
    `BudgetSpent`; the lease is kept then.
    """
    token = tokens.token_of(resources, installation)
    run = Run(resources, webhook, installation, token, chore, thorough)
    if _may_be_well(run) and await _is_well(run):
        return [] if await keep_unchanged(run) else None
    return await _mend(run)


def _may_be_well(run: Run) -> bool:
    """Return whether one call can be enough. If the last run could not be finished, something was odd."""
    webhook = run.webhook
    unfinished = webhook.attempts > 1 or webhook.rotation_wanted or webhook.status != WebhookStatus.ACTIVE
    return webhook.webhook_id is not None and not run.thorough and not unfinished


async def _is_well(run: Run) -> bool:
    """Return whether the webhook we know is at Aircall just as it should be."""
    assert run.webhook.webhook_id is not None
    try:
        async with run.asking(1):
            known = await run.resources.aircall.get_webhook(run.token, run.webhook.webhook_id)
    except AircallRefused as refused:
        if refused.aircall_status == 404:
            return False
        raise
    same_token = known.token is None or run.fingerprint(known) == run.webhook.token_fingerprint
    return known.active and same_token and registration.is_as_wanted(run.settings, known)


async def _mend(run: Run) -> list[Oddity] | None:
    """List the webhooks at Aircall, register ours as it is wanted, and adopt it.

    Aircall lets one URL be registered twice and then sends every event twice. So if the answer to a creation got lost,
    the webhook must be found again instead of made again.
    """
    async with run.asking(CALLS_TO_MEND):
        there = {w.webhook_id: w async for w in run.resources.aircall.list_webhooks(run.token)}
        known = there.get(run.webhook.webhook_id or "")
        ours, doubles = await _choose(run, there, known)
        odd = await _note_if_off(run, known)
        if ours is not None and not registration.is_as_wanted(run.settings, ours):
            odd.append(Oddity.CHANGED)
        registered = await registration.register(run, ours)
    replaced = known if known is not None and known.webhook_id != registered.webhook_id else None
    retired = await adopt(run, registered, doubles, replaced=replaced)
    if retired is None:
        return None
    if retired:
        odd.append(Oddity.DOUBLED)
    logger.info("webhook looked after", installation_id=run.installation.id, odd=odd)
    return odd


async def _choose(
    run: Run, there: dict[str, AircallWebhook], known: AircallWebhook | None
) -> tuple[AircallWebhook | None, list[AircallWebhook]]:
    """Return the webhook to adopt, if there is one, and its doubles.

    Never one that another installation has adopted or that is retired. A rotation never chooses the known one.
    """
    strays = [w for w in there.values() if w is not known and w.url == run.settings.webhook_url]
    taken = await _taken_ids(run, [w.webhook_id for w in strays])
    strays = sorted((w for w in strays if w.webhook_id not in taken), key=lambda w: not w.active)
    named_as_ours = [w for w in strays if w.custom_name == run.settings.webhook_name]
    if run.webhook.rotation_wanted:
        return next(iter(named_as_ours), None), named_as_ours[1:]
    ours = known or next(iter(strays), None)
    return ours, [w for w in named_as_ours if w is not ours]


async def _taken_ids(run: Run, webhook_ids: Iterable[str]) -> set[str | None]:
    """Return those of the webhooks that another installation has adopted, or that are retired."""
    of_others = select(Webhook.webhook_id).where(
        col(Webhook.webhook_id).in_(webhook_ids), col(Webhook.id) != run.webhook.id
    )
    retired = select(RetiredWebhook.webhook_id).where(col(RetiredWebhook.webhook_id).in_(webhook_ids))
    async with run.resources.database.session() as session:
        return {*(await session.exec(of_others)).all(), *(await session.exec(retired)).all()}


async def _note_if_off(run: Run, known: AircallWebhook | None) -> list[Oddity]:
    """Record a known webhook that is gone or switched off before it is mended: events may be lost."""
    if run.webhook.webhook_id is None:
        return [Oddity.NEW]
    if known is not None and known.active:
        return []
    status, oddity = (
        (WebhookStatus.MISSING, Oddity.MISSING) if known is None else (WebhookStatus.DISABLED, Oddity.DISABLED)
    )
    if run.webhook.status != status:
        await note_off(run, status)
    return [oddity]
