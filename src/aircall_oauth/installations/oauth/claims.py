"""Claims: whose an installation is, said by the partner's page in its own logged-in session.

The code travels in one browser only, from our callback to the partner's page. So whoever sent an admin a link of his
own (OAuth session fixation) never gets to see it, and nobody else's claim is accepted. `docs/security.md` tells more.
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
    """A flow's claim code: derived, so that a repeated callback carries the same one and nobody has to keep it."""
    return SecretStr(base64url.encode(vault.fingerprint(flow_id, "claim-code")))


def new_claim(vault: Vault, flow: FlowState, installation: Installation, *, beside: SecretStr | None) -> Claim:
    """The claim on what came of a flow; `beside` is its token, where somebody has the installation already."""
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
    """Add a claim, in place of the one that a first try of the same flow left when its commit's answer got lost."""
    await session.exec(delete(Claim).where(col(Claim.fingerprint) == claim.fingerprint))
    session.add(claim)


async def open_claim(session: AsyncSession, vault: Vault, flow_id: str) -> SecretStr | None:
    """The code of a flow's claim while it can still be used."""
    code = code_of(vault, flow_id)
    usable = select(Claim.id).where(_usable(vault, code), col(Claim.claimed_at).is_(None))
    return code if (await session.exec(usable)).first() is not None else None


async def claim(resources: Resources, key: Caller, who: Who, *, code: SecretStr, owner: str) -> str:
    """Make an installation the owner's, once; its id. The same owner's repeat gets the same answer.

    Raises `OwnerNotAllowed`, `ClaimNotFound` (never given, used by another, too late), `ClaimOfAnother` (the link was
    another owner's) or `InstallationHeld` (another owner has it). A refused claim changes nothing.
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
    """The worker's chore: forget what was not claimed within an hour, and erase installations that wait for nobody.

    Aircall is told first, for the token that it takes to tell is erased. Whoever is killed in between tells it again.
    An installation that is claimed in this very moment is switched on again.
    """
    at = await clocks.agreed_now(resources.database)
    async with resources.database.session() as session:
        lapsed = await _lock_all(session, _is_nobodys(at))
        await lifecycle.note_switching_off(session, *(installation.id for installation in lapsed))
    await asyncio.gather(*(_switch_off(resources, installation) for installation in lapsed))
    of_these = col(Installation.id).in_([installation.id for installation in lapsed])
    async with resources.database.session() as session:
        locked = await _lock_all(session, of_these)
        # Asked anew, now that they are locked: somebody may have come back.
        still = set((await session.exec(select(Installation.id).where(of_these, _is_nobodys(at)))).all())
        for installation in locked:
            if installation.id in still:
                await lifecycle.erase(session, installation)
    for installation in lapsed:
        if installation.id not in still:
            await tokens.refresh(resources, installation.id)
    await _forget_lapsed(resources, at)


@again_if_undone
async def _claim(resources: Resources, who: Who, code: SecretStr, owner: str) -> tuple[str, bool]:
    """The installation's id, now the owner's, and whether it was already."""
    async with resources.database.session() as session:
        found, installation = await _lock(session, resources.vault, code)
        if found.claimed_at is not None:
            await commit_durably(session)
            return _claimed_before(found, installation, owner), True
        refusal = _refusal(found, installation, owner)
        outcome = Outcome.DONE if refusal is None else Outcome.REFUSED
        await audit.record(session, who, Action.INSTALLATION_CLAIMED, installation_id=installation.id, outcome=outcome)
        if refusal is None:
            await _hand_over(resources, session, found, installation, owner)
    if refusal is not None:
        logger.warning("claim refused", installation_id=installation.id, actor=who.actor, reason=refusal.code())
        raise refusal
    return installation.id, False


async def _lock(session: AsyncSession, vault: Vault, code: SecretStr) -> tuple[Claim, Installation]:
    """The claim and its installation, for this transaction alone; always in that order: installation, then claim."""
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
    """A reload, or a repeat of a request whose answer got lost: the installation's id for the owner who has it."""
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
    await store.append(session, installation, "installation.claimed", {"company_name": installation.company_name})


def _is_nobodys(at: datetime) -> ColumnElement[bool]:
    """Unclaimed for an hour, and waited for by no claim that can still be used."""
    of_it = col(Claim.installation_id) == col(Installation.id)
    return and_(
        col(Installation.status) == InstallationStatus.UNCLAIMED,
        ~exists().where(of_it, col(Claim.expires_at) > at, col(Claim.claimed_at).is_(None)),
        or_(exists().where(of_it), col(Installation.connected_at) <= at - LIFETIME),
    )


async def _switch_off(resources: Resources, installation: Installation) -> None:
    """Tell Aircall that nobody uses it, if it listens: it is erased anyway."""
    try:
        async with tokens.within_budget(resources, installation.company_id):
            await resources.aircall.disable_integration(tokens.token_of(resources, installation))
    except tokens.ASKING_ERRORS as error:
        logger.warning("integration not switched off", installation_id=installation.id, reason=str(error))


async def _forget_lapsed(resources: Resources, at: datetime) -> None:
    """Forget the claims past their time on what is in use."""
    past = exists().where(col(Claim.installation_id) == col(Installation.id), col(Claim.expires_at) <= at)
    async with resources.database.session() as session:
        in_use = await _lock_all(session, past, col(Installation.status) != InstallationStatus.UNCLAIMED)
        ids = [installation.id for installation in in_use]
        await session.exec(delete(Claim).where(col(Claim.installation_id).in_(ids), col(Claim.expires_at) <= at))


async def _lock_all(session: AsyncSession, *conditions: ColumnElement[bool]) -> Sequence[Installation]:
    """Installations of which nobody else has the lock, for this transaction alone."""
    found = select(Installation).where(*conditions).order_by(col(Installation.id)).limit(BATCH)
    return (await session.exec(lifecycle.for_change(found, skip_locked=True))).all()
