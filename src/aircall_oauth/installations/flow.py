"""The install flow, top to bottom: an admin's browser leaves for Aircall, comes back, and is connected.

Network and database alternate and never nest. What a crash leaves behind is a flow that is `unknown`: its code may
be spent, so it is never exchanged again, and the way out is to start again.
"""

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import stamina
from pydantic import SecretStr
from sqlalchemy import func, text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth import eventlog, log
from aircall_oauth.aircall import budget
from aircall_oauth.aircall.payloads import Identity
from aircall_oauth.errors import (
    AircallAway,
    AircallError,
    AircallRefused,
    AircallUnavailable,
    AppRefused,
    CodeRefused,
    DatabaseAway,
    Declined,
    FlowError,
    FlowUnknown,
    ReturnAddressRefused,
)
from aircall_oauth.installations import state, upkeep
from aircall_oauth.installations.state import FlowCookie, FlowState
from aircall_oauth.models import (
    TOKEN_COLUMN,
    TOKEN_PURPOSE,
    Flow,
    FlowStatus,
    Installation,
    InstallationStatus,
    Webhook,
    WebhookStatus,
    new_id,
    now,
)
from aircall_oauth.resources import Resources
from aircall_oauth.vault import Place

logger = log.get(__name__)

# A flow still unknown after this has died: its two steps at Aircall together take less.
UNDER_WAY = timedelta(seconds=60)
KEPT = timedelta(days=1)
STEP_SECONDS = 25.0
CALLS_TO_IDENTIFY = 2
WAIT_FOR_FIRST_SECONDS = 20.0
LOOK_AGAIN_SECONDS = 0.2
IDENTITY_LOCK = 1
SCOPE = "public_api"


@dataclass(frozen=True)
class Departure:
    """Where the browser goes to consent, and what it must carry."""

    authorize_url: str
    cookie: FlowCookie


@dataclass(frozen=True)
class Connected:
    """The flow ended well."""

    company_name: str | None
    return_to: str | None


def begin_install(resources: Resources, *, return_to: str | None = None) -> Departure:
    """Send a browser to Aircall's consent page. Writes nothing: anybody may open the install door.

    Raises `ReturnAddressRefused` where `return_to` is not exactly one of `AIRCALL_OAUTH_RETURN_URLS`.
    """
    settings = resources.settings
    if return_to is not None and return_to not in settings.return_urls:
        raise ReturnAddressRefused
    flow_id, sealed, cookie = state.begin(resources.vault, secure=settings.secure_cookies, return_to=return_to)
    query = {
        "client_id": settings.client_id,
        "redirect_uri": settings.redirect_uri,
        "response_type": "code",
        "scope": SCOPE,
        "state": sealed,
    }
    if settings.pkce:
        query |= {
            "code_challenge": _challenge(_verifier(resources, flow_id)),
            "code_challenge_method": "S256",
        }
    return Departure(_with_query(settings.authorize_url, query), cookie)


async def finish_install(
    resources: Resources, flow: FlowState, *, code: SecretStr | None, error: str | None
) -> Connected:
    """Turn what Aircall sent back into an installation that receives events, once per flow.

    Every other ending is a `FlowError`. A repeat of the same flow shows the first one's ending.
    """
    await resources.require_ready()
    if not await _use_up(resources, flow):
        return await _first_ending(resources, flow.flow_id)
    try:
        if error is not None or code is None:
            raise _refusal(error)
        token = await _exchange(resources, flow.flow_id, code)
        identity = await _identify(resources, token)
    except FlowError as ending:
        logger.info("install ended", flow_id=flow.flow_id, ending=ending.code())
        await _record_ending(resources, flow.flow_id, ending)
        raise
    installation = await _save(resources, flow.flow_id, identity, token)
    logger.info("installation connected", installation_id=installation.id, status=installation.status)
    await upkeep.ensure_webhook(resources, installation.id)
    return Connected(installation.company_name, flow.return_to)


async def forget_flows(resources: Resources) -> None:
    """The worker's chore: drop flows whose state has long expired, so that it can't be used again anyway."""
    async with resources.database.session() as session:
        await session.exec(delete(Flow).where(col(Flow.used_at) < now() - KEPT))


async def _use_up(resources: Resources, flow: FlowState) -> bool:
    """Whether this is the first callback of the flow: one statement decides, for every replica."""
    first = (
        insert(Flow)
        .values(id=flow.flow_id, status=FlowStatus.UNKNOWN, return_to=flow.return_to, used_at=now())
        .on_conflict_do_nothing(index_elements=["id"])
        .returning(col(Flow.id))
    )
    async with resources.database.session() as session:
        return (await session.exec(first)).first() is not None


async def _first_ending(resources: Resources, flow_id: str) -> Connected:
    """How the flow's first callback ended; waits for it while it is under way."""
    try:
        async with asyncio.timeout(WAIT_FOR_FIRST_SECONDS):
            while True:
                async with resources.database.session() as session:
                    flow = (await session.exec(select(Flow).where(col(Flow.id) == flow_id))).one()
                    if flow.status == FlowStatus.CONNECTED:
                        return await _connected(session, flow)
                if flow.status == FlowStatus.ENDED:
                    raise _ending(flow.ending)
                if flow.used_at < now() - UNDER_WAY:
                    raise FlowUnknown
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
    except TimeoutError:
        raise FlowUnknown from None


async def _connected(session: AsyncSession, flow: Flow) -> Connected:
    names = select(Installation.company_name).where(col(Installation.id) == flow.installation_id)
    return Connected((await session.exec(names)).first(), flow.return_to)


def _ending(code: str | None) -> FlowError:
    for ending in FlowError.__subclasses__():
        if ending.code() == code:
            return ending()
    return FlowUnknown()


def _refusal(error: str | None) -> FlowError:
    """What the `error` on the redirect means; its values are RFC 6749's, which Aircall does not document."""
    match error:
        case "access_denied":
            return Declined()
        case "invalid_client" | "unauthorized_client" | "invalid_scope" | "unsupported_response_type":
            logger.error("Aircall refuses this app", error=error)
            return AppRefused()
        case "server_error" | "temporarily_unavailable":
            return AircallAway()
        case _:
            return CodeRefused()


async def _exchange(resources: Resources, flow_id: str, code: SecretStr) -> SecretStr:
    verifier = _verifier(resources, flow_id) if resources.settings.pkce else None
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await resources.aircall.exchange_code(code, verifier=verifier)
    except AircallRefused as refused:
        if refused.aircall_status in {401, 403} or refused.reason in {
            "invalid_client",
            "unauthorized_client",
        }:
            logger.error("Aircall refuses this app's credentials", aircall_status=refused.aircall_status)
            raise AppRefused from None
        raise CodeRefused from None
    except (AircallUnavailable, TimeoutError) as error:
        raise _away("exchange", error) from None


async def _identify(resources: Resources, token: SecretStr) -> Identity:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            identity = await resources.aircall.identify(token)
    except (AircallError, TimeoutError) as error:
        raise _away("identify", error) from None
    with suppress(DatabaseAway):
        await budget.spend(resources.database, identity.company_id, calls=CALLS_TO_IDENTIFY)
    return identity


def _away(step: str, error: Exception) -> AircallAway:
    logger.warning("Aircall is away", step=step, reason=str(error))
    return AircallAway()


async def _record_ending(resources: Resources, flow_id: str, ending: FlowError) -> None:
    try:
        async with resources.database.session() as session:
            await session.exec(
                update(Flow).where(col(Flow.id) == flow_id).values(status=FlowStatus.ENDED, ending=ending.code())
            )
    except DatabaseAway:
        logger.warning("ending not recorded", flow_id=flow_id, ending=ending.code())


async def _save(resources: Resources, flow_id: str, identity: Identity, token: SecretStr) -> Installation:
    """Keep what was granted; tried a few times, because a code is spent on it."""
    async for attempt in stamina.retry_context(on=DatabaseAway, attempts=5, wait_initial=0.2, wait_max=2.0):
        with attempt:
            installation = await _save_once(resources, flow_id, identity, token)
    return installation


async def _save_once(resources: Resources, flow_id: str, identity: Identity, token: SecretStr) -> Installation:
    """Keep the token sealed, its webhook still to be made, and the flow's ending: all or nothing."""
    async with resources.database.session() as session:
        await (await session.connection()).execute(
            text("SELECT pg_advisory_xact_lock(:lock, :company)"),
            {"lock": IDENTITY_LOCK, "company": identity.company_id % 2**31},
        )
        installation = await _find(session, identity) or Installation(
            id=new_id("ins"),
            status=InstallationStatus.UNCLAIMED,
            company_id=identity.company_id,
            connected_at=now(),
        )
        _connect(resources, installation, identity, token)
        session.add(installation)
        await session.flush()
        await session.exec(_webhook_wanted(installation))
        await session.exec(
            update(Flow)
            .where(col(Flow.id) == flow_id)
            .values(status=FlowStatus.CONNECTED, installation_id=installation.id)
        )
        await eventlog.append(
            session, installation, "installation.connected", {"company_name": installation.company_name}
        )
    return installation


async def _find(session: AsyncSession, identity: Identity) -> Installation | None:
    """The installation this identity already has: by the integration's id, else by the company's."""
    of_company = select(Installation).where(col(Installation.company_id) == identity.company_id)
    rows = (await session.exec(of_company.with_for_update().order_by(col(Installation.id)))).all()
    same = [row for row in rows if row.integration_id == identity.integration_id]
    if not same and identity.integration_id is not None:
        # First seen without an integration id; now Aircall tells it.
        same = [row for row in rows if row.integration_id is None]
    elif not same and len(rows) == 1:
        # Aircall left the id out this time; one installation in this company can only be this one.
        same = list(rows)
    return same[0] if same else None


def _connect(resources: Resources, installation: Installation, identity: Identity, token: SecretStr) -> None:
    installation.integration_id = identity.integration_id or installation.integration_id
    installation.company_name = identity.company_name or installation.company_name
    installation.number_ids = identity.number_ids
    installation.token_sealed = resources.vault.seal(token, Place(TOKEN_COLUMN, installation.id))
    installation.token_fingerprint = resources.vault.fingerprint(token, TOKEN_PURPOSE)
    installation.connected_at = now()
    claimed = installation.owner is not None or installation.status == InstallationStatus.ACTIVE
    if claimed or resources.settings.claim == "optional":
        installation.status = InstallationStatus.ACTIVE
    else:
        installation.status = InstallationStatus.UNCLAIMED


def _webhook_wanted(installation: Installation) -> Any:
    """The installation's webhook, to be looked at now. An older one goes on being recognised meanwhile."""
    look_now = {"status": WebhookStatus.PENDING, "due_at": func.now(), "attempts": 0, "last_error": None}
    return (
        insert(Webhook)
        .values(id=new_id("whk"), installation_id=installation.id, **look_now)
        .on_conflict_do_update(index_elements=["installation_id"], set_=look_now)
    )


def _verifier(resources: Resources, flow_id: str) -> str:
    """The flow's PKCE secret (RFC 7636), derived, so that no replica has to remember it."""
    return base64.urlsafe_b64encode(resources.vault.fingerprint(flow_id, "pkce")).decode().rstrip("=")


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def _with_query(url: str, query: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), *query.items()])))
