"""Registration at Aircall: which webhook we want there, and the calls that make one or change one into it."""

from collections.abc import Sequence
from typing import Any

from aircall_oauth.aircall.payloads import EVENT_NAMES, UNINSTALLED, AircallWebhook
from aircall_oauth.errors import AircallRefused, AircallUnavailable
from aircall_oauth.installations.upkeep.run import Run
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

logger = log.get(__name__)


def is_as_wanted(settings: Settings, webhook: AircallWebhook) -> bool:
    """Return whether URL, name and events are as wanted. Whether the webhook is on is not judged."""
    wanted, there = set(wanted_events(settings.webhook_events)), set(webhook.events)
    has_events = wanted == there if wanted else set(EVENT_NAMES) <= there
    has_name = webhook.custom_name in {None, settings.webhook_name}
    return webhook.url == settings.webhook_url and has_name and has_events


async def register(run: Run, ours: AircallWebhook | None) -> AircallWebhook:
    """Make the webhook, or change ours into what is wanted. Returns it switched on and with its token."""
    aircall, settings = run.resources.aircall, run.settings
    if ours is None:
        ours = await aircall.create_webhook(
            run.token,
            url=settings.webhook_url,
            name=settings.webhook_name,
            events=wanted_events(settings.webhook_events),
        )
    elif not (ours.active and is_as_wanted(settings, ours)):
        ours = await _update(run, ours)
    if ours.token is None:
        ours = await aircall.get_webhook(run.token, ours.webhook_id)
    if ours.token is None or not ours.active:
        raise AircallUnavailable("the webhook has no token" if ours.active else "the webhook stays off")
    return ours


def wanted_events(configured: Sequence[str]) -> list[str]:
    """Return the events a webhook must ask for; empty means all.

    An uninstall is always among them: Aircall sends it only to webhooks that ask for it.
    """
    return [*configured, *({UNINSTALLED} - set(configured))] if configured else []


async def _update(run: Run, ours: AircallWebhook) -> AircallWebhook:
    """Change a webhook and switch it on. All events are named: an update without a list would keep the present one.

    If Aircall refuses the list because it no longer knows one of the names, the webhook is switched on with the events
    it has.
    """
    settings = run.settings
    events = wanted_events(settings.webhook_events) or [*dict.fromkeys([*ours.events, *EVENT_NAMES])]
    wanted: dict[str, Any] = {"url": settings.webhook_url, "name": settings.webhook_name}
    try:
        return await run.resources.aircall.update_webhook(run.token, ours.webhook_id, events=events, **wanted)
    except AircallRefused as refused:
        if refused.aircall_status != 400 or settings.webhook_events or not ours.events:
            raise
        logger.warning("not every event could be asked for", installation_id=run.installation.id)
        return await run.resources.aircall.update_webhook(run.token, ours.webhook_id, events=ours.events, **wanted)
