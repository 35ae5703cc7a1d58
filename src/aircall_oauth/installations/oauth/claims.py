"""Claims: the partner's page says in its own logged-in session which owner an installation belongs to.

The code travels in one browser only, from our callback to the partner's page. So an attacker that lures an admin into
the attacker's flow (OAuth session fixation) never sees it, and can't claim the installation. `docs/security.md` has
more.
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
from aircall_oauth.storage.database import again_if_undone, commit_durably
from aircall_oauth.storage.models.base import new_id, now
from aircall_oauth.storage.models.installations import Claim, Installation, InstallationStatus
from aircall_oauth.storage.models.sealed import CLAIM_PURPOSE, CLAIM_TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.vault import SealedAt, Vault
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import InstallStep

logger = log.get(__name__)

LIFETIME = timedelta(hours=1)
BATCH = 20
HOLDING = {InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED}


def code_of(vault: Vault, flow_id: str) -> SecretStr:
    """Return a flow's claim code. It is derived, so a repeated callback carries the same one and it is not stored."""
    return SecretStr(base64url.encode(vault.fingerprint(flow_id, "claim-code")))


def new_claim(vault: Vault, flow: FlowState, installation: Installation, *, beside: SecretStr | None) -> Claim:
    """Make the claim of a flow. `beside` is the flow's token where the installation is in use with another one."""
    claim = Claim(
        id=new_id("clm"),
        installation_id=installation.id,
        fingerprint=vault.fingerprint(code_of(vault, flow.flow_id), CLAIM_PURPOSE),
        owner=flow.owner,
        expires_at=now() + LIFETIME,
    )
    if beside is not None:
        claim.token_sealed = vault.seal(beside, SealedAt(CLAIM_TOKEN_COLUMN, claim.id))
        claim.token_fingerprint = vault.fingerprint(beside, TOKEN_PURPOSE)
    return claim


async def keep_claim(session: AsyncSession, claim: Claim) -> None:
    """Add a claim. It replaces one left by an earlier try of the same flow whose commit was not confirmed."""
    await session.exec(delete(Claim).where(col(Claim.fingerprint) == claim.fingerprint))
    session.add(claim)


async def open_claim(session: AsyncSession, vault: Vault, flow_id: str) -> SecretStr | None:
    """Return the code of a flow's claim while it can still be used."""
    code = code_of(vault, flow_id)
    usable = select(Claim.id).where(_usable(vault, code), col(Claim.claimed_at).is_(None))
    return code if (await session.exec(usable)).first() is not None else None


async def claim(resources: Resources, key: Caller, who: Who, *, code: SecretStr, owner: str) -> str:
    """Give an installation to an owner, once. Returns its id; a repeat by the same owner returns the same.

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
    """Chore: erase unclaimed installations without a usable claim, and delete claims that expired.

    Aircall is told first to switch the integration off, because the token needed for that is erased. A process killed
    in between is followed by one that tells it again. An installation claimed meanwhile is switched on again.
    """
    at = await clocks.agreed_now(resources.database)
    async with resources.database.session() as session:
        expired = await _lock_all(session, _is_abandoned(at))
        await lifecycle.note_switching_off(session, *(installation.id for installation in expired))
    await asyncio.gather(*(_switch_off(resources, installation) for installation in expired))
    of_these = col(Installation.id).in_([installation.id for installation in expired])
    async with resources.database.session() as session:
        locked = await _lock_all(session, of_these)
        # Read again now that they are locked: a customer may have come back.
        still = set((await session.exec(select(Installation.id).where(of_these, _is_abandoned(at)))).all())
        for installation in locked:
            if installation.id in still:
                await lifecycle.erase(session, installation)
    for installation in expired:
        if installation.id not in still:
            await tokens.refresh(resources, installation.id)
    await _forget_expired(resources, at)


@again_if_undone
async def _claim(resources: Resources, who: Who, code: SecretStr, owner: str) -> tuple[str, bool]:
    """Give the installation to the owner. Returns its id, and whether the owner had it already."""
    async with resources.database.session() as session:
        found, installation = await _lock(session, resources.vault, code)
        if found.claimed_at is not None:
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
    """Lock the claim and its installation for this transaction; always the installation first, then the claim."""
    installation = (
        await session.exec(
            lifecycle.for_change(
                select(Installation).where(
                    col(Installation.id).in_(select(Claim.installation_id).where(_usable(vault, code)))
                )
            )
        )
    ).first()
    found = (await session.exec(select(Claim).where(_usable(vault, code)).with_for_update())).first()
    if installation is None or found is None:
        raise ClaimNotFound
    return found, installation


def _usable(vault: Vault, code: SecretStr) -> ColumnElement[bool]:
    recognised = col(Claim.fingerprint) == vault.fingerprint(code, CLAIM_PURPOSE)
    return and_(recognised, col(Claim.expires_at) > func.now())


def _claimed_before(found: Claim, installation: Installation, owner: str) -> str:
    """Return the installation's id to the owner that claimed it before: a reload, or a repeat after a lost answer."""
    if found.owner != owner or installation.owner != owner or installation.status not in HOLDING:
        raise ClaimNotFound
    return installation.id


def _refusal(found: Claim, installation: Installation, owner: str) -> ApiError | None:
    if found.owner not in {None, owner}:
        return ClaimOfAnother()
    if installation.status in HOLDING and installation.owner not in {None, owner}:
        return InstallationHeld()
    return None


async def _hand_over(
    resources: Resources, session: AsyncSession, found: Claim, installation: Installation, owner: str
) -> None:
    waited = found.token_sealed is not None or installation.status == InstallationStatus.UNCLAIMED
    if found.token_sealed is not None:
        token = resources.vault.open(found.token_sealed, SealedAt(CLAIM_TOKEN_COLUMN, found.id))
        tokens.keep_token(resources, installation, token)
    installation.owner = found.owner = owner
    found.claimed_at = now()
    found.token_sealed = found.token_fingerprint = None
    session.add_all([installation, found])
    if waited:
        await lifecycle.connect(session, installation)
    await recording.claim(session, found.attempt_reference, owner, installation.id)
    await store.append(session, installation, "installation.claimed", {"company_name": installation.company_name})


def _is_abandoned(at: datetime) -> ColumnElement[bool]:
    """Match installations that are unclaimed for an hour, and have no claim that can still be used."""
    of_it = col(Claim.installation_id) == col(Installation.id)
    return and_(
        col(Installation.status) == InstallationStatus.UNCLAIMED,
        ~exists().where(of_it, col(Claim.expires_at) > at, col(Claim.claimed_at).is_(None)),
        or_(exists().where(of_it), col(Installation.connected_at) <= at - LIFETIME),
    )


async def _switch_off(resources: Resources, installation: Installation) -> None:
    """Tell Aircall once to switch the integration off. The installation is erased even if that fails."""
    try:
        async with tokens.within_budget(resources, installation.company_id):
            await resources.aircall.disable_integration(tokens.token_of(resources, installation))
    except tokens.ASKING_ERRORS as error:
        logger.warning("integration not switched off", installation_id=installation.id, reason=str(error))


async def _forget_expired(resources: Resources, at: datetime) -> None:
    """Delete the expired claims on installations that are not unclaimed."""
    past = exists().where(col(Claim.installation_id) == col(Installation.id), col(Claim.expires_at) <= at)
    async with resources.database.session() as session:
        in_use = await _lock_all(session, past, col(Installation.status) != InstallationStatus.UNCLAIMED)
        ids = [installation.id for installation in in_use]
        await session.exec(delete(Claim).where(col(Claim.installation_id).in_(ids), col(Claim.expires_at) <= at))


async def _lock_all(session: AsyncSession, *conditions: ColumnElement[bool]) -> Sequence[Installation]:
    """Lock a batch of installations for this transaction, passing over those locked by another."""
    found = select(Installation).where(*conditions).order_by(col(Installation.id)).limit(BATCH)
    return (await session.exec(lifecycle.for_change(found, skip_locked=True))).all()
