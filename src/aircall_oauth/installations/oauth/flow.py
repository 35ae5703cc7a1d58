"""The install flow, top to bottom: an admin's browser leaves for Aircall, comes back, and is connected.

Network and database alternate and never nest. A crash leaves the flow `unknown`: its code may be spent, so the code is
never exchanged again, and the admin has to start again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic import SecretStr
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update

from aircall_oauth.aircall.payloads import Identity
from aircall_oauth.errors import (
    AppError,
    DatabaseAway,
    FlowError,
    FlowUnknown,
    LinkUsed,
    ReturnAddressRefused,
)
from aircall_oauth.installations import tokens
from aircall_oauth.installations.attempts import recording
from aircall_oauth.installations.attempts.recording import Attempt
from aircall_oauth.installations.oauth import claims, grant, links, state
from aircall_oauth.installations.oauth.brake import Turn
from aircall_oauth.installations.oauth.links import Link
from aircall_oauth.installations.oauth.saving import Decision, save
from aircall_oauth.installations.oauth.state import FlowCookie, FlowState
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.resources import Resources
from aircall_oauth.storage import clocks
from aircall_oauth.storage.models.installations import Flow, Installation
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import FlowStatus
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import InstallStep

logger = log.get(__name__)

# A flow still unknown after this has died: its two steps at Aircall and saving together take less.
UNDER_WAY = timedelta(seconds=110)
KEPT = timedelta(days=1)
# A browser waits for 15 seconds at most; this leaves one for everything around the flow.
ANSWER_SECONDS = 14.0
WAIT_FOR_FIRST_SECONDS = 12.0
POLL_SECONDS = 0.2
SCOPE = "public_api"


@dataclass(frozen=True)
class Departure:
    """Where the browser goes for consent, and the cookie it must carry."""

    authorize_url: str
    cookie: FlowCookie


@dataclass(frozen=True)
class Connected:
    """A flow that ended well. `claim` is the code that the browser carries to the partner's page, if any."""

    company_name: str | None
    return_to: str | None
    claim: SecretStr | None

    @property
    def way_home(self) -> str | None:
        """Return the address of the partner's page, with the claim."""
        if self.return_to is None or self.claim is None:
            return self.return_to
        return with_query(self.return_to, {"claim": self.claim.get_secret_value()})


def begin_install(resources: Resources, *, return_to: str | None = None, link: str | None = None) -> Departure:
    """Begin a flow at Aircall's consent page. Writes nothing, as the install door is open to the public.

    Raises `ReturnAddressRefused` where `return_to` is not exactly one of `AIRCALL_OAUTH_RETURN_URLS`, and `LinkInvalid`
    or `LinkExpired` for an install link that can't be used.
    """
    settings = resources.settings
    opened, return_to = require_known_way(resources, return_to=return_to, link=link)
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
            "code_challenge": grant.challenge(resources, flow_id),
            "code_challenge_method": "S256",
        }
    resources.metrics.install_step(InstallStep.STARTED)
    return Departure(with_query(settings.authorize_url, query), cookie)


def require_known_way(resources: Resources, *, return_to: str | None, link: str | None) -> tuple[Link, str | None]:
    """Return the link that was opened, and where its flow ends; raises as `begin_install` does."""
    settings = resources.settings
    opened = links.open_link(resources.vault, link) if link is not None else links.NO_LINK
    if link is not None:
        return_to = opened.return_to
    elif return_to is None and settings.claim == "required":
        return_to = links.default_return(settings.return_urls)
    if return_to is not None and not settings.may_return_to(return_to):
        raise ReturnAddressRefused
    return opened, return_to


async def finish_install(
    resources: Resources,
    flow: FlowState,
    attempt: Attempt,
    *,
    code: SecretStr | None,
    error: str | None,
    turn: Turn | None = None,
) -> Connected:
    """Turn what Aircall sent back into an installation that receives events, once per flow and per install link.

    An installation that must be claimed is held until then. All other endings are a `FlowError`. A repeat of the same
    flow gets the first one's ending. After `ANSWER_SECONDS` without an ending, `FlowUnknown` is raised and the flow
    goes on in the background: a code that is spent must not be lost. `turn` is given back unless the flow failed. The
    flow's steps are noted in `attempt`; a bad ending is left to the caller to record there.
    """
    latest = _time() + ANSWER_SECONDS
    connecting = resources.go_on(_connect(resources, flow, attempt, code, error, turn, latest))
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
    attempt: Attempt,
    code: SecretStr | None,
    error: str | None,
    turn: Turn | None,
    latest: float,
) -> tuple[Connected, asyncio.Task[None] | None]:
    """Run the flow to its ending. Returns that, and the task that does the rest at Aircall, if anything is left."""
    try:
        await resources.require_ready()
        is_first = await _use_up(resources, flow, attempt, granted=error is None and code is not None)
    except AppError:
        _give_back(turn)
        raise
    if not is_first:
        _give_back(turn)
        return await _first_ending(resources, flow), None
    try:
        if error is not None or code is None:
            raise grant.refusal(error)
        resources.metrics.install_step(InstallStep.CONSENTED)
        token = await grant.exchange(resources, flow.flow_id, code, latest)
        resources.metrics.install_step(InstallStep.EXCHANGED)
        attempt.reached("exchanged_at")
        identity = await grant.identify(resources, token, latest)
        attempt.reached("identified_at", company_id=identity.company_id, company_name=identity.company_name)
        installation, decision = await save(resources, flow, attempt, identity, token)
    except FlowError as ending:
        logger.info("install ended", flow_id=flow.flow_id, attempt=attempt.reference, ending=ending.code())
        await _record_ending(resources, flow.flow_id, attempt, ending)
        raise
    _give_back(turn)
    logger.info("installation connected", installation_id=installation.id, status=installation.status)
    is_held = decision != Decision.ACTIVATE
    settling = None if is_held else resources.go_on(_settle(resources, installation, identity))
    claim = claims.code_of(resources.vault, flow.flow_id) if is_held or flow.return_to is not None else None
    return Connected(installation.company_name, flow.return_to, claim), settling


async def _settle(resources: Resources, installation: Installation, identity: Identity) -> None:
    """Switch on the integration and register the webhook. What fails is left to the worker."""
    if identity.active is False:
        await tokens.switch_on(resources, installation)
    await schedule.ensure_webhook(resources, installation.id)


def _time() -> float:
    return asyncio.get_running_loop().time()


def _give_back(turn: Turn | None) -> None:
    if turn is not None:
        turn.give_back()


async def forget_flows(resources: Resources) -> None:
    """Chore: delete flows older than a day: their state has long expired and can't be used again."""
    before = await clocks.agreed_now(resources.database) - KEPT
    async with resources.database.session() as session:
        await session.exec(delete(Flow).where(col(Flow.used_at) < before))


async def _use_up(resources: Resources, flow: FlowState, attempt: Attempt, *, granted: bool) -> bool:
    """Use up the flow's state, and its link if a code was granted. Returns whether this is its first callback.

    One statement decides, for all replicas. A link whose flow came back without a code (declined) can be used again.
    Raises `LinkUsed` where another flow has used up the link.
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
            if granted:
                await recording.consent(session, attempt)
            return True
        if (await session.exec(select(Flow.id).where(col(Flow.id) == flow.flow_id))).first() is None:
            raise LinkUsed
    return False


async def _first_ending(resources: Resources, flow: FlowState) -> Connected:
    """Return how the flow's first callback ended, or raise it. Waits while that one is under way."""
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
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise FlowUnknown from None


async def _connected(resources: Resources, flow: FlowState, first: Flow) -> Connected:
    names = select(Installation.company_name).where(col(Installation.id) == first.installation_id)
    async with resources.database.session() as session:
        company_name = (await session.exec(names)).first()
        claim = await claims.usable_code(session, resources.vault, flow.flow_id)
    return Connected(company_name, flow.return_to, claim)


def _ending(code: str | None) -> FlowError:
    for ending in FlowError.__subclasses__():
        if ending.code() == code:
            return ending()
    return FlowUnknown()


async def _record_ending(resources: Resources, flow_id: str, attempt: Attempt, ending: FlowError) -> None:
    try:
        async with resources.database.session() as session:
            await session.exec(
                update(Flow).where(col(Flow.id) == flow_id).values(status=FlowStatus.ENDED, ending=ending.code())
            )
        # The browser may have gone by now; where the attempt has no row, the caller may make one.
        await recording.fail(resources, attempt, ending.code())
    except DatabaseAway:
        logger.warning("ending not recorded", flow_id=flow_id, ending=ending.code())


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Add parameters to an address; those it has stay exactly as they are written."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, urlencode(query)]))))
