"""Claims: whose an installation is, said by the partner's page in its own logged-in session.

The code travels in one browser only, from our callback to the partner's page. So whoever sent an admin a link of his
own (OAuth session fixation) never gets to see it, and nobody else's claim is accepted. `docs/security.md` tells more.
"""

import base64
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import ColumnElement, and_, exists, func
from sqlmodel import col, delete, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth import audit, eventlog, log, standing
from aircall_oauth.audit import Action, Outcome, Who
from aircall_oauth.callers import Caller
from aircall_oauth.errors import (
    AircallError,
    ApiError,
    BudgetSpent,
    ClaimNotFound,
    ClaimOfAnother,
    InstallationHeld,
    OwnerNotAllowed,
    SealError,
)
from aircall_oauth.installations import upkeep
from aircall_oauth.installations.state import FlowState
from aircall_oauth.metrics import InstallStep
from aircall_oauth.models import (
    CLAIM_PURPOSE,
    CLAIM_TOKEN_COLUMN,
    TOKEN_PURPOSE,
    Claim,
    Installation,
    InstallationStatus,
    new_id,
    now,
)
from aircall_oauth.resources import Resources
from aircall_oauth.vault import Place, Vault

logger = log.get(__name__)

LIFETIME = timedelta(hours=1)
BATCH = 50
HOLDING = {InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED}


def code_of(vault: Vault, flow_id: str) -> SecretStr:
    """A flow's claim code: derived, so that a repeated callback carries the same one and nobody has to keep it."""
    return SecretStr(base64.urlsafe_b64encode(vault.fingerprint(flow_id, "claim-code")).decode().rstrip("="))


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
        claim.token_sealed = vault.seal(beside, Place(CLAIM_TOKEN_COLUMN, claim.id))
        claim.token_fingerprint = vault.fingerprint(beside, TOKEN_PURPOSE)
    return claim


async def keep_claim(session: AsyncSession, claim: Claim) -> None:
    """Add a claim, in place of the one that a first try of the same flow left when its commit's answer got lost."""
    await session.exec(delete(Claim).where(col(Claim.fingerprint) == claim.fingerprint))
    session.add(claim)


async def open_claim(session: AsyncSession, vault: Vault, flow_id: str) -> SecretStr | None:
    """The code of a flow's claim while it can still be used."""
    code = code_of(vault, flow_id)
    usable = select(Claim.id).where(_usable(vault, code))
    return code if (await session.exec(usable)).first() is not None else None


async def claim(resources: Resources, key: Caller, who: Who, *, code: SecretStr, owner: str) -> str:
    """Make an installation the owner's, once; its id.

    Raises `OwnerNotAllowed`, `ClaimNotFound` (never given, used, too late), `ClaimOfAnother` (the link was another
    owner's) or `InstallationHeld` (somebody else has it). A refused claim changes nothing.
    """
    if not key.may_act_for(owner):
        raise OwnerNotAllowed
    async with resources.database.session() as session:
        found, installation = await _lock(session, resources.vault, code)
        refusal = _refusal(found, installation, owner)
        outcome = Outcome.DONE if refusal is None else Outcome.REFUSED
        await audit.record(session, who, Action.INSTALLATION_CLAIMED, installation_id=installation.id, outcome=outcome)
        if refusal is None:
            await _hand_over(resources, session, found, installation, owner)
    if refusal is not None:
        logger.warning("claim refused", installation_id=installation.id, actor=who.actor, reason=refusal.code())
        raise refusal
    logger.info("installation claimed", installation_id=installation.id, actor=who.actor)
    resources.metrics.install_step(InstallStep.CLAIMED)
    await upkeep.ensure_webhook(resources, installation.id)
    await standing.refresh(resources, installation.id)
    return installation.id


async def expire(resources: Resources) -> None:
    """The worker's chore: forget what was not claimed within an hour, and erase installations that wait for nobody."""
    async with resources.database.session() as session:
        waiting = await _lock_lapsed(session)
        ids = [installation.id for installation in waiting]
        await session.exec(
            delete(Claim).where(col(Claim.installation_id).in_(ids), col(Claim.expires_at) <= func.now())
        )
        nobodys = await _nobodys(session, ids)
        lapsed = [installation for installation in waiting if installation.id in nobodys]
        tokens = _tokens(resources, lapsed)
        for installation in lapsed:
            await standing.erase(session, installation)
    for installation_id, token in tokens.items():
        await _switch_off(resources, installation_id, token)


async def _lock(session: AsyncSession, vault: Vault, code: SecretStr) -> tuple[Claim, Installation]:
    """The claim and its installation, for this transaction alone; always in that order: installation, then claim."""
    installation = (
        await session.exec(
            select(Installation)
            .where(col(Installation.id).in_(select(Claim.installation_id).where(_usable(vault, code))))
            .with_for_update()
        )
    ).first()
    found = (await session.exec(select(Claim).where(_usable(vault, code)).with_for_update())).first()
    if installation is None or found is None:
        raise ClaimNotFound
    return found, installation


def _usable(vault: Vault, code: SecretStr) -> ColumnElement[bool]:
    recognised = col(Claim.fingerprint) == vault.fingerprint(code, CLAIM_PURPOSE)
    return and_(recognised, col(Claim.expires_at) > func.now())


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
        token = resources.vault.open(found.token_sealed, Place(CLAIM_TOKEN_COLUMN, found.id))
        standing.keep_token(resources, installation, token)
    installation.owner = owner
    session.add(installation)
    await session.delete(found)
    if waited:
        await standing.connect(session, installation)
    await eventlog.append(session, installation, "installation.claimed", {"company_name": installation.company_name})


async def _lock_lapsed(session: AsyncSession) -> Sequence[Installation]:
    """Installations with a claim that is past its time, and those that wait without one."""
    past = exists().where(col(Claim.installation_id) == col(Installation.id), col(Claim.expires_at) <= func.now())
    stray = (
        (col(Installation.status) == InstallationStatus.UNCLAIMED)
        & (col(Installation.connected_at) <= func.now() - LIFETIME)
        & ~exists().where(col(Claim.installation_id) == col(Installation.id))
    )
    lapsed = select(Installation).where(past | stray).order_by(col(Installation.id)).limit(BATCH)
    return (await session.exec(lapsed.with_for_update(skip_locked=True))).all()


async def _nobodys(session: AsyncSession, installation_ids: Sequence[str]) -> set[str]:
    """Which of them are unclaimed, and waited for by no claim any more."""
    unclaimed = select(Installation.id).where(
        col(Installation.id).in_(installation_ids),
        col(Installation.status) == InstallationStatus.UNCLAIMED,
        ~exists().where(col(Claim.installation_id) == col(Installation.id)),
    )
    return set((await session.exec(unclaimed)).all())


def _tokens(resources: Resources, installations: Sequence[Installation]) -> dict[str, SecretStr]:
    """Their tokens; one that does not open is no reason to keep its installation, and still less the others."""
    tokens = {}
    for installation in installations:
        with suppress(SealError):
            tokens[installation.id] = standing.token_of(resources, installation)
    return tokens


async def _switch_off(resources: Resources, installation_id: str, token: SecretStr) -> None:
    """Tell Aircall that nobody uses it; once, because the token is erased. Not if somebody came back meanwhile."""
    async with resources.database.session() as session:
        installation = await session.get(Installation, installation_id)
    if installation is None or installation.status != InstallationStatus.REMOVED:
        return
    try:
        async with standing.within_budget(resources, installation.company_id):
            await resources.aircall.disable_integration(token)
    except (AircallError, BudgetSpent) as error:
        logger.warning("integration not switched off", installation_id=installation_id, reason=str(error))
