"""Save what a flow was granted: activate an installation, or hold it until its claim is used."""

from enum import Enum, auto

import stamina
from pydantic import SecretStr
from sqlalchemy import or_, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.aircall.payloads import Identity
from aircall_oauth.errors import DatabaseAway, TokenMixedUp
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.attempts import recording
from aircall_oauth.installations.attempts.recording import Attempt
from aircall_oauth.installations.oauth import claims
from aircall_oauth.installations.oauth.state import FlowState
from aircall_oauth.resources import Resources
from aircall_oauth.storage import locks
from aircall_oauth.storage.models.installations import Flow, Installation
from aircall_oauth.storage.sealed import TOKEN_PURPOSE
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.statuses import FlowStatus, InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

SAVE_SECONDS = 45.0


class Decision(Enum):
    """What becomes of the token and the installation that a flow was granted."""

    ACTIVATE = auto()  # the installation is in use from now on
    HOLD = auto()  # the installation keeps the token, and is unclaimed until its claim is used
    HOLD_BESIDE = auto()  # the installation is in use and stays as it is; the claim keeps the token


async def save(
    resources: Resources, flow: FlowState, attempt: Attempt, identity: Identity, token: SecretStr
) -> tuple[Installation, Decision]:
    """Save what was granted, retried for `SAVE_SECONDS` while the database is away, because a code was spent on it."""
    trying = stamina.retry_context(on=DatabaseAway, attempts=100, timeout=SAVE_SECONDS, wait_initial=0.2, wait_max=2.0)
    async for one_try in trying:
        with one_try:
            try:
                saved = await _save_once(resources, flow, attempt, identity, token)
            except IntegrityError as error:
                # Two companies came with one integration at once: the second one is refused as it would be later.
                raise _mixed_up() from error
    return saved


async def _save_once(
    resources: Resources, flow: FlowState, attempt: Attempt, identity: Identity, token: SecretStr
) -> tuple[Installation, Decision]:
    """Save the installation, its claim and the flow's ending in one transaction. The webhook is still to be made."""
    async with resources.database.session() as session:
        await (await session.connection()).execute(
            text("SELECT pg_advisory_xact_lock(:lock, :company)"),
            {"lock": locks.COMPANY_INSTALL, "company": identity.company_id % 2**31},
        )
        installation = await _find(session, identity) or Installation(
            id=new_id("ins"),
            status=InstallationStatus.UNCLAIMED,
            company_id=identity.company_id,
            connected_at=now(),
        )
        await _refuse_mixed_up(resources, session, installation, token)
        decision = _decide(resources, flow, installation)
        kept_by_claim = None
        match decision:
            case Decision.ACTIVATE:
                _grant(resources, installation, identity, token, InstallationStatus.ACTIVE)
            case Decision.HOLD:
                _grant(resources, installation, identity, token, InstallationStatus.UNCLAIMED)
            case Decision.HOLD_BESIDE:
                kept_by_claim = token
        session.add(installation)
        await session.flush()
        if decision != Decision.ACTIVATE or flow.return_to is not None:
            claim = claims.new_claim(resources.vault, flow, installation, token=kept_by_claim)
            claim.attempt_reference = attempt.reference
            await claims.keep_claim(session, claim)
        ended = update(Flow).where(col(Flow.id) == flow.flow_id)
        await session.exec(ended.values(status=FlowStatus.CONNECTED, installation_id=installation.id))
        await recording.connect(session, attempt, installation, held=decision != Decision.ACTIVATE)
        if decision == Decision.ACTIVATE:
            await lifecycle.connect(session, installation)
    return installation, decision


def _decide(resources: Resources, flow: FlowState, installation: Installation) -> Decision:
    """Decide by the installation as it was before: what began with a link is always held."""
    if _in_use(installation):
        return Decision.ACTIVATE if flow.link_id is None else Decision.HOLD_BESIDE
    must_be_claimed = flow.link_id is not None or resources.settings.claim == "required"
    return Decision.HOLD if must_be_claimed else Decision.ACTIVATE


def _in_use(installation: Installation) -> bool:
    return installation.status in {InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED}


def _grant(
    resources: Resources,
    installation: Installation,
    identity: Identity,
    token: SecretStr,
    status: InstallationStatus,
) -> None:
    """Give an installation its token, its facts and its status."""
    if not _in_use(installation):
        # The former owner gave it up when it was removed.
        installation.owner = None
    installation.company_id = identity.company_id
    installation.integration_id = identity.integration_id or installation.integration_id
    installation.company_name = identity.company_name or installation.company_name
    installation.number_ids = identity.number_ids
    installation.connected_at = now()
    tokens.keep_token(resources, installation, token)
    installation.status = status


async def _find(session: AsyncSession, identity: Identity) -> Installation | None:
    """Find and lock the installation of an identity: by the integration's id, else by the company's.

    Raises `TokenMixedUp` where another company's installation has that integration (docs/decisions/0057).
    """
    known = col(Installation.company_id) == identity.company_id
    if identity.integration_id is not None:
        known = or_(known, col(Installation.integration_id) == identity.integration_id)
    found = lifecycle.for_change(select(Installation).where(known).order_by(col(Installation.id)))
    rows = (await session.exec(found)).all()
    same = [row for row in rows if row.integration_id == identity.integration_id]
    if same and same[0].company_id != identity.company_id and same[0].status != InstallationStatus.REMOVED:
        raise _mixed_up(same[0].id)
    if not same and identity.integration_id is not None:
        # It was first saved without an integration id, and now Aircall tells the id.
        same = [row for row in rows if row.integration_id is None]
    elif not same and len(rows) == 1:
        # Aircall left the id out this time; the only installation of this company must be the one.
        same = list(rows)
    return same[0] if same else None


async def _refuse_mixed_up(
    resources: Resources, session: AsyncSession, installation: Installation, token: SecretStr
) -> None:
    """Refuse a token that is another installation's: it would give one customer's calls to another."""
    vault = resources.vault
    fingerprints = [vault.fingerprint(token, TOKEN_PURPOSE), *vault.older_fingerprints(token, TOKEN_PURPOSE)]
    another = select(Installation.id).where(
        col(Installation.token_fingerprint).in_(fingerprints), col(Installation.id) != installation.id
    )
    if (await session.exec(another)).first() is not None:
        raise _mixed_up(installation.id)


def _mixed_up(installation_id: str | None = None) -> TokenMixedUp:
    logger.error("a token answers for another company", alarm=True, installation_id=installation_id)
    return TokenMixedUp()
