"""Adopt the webhook that a run registered: recognise its events from now on, and retire the others."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import exists, func, or_, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.aircall.payloads import AircallWebhook
from aircall_oauth.errors import AircallUnavailable
from aircall_oauth.events import store
from aircall_oauth.installations import lifecycle
from aircall_oauth.installations.attempts import recording as attempts
from aircall_oauth.installations.outages import gaps
from aircall_oauth.installations.upkeep import leases
from aircall_oauth.installations.upkeep.run import Run
from aircall_oauth.storage import locks
from aircall_oauth.storage.models.installations import Installation, RetiredWebhook, Webhook
from aircall_oauth.storage.statuses import GapReason, InstallationStatus, WebhookStatus
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import InstallStep

logger = log.get(__name__)

# A webhook that was replaced stays at Aircall for this long, so that events sent to it alone still arrive.
REPLACED_GRACE = timedelta(minutes=10)
OFF = {
    WebhookStatus.DISABLED: GapReason.WEBHOOK_DISABLED,
    WebhookStatus.MISSING: GapReason.WEBHOOK_MISSING,
}


async def keep_unchanged(run: Run) -> bool:
    """End the lease of a webhook that is as it should be. Returns whether the lease was still ours."""
    async with run.resources.database.session() as session:
        return await leases.give_back(
            session, run.webhook, checked_at=func.now(), attempts=0, last_error=None, refused_at=None
        )


async def note_off(run: Run, status: WebhookStatus) -> None:
    """Record that the webhook is gone or switched off, with its event and its gap, before it is mended."""
    async with run.resources.database.session() as session:
        await lifecycle.lock(session, run.installation.id)
        if await leases.change(session, run.webhook, status=status, checked_at=func.now()):
            # The last check found it well, so the gap begins there.
            await gaps.begin(session, run.installation.id, reason=OFF[status], since=run.webhook.checked_at)
            await _append_event(session, run, "webhook.disabled", {"reason": str(status)})
    run.webhook.status = status
    logger.warning("webhook off", installation_id=run.installation.id, status=str(status))


async def adopt(
    run: Run, registered: AircallWebhook, doubles: Sequence[AircallWebhook], *, replaced: AircallWebhook | None
) -> int | None:
    """Recognise this webhook from now on and retire the others. Returns how many doubles; None if the lease was over.

    Two installations of one company may find the same unknown webhook; the company's lock lets one of them adopt it.
    """
    try:
        retired = await _adopt(run, registered, doubles, replaced)
    except IntegrityError:
        # Two webhooks with one token: their events could not be told apart.
        logger.error("a webhook has another one's token", alarm=True, installation_id=run.installation.id)
        raise AircallUnavailable("the webhook's token is another webhook's") from None
    if retired is not None and run.webhook.status == WebhookStatus.PENDING:
        run.resources.metrics.install_step(InstallStep.WEBHOOK_LIVE)
    return retired


async def _adopt(
    run: Run, registered: AircallWebhook, doubles: Sequence[AircallWebhook], replaced: AircallWebhook | None
) -> int | None:
    webhook = run.webhook
    rotated: dict[str, Any] = {"rotation_wanted": False} if webhook.rotation_wanted else {}
    async with run.resources.database.session() as session:
        await lifecycle.lock(session, run.installation.id)
        await _lock_webhooks(session, run.installation)
        if registered.webhook_id != webhook.webhook_id and await _is_taken(session, run, registered):
            raise AircallUnavailable("the webhook is another's by now")
        kept = await leases.give_back(
            session,
            webhook,
            status=WebhookStatus.ACTIVE,
            webhook_id=registered.webhook_id,
            token_fingerprint=run.fingerprint(registered),
            checked_at=func.now(),
            attempts=0,
            last_error=None,
            refused_at=None,
            **rotated,
        )
        if not kept:
            return None
        await gaps.end(session, run.installation.id)
        if webhook.status != WebhookStatus.ACTIVE:
            await attempts.live(session, run.installation.id)
        retired = await _retire(session, run, doubles, replaced)
        if webhook.status in OFF:
            await _append_event(session, run, "webhook.restored", {"was": str(webhook.status)})
    return retired


async def _lock_webhooks(session: AsyncSession, installation: Installation) -> None:
    """Lock the webhooks of the installation's company until the transaction ends."""
    lock = text("SELECT pg_advisory_xact_lock(:lock, :company)")
    company = installation.company_id % 2**31
    await (await session.connection()).execute(lock, {"lock": locks.COMPANY_WEBHOOKS, "company": company})


async def _is_taken(session: AsyncSession, run: Run, registered: AircallWebhook) -> bool:
    """Return whether the webhook is another installation's, or retired, by now."""
    of_another = exists().where(col(Webhook.webhook_id) == registered.webhook_id, col(Webhook.id) != run.webhook.id)
    retired = exists().where(col(RetiredWebhook.webhook_id) == registered.webhook_id)
    return bool((await session.exec(select(or_(of_another, retired)))).one())


async def _retire(
    session: AsyncSession, run: Run, doubles: Sequence[AircallWebhook], replaced: AircallWebhook | None
) -> int:
    """Have doubles deleted at once, and the replaced webhook after its grace. Returns how many doubles."""
    if replaced is not None:
        await session.exec(_retirement(run, replaced, REPLACED_GRACE))
    if doubles and await _may_be_anothers(session, run):
        return 0
    for double in doubles:
        await session.exec(_retirement(run, double, timedelta(0)))
    return len(doubles)


async def _may_be_anothers(session: AsyncSession, run: Run) -> bool:
    """Return whether another installation of this company may be making the webhook that looks like our double."""
    unsettled = (
        select(Webhook.id)
        .join(Installation, col(Installation.id) == col(Webhook.installation_id))
        .where(
            col(Installation.company_id) == run.installation.company_id,
            col(Installation.id) != run.installation.id,
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


def _retirement(run: Run, webhook: AircallWebhook, grace: timedelta) -> Any:
    return (
        insert(RetiredWebhook)
        .values(
            webhook_id=webhook.webhook_id,
            installation_id=run.installation.id,
            token_fingerprint=None if webhook.token is None else run.fingerprint(webhook),
            due_at=func.now() + grace,
        )
        .on_conflict_do_nothing()
    )


async def _append_event(session: AsyncSession, run: Run, type_: str, data: dict[str, Any]) -> None:
    """Append an event, last in the session's transaction. The installation is read anew: its owner may have changed."""
    installation = await session.get(Installation, run.installation.id)
    assert installation is not None
    await store.append(session, installation, type_, data)
