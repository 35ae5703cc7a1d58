"""Claims: the partner's page says, for a user logged in there, which owner an installation belongs to.

The claim's code passes through one browser only, the one that ended the flow: from our callback to the partner's page.
So an attacker that lures an admin into the attacker's flow (OAuth session fixation) never sees the code, and
can't claim the installation. `docs/security.md` has more.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy import ColumnElement, and_, exists, func, or_
from sqlmodel import col, delete, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Outcome, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import (
    ApiError,
    ClaimNotFound,
    ClaimOfAnother,
    InstallationHeld,
    OwnerNotAllowed,
)
from aircall_oauth.events import store
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.attempts import recording
from aircall_oauth.installations.oauth.state import FlowState
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.resources import Resources
from aircall_oauth.storage import base64url, clocks
from aircall_oauth.storage.away import again_if_undone
from aircall_oauth.storage.models.installations import Claim, Installation
from aircall_oauth.storage.sealed import CLAIM_PURPOSE, CLAIM_TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.sessions import commit_durably
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.statuses import InstallationStatus
from aircall_oauth.storage.vault import SealedAt, Vault
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import InstallStep

logger = log.get(__name__)

LIFETIME = timedelta(hours=1)
# Without either, nothing is to be expired.
HAS_SOME_TO_EXPIRE = f"""
    SELECT EXISTS (SELECT FROM claim WHERE expires_at <= $1)
           OR EXISTS (SELECT FROM installation WHERE status = '{InstallationStatus.UNCLAIMED}')
"""  # noqa: S608 - only constants of ours are put in
BATCH = 20
IN_USE = {InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED}


def code_of(vault: Vault, flow_id: str) -> SecretStr:
    """Return a flow's claim code. It is computed from the flow's id: never stored, the same in a repeated callback."""
    return SecretStr(base64url.encode(vault.fingerprint(flow_id, "claim-code")))


def new_claim(vault: Vault, flow: FlowState, installation: Installation, *, token: SecretStr | None) -> Claim:
    """Make the claim of a flow; the caller adds it to the database.

    `token` is the token that the flow was granted, if the installation is in use with another one: the claim keeps it,
    sealed, until it is used. None if the installation itself has the flow's token.
    """
    claim = Claim(
        id=new_id("clm"),
        installation_id=installation.id,
        fingerprint=vault.fingerprint(code_of(vault, flow.flow_id), CLAIM_PURPOSE),
        owner=flow.owner,
        expires_at=now() + LIFETIME,
    )
    if token is not None:
        claim.token_sealed = vault.seal(token, SealedAt(CLAIM_TOKEN_COLUMN, claim.id))
        claim.token_fingerprint = vault.fingerprint(token, TOKEN_PURPOSE)
    return claim


async def keep_claim(session: AsyncSession, claim: Claim) -> None:
    """Add a claim. It replaces the claim of an earlier try to save the same flow, whose commit was not confirmed."""
    await session.exec(delete(Claim).where(col(Claim.fingerprint) == claim.fingerprint))
    session.add(claim)


async def usable_code(session: AsyncSession, vault: Vault, flow_id: str) -> SecretStr | None:
    """Return the code of a flow's claim; None if there is no such claim, or it has expired or was used."""
    code = code_of(vault, flow_id)
    usable = select(Claim.id).where(_has_code(vault, code), col(Claim.claimed_at).is_(None))
    return code if (await session.exec(usable)).first() is not None else None


async def claim(resources: Resources, key: Caller, who: Who, *, code: SecretStr, owner: str) -> str:
    """Give an installation to an owner, once. Returns the installation's id, also to a repeat by the same owner.

    Raises `OwnerNotAllowed`, `ClaimNotFound` (unknown, used by another owner, or expired), `ClaimOfAnother` (the link
    was for another owner) or `InstallationHeld` (another owner has it). A refused claim changes nothing.
    """
    if not key.may_act_for(owner):
        raise OwnerNotAllowed
    installation_id, is_repeat = await _claim(resources, who, code, owner)
    if not is_repeat:
        logger.info("installation claimed", installation_id=installation_id, actor=who.actor)
        resources.metrics.install_step(InstallStep.CLAIMED)
        await schedule.ensure_webhook(resources, installation_id)
        await tokens.refresh(resources, installation_id)
    return installation_id


async def expire(resources: Resources) -> None:
    """Chore: erase the unclaimed installations that can no longer be claimed, and delete expired claims.

    Aircall is first told to switch the integration off, because erasing deletes the token that this needs. If the
    process is killed in between, the next run tells Aircall again. If an installation was claimed in between, it is not
    erased and its integration is switched on again.
    """
    async with resources.database.driver_connection() as connection:
        at = await clocks.agreed(connection)
        if not await connection.fetchval(HAS_SOME_TO_EXPIRE, at):
            return
    async with resources.database.session() as session:
        expired = await _lock_all(session, _is_abandoned(at))
        await lifecycle.note_switching_off(session, *(installation.id for installation in expired))
    await asyncio.gather(*(_switch_off(resources, installation) for installation in expired))
    was_expired = col(Installation.id).in_([installation.id for installation in expired])
    async with resources.database.session() as session:
        locked = await _lock_all(session, was_expired)
        # Check again now that they are locked: a customer may have come back meanwhile.
        abandoned = set((await session.exec(select(Installation.id).where(was_expired, _is_abandoned(at)))).all())
        for installation in locked:
            if installation.id in abandoned:
                await lifecycle.erase(session, installation)
    for installation in expired:
        if installation.id not in abandoned:
            await tokens.refresh(resources, installation.id)
    await _forget_expired(resources, at)


@again_if_undone
async def _claim(resources: Resources, who: Who, code: SecretStr, owner: str) -> tuple[str, bool]:
    """Give the installation to the owner in one transaction. Returns its id, and whether the code was used before.

    Raises what `claim` raises, except `OwnerNotAllowed`.
    """
    async with resources.database.session() as session:
        found, installation = await _lock(session, resources.vault, code)
        if found.claimed_at is not None:
            # The answer says that it is done, so the commit that did it must be durable.
            await commit_durably(session)
            return _claimed_before(found, installation, owner), True
        refusal = _refusal(found, installation, owner)
        outcome = Outcome.DONE if refusal is None else Outcome.REFUSED
        # A refusal concerns the owner that has the installation, or that it waits for: not the one that asked.
        concerned = owner if refusal is None else installation.owner or found.owner
        await audit.record(
            session,
            who,
            Action.INSTALLATION_CLAIMED,
            installation_id=installation.id,
            owner=concerned,
            outcome=outcome,
        )
        if refusal is None:
            await _hand_over(resources, session, found, installation, owner)
    if refusal is not None:
        logger.warning("claim refused", installation_id=installation.id, actor=who.actor, reason=refusal.code())
        raise refusal
    return installation.id, False


async def _lock(session: AsyncSession, vault: Vault, code: SecretStr) -> tuple[Claim, Installation]:
    """Lock a claim and its installation for this transaction; raises `ClaimNotFound`.

    The installation is locked first, as everywhere, so that no two transactions deadlock.
    """
    installation = (
        await session.exec(
            lifecycle.for_change(
                select(Installation).where(
                    col(Installation.id).in_(select(Claim.installation_id).where(_has_code(vault, code)))
                )
            )
        )
    ).first()
    found = (await session.exec(select(Claim).where(_has_code(vault, code)).with_for_update())).first()
    if installation is None or found is None:
        raise ClaimNotFound
    return found, installation


def _has_code(vault: Vault, code: SecretStr) -> ColumnElement[bool]:
    """Match the claim with this code until it expires, also once it was used."""
    same_code = col(Claim.fingerprint) == vault.fingerprint(code, CLAIM_PURPOSE)
    return and_(same_code, col(Claim.expires_at) > func.now())


def _claimed_before(found: Claim, installation: Installation, owner: str) -> str:
    """Return the installation's id to an owner that repeats its claim: after a reload, or when the answer was lost.

    Raises `ClaimNotFound` for any other owner, or if the owner no longer has the installation.
    """
    if found.owner != owner or installation.owner != owner or installation.status not in IN_USE:
        raise ClaimNotFound
    return installation.id


def _refusal(found: Claim, installation: Installation, owner: str) -> ApiError | None:
    """Return why the owner may not have the installation; None if it may."""
    if found.owner not in {None, owner}:
        return ClaimOfAnother()
    if installation.status in IN_USE and installation.owner not in {None, owner}:
        return InstallationHeld()
    return None


async def _hand_over(
    resources: Resources, session: AsyncSession, found: Claim, installation: Installation, owner: str
) -> None:
    """Give the installation to the owner, mark the claim as used, and append the event `installation.claimed`.

    An installation that was unclaimed, or gets the token that its claim holds, is connected first.
    """
    must_connect = found.token_sealed is not None or installation.status == InstallationStatus.UNCLAIMED
    if found.token_sealed is not None:
        token = resources.vault.open(found.token_sealed, SealedAt(CLAIM_TOKEN_COLUMN, found.id))
        tokens.keep_token(resources, installation, token)
    installation.owner = found.owner = owner
    found.claimed_at = now()
    found.token_sealed = found.token_fingerprint = None
    session.add_all([installation, found])
    if must_connect:
        await lifecycle.connect(session, installation)
    await recording.claim(session, found.attempt_reference, owner, installation.id)
    await store.append(session, installation, "installation.claimed", {"company_name": installation.company_name})


def _is_abandoned(at: datetime) -> ColumnElement[bool]:
    """Match unclaimed installations that have no usable claim: all their claims have expired or were used.

    One that never had a claim matches an hour after it was connected.
    """
    belongs_to_it = col(Claim.installation_id) == col(Installation.id)
    return and_(
        col(Installation.status) == InstallationStatus.UNCLAIMED,
        ~exists().where(belongs_to_it, col(Claim.expires_at) > at, col(Claim.claimed_at).is_(None)),
        or_(exists().where(belongs_to_it), col(Installation.connected_at) <= at - LIFETIME),
    )


async def _switch_off(resources: Resources, installation: Installation) -> None:
    """Tell Aircall to switch the integration off. A failure is only logged: the installation is erased all the same."""
    try:
        async with tokens.within_budget(resources, installation.company_id):
            await resources.aircall.disable_integration(tokens.token_of(resources, installation))
    except tokens.ASKING_ERRORS as error:
        logger.warning("integration not switched off", installation_id=installation.id, reason=str(error))


async def _forget_expired(resources: Resources, at: datetime) -> None:
    """Delete expired claims, except those of unclaimed installations: they go when `expire` erases the installation."""
    has_expired = exists().where(col(Claim.installation_id) == col(Installation.id), col(Claim.expires_at) <= at)
    async with resources.database.session() as session:
        locked = await _lock_all(session, has_expired, col(Installation.status) != InstallationStatus.UNCLAIMED)
        ids = [installation.id for installation in locked]
        await session.exec(delete(Claim).where(col(Claim.installation_id).in_(ids), col(Claim.expires_at) <= at))


async def _lock_all(session: AsyncSession, *conditions: ColumnElement[bool]) -> Sequence[Installation]:
    """Lock and return at most `BATCH` installations that meet the conditions; skip those that others have locked."""
    found = select(Installation).where(*conditions).order_by(col(Installation.id)).limit(BATCH)
    return (await session.exec(lifecycle.for_change(found, skip_locked=True))).all()
