"""One look at an installation's webhook: it is there once, it is on, it points here, and asks for what we want.

A webhook that is as it should be costs one call to Aircall. Only where something is odd, and every hour, all webhooks
are listed, and mended: found again, made, changed, switched on, and made single.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import SecretStr
from sqlalchemy import exists, func, or_, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.aircall.payloads import EVENT_NAMES, UNINSTALLED, AircallWebhook
from aircall_oauth.errors import AircallRefused, AircallUnavailable
from aircall_oauth.events import store
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.outages import gaps
from aircall_oauth.installations.upkeep import leases
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings
from aircall_oauth.storage import locks
from aircall_oauth.storage.models.installations import (
    GapReason,
    Installation,
    InstallationStatus,
    RetiredWebhook,
    Webhook,
    WebhookStatus,
)
from aircall_oauth.storage.models.sealed import WEBHOOK_TOKEN_PURPOSE
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import InstallStep

logger = log.get(__name__)

# To list our webhooks, to make or change one, and to read its token.
CALLS_TO_MEND = 3
# The old webhook of a rotation stays this long beside the new one: what was told to the old one alone arrives.
ROTATION_GRACE = timedelta(minutes=10)
OFF = {
    WebhookStatus.DISABLED: GapReason.WEBHOOK_DISABLED,
    WebhookStatus.MISSING: GapReason.WEBHOOK_MISSING,
}


class Oddity(StrEnum):
    """What a look can find wrong with a webhook."""

    NEW = "webhook_new"  # there was none yet
    MISSING = "webhook_missing"
    DISABLED = "webhook_disabled"
    CHANGED = "webhook_changed"  # another URL, name or list of events than wanted
    DOUBLED = "webhook_doubled"


@dataclass(frozen=True)
class Visit:
    """A look under way: what is looked at, with which token, and for whom."""

    resources: Resources
    webhook: Webhook
    installation: Installation
    token: SecretStr
    chore: bool
    thorough: bool

    @property
    def settings(self) -> Settings:
        return self.resources.settings

    @asynccontextmanager
    async def asking(self, calls: int) -> AsyncIterator[None]:
        """Callers find the whole of the company's budget, a chore what callers leave it."""
        company_id = self.installation.company_id
        async with tokens.within_budget(self.resources, company_id, calls=calls, chore=self.chore):
            yield


async def look(
    resources: Resources, webhook: Webhook, installation: Installation, *, chore: bool, thorough: bool
) -> list[Oddity] | None:
    """Look at a leased webhook, mend what is odd, and give it back; what was odd.

    Nothing is said (None) where the lease was over before the look was. Raises what `Aircall` raises, and
    `BudgetSpent`; then the lease goes on.
    """
    token = tokens.token_of(resources, installation)
    visit = Visit(resources, webhook, installation, token, chore, thorough)
    known = await _glance(visit) if _may_be_well(visit) else None
    if known is not None:
        return [] if await _keep_as_it_was(visit) else None
    return await _mend(visit)


def wanted_events(configured: Sequence[str]) -> list[str]:
    """The events a webhook asks for; empty means all. An uninstall is told only to who asks for it."""
    return [*configured, *({UNINSTALLED} - set(configured))] if configured else []


def _may_be_well(visit: Visit) -> bool:
    """Whether one call can be enough. Where the last look could not be finished, something was odd."""
    webhook = visit.webhook
    unfinished = webhook.attempts > 1 or webhook.rotation_wanted or webhook.status != WebhookStatus.ACTIVE
    return webhook.webhook_id is not None and not visit.thorough and not unfinished


async def _glance(visit: Visit) -> AircallWebhook | None:
    """The webhook we know, if it is just as it should be."""
    assert visit.webhook.webhook_id is not None
    try:
        async with visit.asking(1):
            known = await visit.resources.aircall.get_webhook(visit.token, visit.webhook.webhook_id)
    except AircallRefused as refused:
        if refused.aircall_status == 404:
            return None
        raise
    same_token = known.token is None or _fingerprint(visit, known) == visit.webhook.token_fingerprint
    return known if known.active and same_token and _is_as_wanted(visit.settings, known) else None


async def _mend(visit: Visit) -> list[Oddity] | None:
    """Find out what there is, and bring it to what is wanted.

    Aircall lets one URL be registered twice and then sends every event twice, so a webhook whose creation answer got
    lost must be found again instead of made again.
    """
    async with visit.asking(CALLS_TO_MEND):
        there = {w.webhook_id: w async for w in visit.resources.aircall.list_webhooks(visit.token)}
        known = there.get(visit.webhook.webhook_id or "")
        ours, doubles = await _sort_out(visit, there, known)
        odd = await _note_if_off(visit, known)
        if ours is not None and not _is_as_wanted(visit.settings, ours):
            odd.append(Oddity.CHANGED)
        registered = await _registered(visit, ours)
    replaced = known if known is not None and known.webhook_id != registered.webhook_id else None
    retired = await _keep(visit, registered, doubles, replaced=replaced)
    if retired is None:
        return None
    if retired:
        odd.append(Oddity.DOUBLED)
    logger.info("webhook looked after", installation_id=visit.installation.id, odd=odd)
    return odd


async def _sort_out(
    visit: Visit, there: dict[str, AircallWebhook], known: AircallWebhook | None
) -> tuple[AircallWebhook | None, list[AircallWebhook]]:
    """The one to go by, and our doubles of it; never one that another installation goes by, or that is being deleted.

    A rotation goes by another one than before.
    """
    strays = [w for w in there.values() if w is not known and w.url == visit.settings.webhook_url]
    taken = await _taken(visit, [w.webhook_id for w in strays])
    strays = sorted((w for w in strays if w.webhook_id not in taken), key=lambda w: not w.active)
    named_as_ours = [w for w in strays if w.custom_name == visit.settings.webhook_name]
    if visit.webhook.rotation_wanted:
        return next(iter(named_as_ours), None), named_as_ours[1:]
    ours = known or next(iter(strays), None)
    return ours, [w for w in named_as_ours if w is not ours]


async def _taken(visit: Visit, webhook_ids: Iterable[str]) -> set[str | None]:
    of_others = select(Webhook.webhook_id).where(
        col(Webhook.webhook_id).in_(webhook_ids), col(Webhook.id) != visit.webhook.id
    )
    retired = select(RetiredWebhook.webhook_id).where(col(RetiredWebhook.webhook_id).in_(webhook_ids))
    async with visit.resources.database.session() as session:
        return {*(await session.exec(of_others)).all(), *(await session.exec(retired)).all()}


async def _note_if_off(visit: Visit, known: AircallWebhook | None) -> list[Oddity]:
    """A webhook that we go by and that is gone or switched off is told of before it is mended: events may be lost."""
    if visit.webhook.webhook_id is None:
        return [Oddity.NEW]
    if known is not None and known.active:
        return []
    status, oddity = (
        (WebhookStatus.MISSING, Oddity.MISSING) if known is None else (WebhookStatus.DISABLED, Oddity.DISABLED)
    )
    if visit.webhook.status != status:
        async with visit.resources.database.session() as session:
            await lifecycle.lock(session, visit.installation.id)
            if await leases.change(session, visit.webhook, status=status, checked_at=func.now()):
                # It was well when it was last looked at.
                await gaps.begin(session, visit.installation.id, reason=OFF[status], since=visit.webhook.checked_at)
                await _tell(session, visit, "webhook.disabled", {"reason": str(status)})
        visit.webhook.status = status
        logger.warning("webhook off", installation_id=visit.installation.id, status=str(status))
    return [oddity]


async def _registered(visit: Visit, ours: AircallWebhook | None) -> AircallWebhook:
    """The webhook as it is wanted, with its token."""
    aircall, settings = visit.resources.aircall, visit.settings
    if ours is None:
        ours = await aircall.create_webhook(
            visit.token,
            url=settings.webhook_url,
            name=settings.webhook_name,
            events=wanted_events(settings.webhook_events),
        )
    elif not (ours.active and _is_as_wanted(settings, ours)):
        ours = await _updated(visit, ours)
    if ours.token is None:
        ours = await aircall.get_webhook(visit.token, ours.webhook_id)
    if ours.token is None or not ours.active:
        raise AircallUnavailable("the webhook has no token" if ours.active else "the webhook stays off")
    return ours


async def _updated(visit: Visit, ours: AircallWebhook) -> AircallWebhook:
    """Changed and switched on. All events are named, for a list left out would hold for what is not ours, too.

    Where Aircall no longer knows one of the names, the webhook is at least on, with those it has.
    """
    settings = visit.settings
    events = wanted_events(settings.webhook_events) or [*dict.fromkeys([*ours.events, *EVENT_NAMES])]
    wanted: dict[str, Any] = {"url": settings.webhook_url, "name": settings.webhook_name}
    try:
        return await visit.resources.aircall.update_webhook(visit.token, ours.webhook_id, events=events, **wanted)
    except AircallRefused as refused:
        if refused.aircall_status != 400 or settings.webhook_events or not ours.events:
            raise
        logger.warning("not every event could be asked for", installation_id=visit.installation.id)
        return await visit.resources.aircall.update_webhook(visit.token, ours.webhook_id, events=ours.events, **wanted)


def _is_as_wanted(settings: Settings, webhook: AircallWebhook) -> bool:
    """Apart from whether it is on."""
    wanted, there = set(wanted_events(settings.webhook_events)), set(webhook.events)
    asks = wanted == there if wanted else set(EVENT_NAMES) <= there
    named = webhook.custom_name in {None, settings.webhook_name}
    return webhook.url == settings.webhook_url and named and asks


async def _keep_as_it_was(visit: Visit) -> bool:
    async with visit.resources.database.session() as session:
        return await leases.give_back(
            session, visit.webhook, checked_at=func.now(), attempts=0, last_error=None, refused_at=None
        )


async def _keep(
    visit: Visit, registered: AircallWebhook, doubles: Sequence[AircallWebhook], *, replaced: AircallWebhook | None
) -> int | None:
    """Go by this webhook from now on, and have the others deleted: how many doubles. None if the lease was over.

    Two installations of one company could find the same stray webhook; the company's lock makes one of them first.
    """
    try:
        retired = await _keep_these(visit, registered, doubles, replaced)
    except IntegrityError:
        # Its events could not be told from those of another installation.
        logger.error("a webhook has another one's token", alarm=True, installation_id=visit.installation.id)
        raise AircallUnavailable("the webhook's token is another webhook's") from None
    if retired is not None and visit.webhook.status == WebhookStatus.PENDING:
        visit.resources.metrics.install_step(InstallStep.WEBHOOK_LIVE)
    return retired


async def _keep_these(
    visit: Visit, registered: AircallWebhook, doubles: Sequence[AircallWebhook], replaced: AircallWebhook | None
) -> int | None:
    webhook = visit.webhook
    rotated: dict[str, Any] = {"rotation_wanted": False} if webhook.rotation_wanted else {}
    async with visit.resources.database.session() as session:
        await lifecycle.lock(session, visit.installation.id)
        await _lock_webhooks(session, visit.installation)
        if registered.webhook_id != webhook.webhook_id and await _is_taken(session, visit, registered):
            raise AircallUnavailable("the webhook is another's by now")
        kept = await leases.give_back(
            session,
            webhook,
            status=WebhookStatus.ACTIVE,
            webhook_id=registered.webhook_id,
            token_fingerprint=_fingerprint(visit, registered),
            checked_at=func.now(),
            attempts=0,
            last_error=None,
            refused_at=None,
            **rotated,
        )
        if not kept:
            return None
        await gaps.end(session, visit.installation.id)
        retired = await _retire(session, visit, doubles, replaced)
        if webhook.status in OFF:
            await _tell(session, visit, "webhook.restored", {"was": str(webhook.status)})
    return retired


async def _lock_webhooks(session: AsyncSession, installation: Installation) -> None:
    lock = text("SELECT pg_advisory_xact_lock(:lock, :company)")
    company = installation.company_id % 2**31
    await (await session.connection()).execute(lock, {"lock": locks.COMPANY_WEBHOOKS, "company": company})


async def _is_taken(session: AsyncSession, visit: Visit, registered: AircallWebhook) -> bool:
    of_another = exists().where(col(Webhook.webhook_id) == registered.webhook_id, col(Webhook.id) != visit.webhook.id)
    retired = exists().where(col(RetiredWebhook.webhook_id) == registered.webhook_id)
    return bool((await session.exec(select(or_(of_another, retired)))).one())


async def _retire(
    session: AsyncSession, visit: Visit, doubles: Sequence[AircallWebhook], replaced: AircallWebhook | None
) -> int:
    """Have doubles deleted at once, and the one that was rotated away when what was told to it alone has arrived."""
    if replaced is not None:
        await session.exec(_retirement(visit, replaced, ROTATION_GRACE))
    if doubles and await _may_be_anothers(session, visit):
        return 0
    for double in doubles:
        await session.exec(_retirement(visit, double, timedelta(0)))
    return len(doubles)


async def _may_be_anothers(session: AsyncSession, visit: Visit) -> bool:
    """Whether another installation of this company may just be making the webhook that looks like our double."""
    unsettled = (
        select(Webhook.id)
        .join(Installation, col(Installation.id) == col(Webhook.installation_id))
        .where(
            col(Installation.company_id) == visit.installation.company_id,
            col(Installation.id) != visit.installation.id,
            col(Installation.status) == InstallationStatus.ACTIVE,
            or_(
                col(Webhook.status) != WebhookStatus.ACTIVE,
                col(Webhook.rotation_wanted),
                col(Webhook.leased_until) > func.now(),
            ),
        )
        .limit(1)
    )
    return (await session.exec(unsettled)).first() is not None


def _retirement(visit: Visit, webhook: AircallWebhook, grace: timedelta) -> Any:
    return (
        insert(RetiredWebhook)
        .values(
            webhook_id=webhook.webhook_id,
            installation_id=visit.installation.id,
            token_fingerprint=None if webhook.token is None else _fingerprint(visit, webhook),
            due_at=func.now() + grace,
        )
        .on_conflict_do_nothing()
    )


async def _tell(session: AsyncSession, visit: Visit, type_: str, data: dict[str, Any]) -> None:
    """Tell it in the log, as the last act of the session's transaction; whose it is may have changed meanwhile."""
    installation = await session.get(Installation, visit.installation.id)
    assert installation is not None
    await store.append(session, installation, type_, data)


def _fingerprint(visit: Visit, webhook: AircallWebhook) -> bytes:
    assert webhook.token is not None
    return visit.resources.vault.fingerprint(webhook.token, WEBHOOK_TOKEN_PURPOSE)
