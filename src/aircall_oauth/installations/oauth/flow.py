"""The install flow, top to bottom: an admin's browser leaves for Aircall, comes back, and is connected.

Network and database alternate and never nest. What a crash leaves behind is a flow that is `unknown`: its code may
be spent, so it is never exchanged again, and the way out is to start again.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode, urlsplit, urlunsplit

import stamina
from pydantic import SecretStr
from sqlalchemy import or_, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.aircall import budget
from aircall_oauth.aircall.client import APP_REFUSED, counted
from aircall_oauth.aircall.payloads import Identity
from aircall_oauth.errors import (
    AircallAway,
    AircallBusy,
    AircallError,
    AircallRefused,
    AircallUnavailable,
    AppError,
    AppRefused,
    CodeRefused,
    DatabaseAway,
    Declined,
    FlowError,
    FlowUnknown,
    LinkUsed,
    ReturnAddressRefused,
    TokenMixedUp,
)
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.oauth import claims, links, state
from aircall_oauth.installations.oauth.brake import Turn
from aircall_oauth.installations.oauth.state import FlowCookie, FlowState
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.resources import Resources
from aircall_oauth.storage import base64url, clocks, locks
from aircall_oauth.storage.models.base import new_id, now
from aircall_oauth.storage.models.installations import Flow, FlowStatus, Installation, InstallationStatus
from aircall_oauth.storage.models.sealed import TOKEN_PURPOSE
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import InstallStep

logger = log.get(__name__)

# A flow still unknown after this has died: its two steps at Aircall and the saving together take less.
UNDER_WAY = timedelta(seconds=110)
KEPT = timedelta(days=1)
# A browser waits 15 seconds at most; this leaves one for everything around the flow.
ANSWER_SECONDS = 14.0
STEP_SECONDS = 25.0
SAVE_SECONDS = 45.0
WAIT_FOR_FIRST_SECONDS = 12.0
# Aircall says "not now" without saying until when, or "at once".
USUAL_PAUSE_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS = 0.2
LOOK_AGAIN_SECONDS = 0.2

Answer = TypeVar("Answer")
SCOPE = "public_api"


@dataclass(frozen=True)
class Departure:
    """Where the browser goes to consent, and what it must carry."""

    authorize_url: str
    cookie: FlowCookie


@dataclass(frozen=True)
class Connected:
    """The flow ended well; `claim` is what the browser carries home to the partner's page, if anything."""

    company_name: str | None
    return_to: str | None
    claim: SecretStr | None

    @property
    def way_home(self) -> str | None:
        """The partner's page, with the claim."""
        if self.return_to is None or self.claim is None:
            return self.return_to
        return with_query(self.return_to, {"claim": self.claim.get_secret_value()})


def begin_install(resources: Resources, *, return_to: str | None = None, link: str | None = None) -> Departure:
    """Send a browser to Aircall's consent page. Writes nothing: anybody may open the install door.

    Raises `ReturnAddressRefused` where `return_to` is not exactly one of `AIRCALL_OAUTH_RETURN_URLS`, and `LinkInvalid`
    or `LinkExpired` for an install link that is no good.
    """
    settings = resources.settings
    opened = links.open_link(resources.vault, link) if link is not None else links.NO_LINK
    if link is not None:
        return_to = opened.return_to
    elif return_to is None and settings.claim == "required":
        return_to = links.default_return(settings.return_urls)
    if return_to is not None and return_to not in settings.return_urls:
        raise ReturnAddressRefused
    flow_id, sealed, cookie = state.begin(
        resources.vault,
        secure=settings.secure_cookies,
        return_to=return_to,
        link_id=opened.id,
        owner=opened.owner,
    )
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
    resources.metrics.install_step(InstallStep.STARTED)
    return Departure(with_query(settings.authorize_url, query), cookie)


async def finish_install(
    resources: Resources, flow: FlowState, *, code: SecretStr | None, error: str | None, turn: Turn | None = None
) -> Connected:
    """Turn what Aircall sent back into an installation that receives events, once per flow and per install link.

    Where it must be claimed first, it only waits. Every other ending is a `FlowError`. A repeat of the same flow shows
    the first one's ending. After `ANSWER_SECONDS` the browser has its answer, `FlowUnknown` where there is no ending
    yet: a code that is spent must not be lost, so the rest goes on without it. `turn` is given back where no
    installation failed.
    """
    latest = _time() + ANSWER_SECONDS
    connecting = resources.go_on(_connect(resources, flow, code, error, turn, latest))
    await asyncio.wait({connecting}, timeout=ANSWER_SECONDS)
    if not connecting.done():
        logger.warning("install goes on without its browser", flow_id=flow.flow_id)
        raise FlowUnknown
    connected, settling = connecting.result()
    if settling is not None:
        await asyncio.wait({settling}, timeout=max(0.0, latest - _time()))
    return connected


async def _connect(
    resources: Resources,
    flow: FlowState,
    code: SecretStr | None,
    error: str | None,
    turn: Turn | None,
    latest: float,
) -> tuple[Connected, asyncio.Task[None] | None]:
    """The flow up to its ending, and what is left to do at Aircall for an installation that is in use."""
    try:
        await resources.require_ready()
        is_first = await _use_up(resources, flow, granted=error is None and code is not None)
    except AppError:
        _give_back(turn)
        raise
    if not is_first:
        _give_back(turn)
        return await _first_ending(resources, flow), None
    try:
        if error is not None or code is None:
            raise _refusal(error)
        resources.metrics.install_step(InstallStep.CONSENTED)
        token = await _exchange(resources, flow.flow_id, code, latest)
        resources.metrics.install_step(InstallStep.EXCHANGED)
        identity = await _identify(resources, token, latest)
        installation = await _save(resources, flow, identity, token)
    except FlowError as ending:
        logger.info("install ended", flow_id=flow.flow_id, ending=ending.code())
        await _record_ending(resources, flow.flow_id, ending)
        raise
    _give_back(turn)
    logger.info("installation connected", installation_id=installation.id, status=installation.status)
    waits = _waits(resources, flow, installation)
    settling = None if waits else resources.go_on(_settle(resources, installation, identity))
    claim = claims.code_of(resources.vault, flow.flow_id) if waits or flow.return_to is not None else None
    return Connected(installation.company_name, flow.return_to, claim), settling


async def _settle(resources: Resources, installation: Installation, identity: Identity) -> None:
    """What an installation in use needs at Aircall; where this fails, the worker sees to it."""
    if identity.active is False:
        await tokens.switch_on(resources, installation)
    await schedule.ensure_webhook(resources, installation.id)


def _give_back(turn: Turn | None) -> None:
    if turn is not None:
        turn.give_back()


async def forget_flows(resources: Resources) -> None:
    """The worker's chore: drop flows whose state has long expired, so that it can't be used again anyway."""
    before = await clocks.agreed_now(resources.database) - KEPT
    async with resources.database.session() as session:
        await session.exec(delete(Flow).where(col(Flow.used_at) < before))


async def _use_up(resources: Resources, flow: FlowState, *, granted: bool) -> bool:
    """Whether this is the first callback of the flow: one statement decides, for every replica, and for its link too.

    A link that came back without a code (declined) is still good.
    """
    first = (
        insert(Flow)
        .values(
            id=flow.flow_id,
            status=FlowStatus.UNKNOWN,
            return_to=flow.return_to,
            used_at=now(),
            link_id=flow.link_id if granted else None,
        )
        .on_conflict_do_nothing()
        .returning(col(Flow.id))
    )
    async with resources.database.session() as session:
        if (await session.exec(first)).first() is not None:
            return True
        if (await session.exec(select(Flow.id).where(col(Flow.id) == flow.flow_id))).first() is None:
            raise LinkUsed
    return False


async def _first_ending(resources: Resources, flow: FlowState) -> Connected:
    """How the flow's first callback ended; waits for it while it is under way."""
    try:
        async with asyncio.timeout(WAIT_FOR_FIRST_SECONDS):
            while True:
                async with resources.database.session() as session:
                    first = (await session.exec(select(Flow).where(col(Flow.id) == flow.flow_id))).one()
                if first.status == FlowStatus.CONNECTED:
                    return await _connected(resources, flow, first)
                if first.status == FlowStatus.ENDED:
                    raise _ending(first.ending)
                if first.used_at < now() - UNDER_WAY:
                    raise FlowUnknown
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
    except TimeoutError:
        raise FlowUnknown from None


async def _connected(resources: Resources, flow: FlowState, first: Flow) -> Connected:
    names = select(Installation.company_name).where(col(Installation.id) == first.installation_id)
    async with resources.database.session() as session:
        company_name = (await session.exec(names)).first()
        claim = await claims.open_claim(session, resources.vault, flow.flow_id)
    return Connected(company_name, flow.return_to, claim)


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


async def _exchange(resources: Resources, flow_id: str, code: SecretStr, latest: float) -> SecretStr:
    verifier = _verifier(resources, flow_id) if resources.settings.pkce else None
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await _patiently(partial(resources.aircall.exchange_code, code, verifier=verifier), latest)
    except AircallRefused as refused:
        if refused.aircall_status in {401, 403} or refused.reason in APP_REFUSED:
            logger.error("Aircall refuses this app's credentials", aircall_status=refused.aircall_status)
            raise AppRefused from None
        raise CodeRefused from None
    except (AircallUnavailable, TimeoutError) as error:
        raise _away("exchange", error) from None


async def _identify(resources: Resources, token: SecretStr, latest: float) -> Identity:
    with counted() as sent:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                identity = await _patiently(partial(resources.aircall.identify, token), latest)
        except (AircallError, TimeoutError) as error:
            raise _away("identify", error) from None
    with suppress(DatabaseAway):
        await budget.spend(resources.database, identity.company_id, calls=sent.requests)
    return identity


async def _patiently(ask: Callable[[], Awaitable[Answer]], latest: float) -> Answer:
    """Ask Aircall again when it says to, while the browser waits: what it answers with 429 it has not done."""
    while True:
        try:
            return await ask()
        except AircallBusy as busy:
            told = USUAL_PAUSE_SECONDS if busy.retry_after_seconds is None else busy.retry_after_seconds
            pause = max(told, SHORTEST_PAUSE_SECONDS)
            if _time() + pause >= latest:
                raise
        await asyncio.sleep(pause)


def _time() -> float:
    return asyncio.get_running_loop().time()


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


async def _save(resources: Resources, flow: FlowState, identity: Identity, token: SecretStr) -> Installation:
    """Keep what was granted; tried for a good while, because a code is spent on it."""
    trying = stamina.retry_context(on=DatabaseAway, attempts=100, timeout=SAVE_SECONDS, wait_initial=0.2, wait_max=2.0)
    async for attempt in trying:
        with attempt:
            try:
                installation = await _save_once(resources, flow, identity, token)
            except IntegrityError as error:
                # Two companies came with one integration at once: the second one is refused as it would be later.
                raise _mixed_up() from error
    return installation


async def _save_once(resources: Resources, flow: FlowState, identity: Identity, token: SecretStr) -> Installation:
    """Keep the token sealed, its webhook still to be made, and the flow's ending: all or nothing."""
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
        waits = _waits(resources, flow, installation)
        beside = waits and _in_use(installation)
        if not beside:
            if not _in_use(installation):
                # An owner who left gave it up.
                installation.owner = None
            _tell(installation, identity)
            tokens.keep_token(resources, installation, token)
            installation.status = InstallationStatus.UNCLAIMED if waits else InstallationStatus.ACTIVE
        session.add(installation)
        await session.flush()
        if waits or flow.return_to is not None:
            claim = claims.new_claim(resources.vault, flow, installation, beside=token if beside else None)
            await claims.keep_claim(session, claim)
        ended = update(Flow).where(col(Flow.id) == flow.flow_id)
        await session.exec(ended.values(status=FlowStatus.CONNECTED, installation_id=installation.id))
        if not waits:
            await lifecycle.connect(session, installation)
    return installation


def _waits(resources: Resources, flow: FlowState, installation: Installation) -> bool:
    """Whether what came of a flow must be claimed before anything is used."""
    if flow.link_id is not None:
        return True
    return resources.settings.claim == "required" and not _in_use(installation)


def _in_use(installation: Installation) -> bool:
    return installation.status in {InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED}


async def _find(session: AsyncSession, identity: Identity) -> Installation | None:
    """The installation this identity already has: by the integration's id, else by the company's.

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
        # First seen without an integration id; now Aircall tells it.
        same = [row for row in rows if row.integration_id is None]
    elif not same and len(rows) == 1:
        # Aircall left the id out this time; one installation in this company can only be this one.
        same = list(rows)
    return same[0] if same else None


async def _refuse_mixed_up(
    resources: Resources, session: AsyncSession, installation: Installation, token: SecretStr
) -> None:
    """A token that already is another installation's would give one customer's calls to another."""
    fingerprint = resources.vault.fingerprint(token, TOKEN_PURPOSE)
    another = select(Installation.id).where(
        col(Installation.token_fingerprint) == fingerprint, col(Installation.id) != installation.id
    )
    if (await session.exec(another)).first() is not None:
        raise _mixed_up(installation.id)


def _mixed_up(installation_id: str | None = None) -> TokenMixedUp:
    logger.error("a token answers for another company", alarm=True, installation_id=installation_id)
    return TokenMixedUp()


def _tell(installation: Installation, identity: Identity) -> None:
    """What Aircall tells of it, where nobody's use of it is disturbed."""
    installation.company_id = identity.company_id
    installation.integration_id = identity.integration_id or installation.integration_id
    installation.company_name = identity.company_name or installation.company_name
    installation.number_ids = identity.number_ids
    installation.connected_at = now()


def _verifier(resources: Resources, flow_id: str) -> str:
    """The flow's PKCE secret (RFC 7636), derived, so that no replica has to remember it."""
    return base64url.encode(resources.vault.fingerprint(flow_id, "pkce"))


def _challenge(verifier: str) -> str:
    return base64url.encode(hashlib.sha256(verifier.encode()).digest())


def with_query(url: str, query: Mapping[str, str]) -> str:
    """The address with more parameters; those it had stay as they are written."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, urlencode(query)]))))
