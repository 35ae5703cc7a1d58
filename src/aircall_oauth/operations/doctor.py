"""`aircall-oauth doctor`: check everything that can be wrong with a deployment, and advise. It changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum, auto

import aiohttp
from sqlalchemy import ColumnElement, text
from sqlmodel import col, select

from aircall_oauth.access import callers
from aircall_oauth.aircall.payloads import Integration
from aircall_oauth.deliveries import troubled
from aircall_oauth.errors import (
    DIRECT_URL,
    AircallError,
    AircallRefused,
    BudgetSpent,
    DatabaseAway,
    DatabaseUnfit,
    DirectElsewhere,
    KeyServiceFailed,
    KeysUnfit,
    NotReady,
    PoolerRefused,
    SealError,
)
from aircall_oauth.http_client import tls_reason_in, trust
from aircall_oauth.installations import tokens, views
from aircall_oauth.installations.lifecycle import TokenState
from aircall_oauth.installations.views import InstallationView
from aircall_oauth.operations import connections
from aircall_oauth.resources import Resources, database_of, open_resources, vault_of
from aircall_oauth.settings import NEWER_AUTHORIZE_URL, Settings, access
from aircall_oauth.storage import figures, partitions, rights
from aircall_oauth.storage.away import database_errors
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.faults import explain
from aircall_oauth.storage.fitness import require_fit
from aircall_oauth.storage.migrations import newest_schema_version
from aircall_oauth.storage.models.installations import Farewell, Installation, Webhook
from aircall_oauth.storage.poolers import Sessions
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import InstallationStatus, SubscriptionStatus, WebhookStatus
from aircall_oauth.telemetry.figures import Name
from aircall_oauth.wrapping import keys as wrapped_keys

CLOCK_MAY_DIFFER = timedelta(seconds=30)
SILENT_AFTER = timedelta(days=7)
OVERDUE_AFTER = timedelta(minutes=15)
# A worker writes at the turn of each minute that it was alive in the one before.
WORKER_GONE_AFTER = timedelta(minutes=4)
RUN_WORKER = "Run `aircall-oauth work`, or `serve --with-worker`."
IS_OVERDUE = f"""
    SELECT EXISTS (
        SELECT FROM webhook JOIN installation AS i ON i.id = installation_id
        WHERE due_at < $1 AND i.status = '{InstallationStatus.ACTIVE}'
    ) OR EXISTS (SELECT FROM farewell WHERE due_at < $1)
"""  # noqa: S608 - only constants of ours are put in
PUBLIC_URL_SECONDS = 5.0
CONSENT_SECONDS = 5.0
# What a host answers that has no such page (any more).
GONE = {404, 410}
CHECKS_AT_ONCE = 10
MAX_ANSWER_BYTES = 1024
BETWEEN = {
    Sessions.OWN: "none at AIRCALL_OAUTH_DATABASE_URL",
    Sessions.POOLED: "in session mode",
    Sessions.LENT: "in transaction mode: no statement is kept prepared there",
}
BESIDE = f"; what needs a session of its own goes by {DIRECT_URL}"
DOWN_ADVICE = "Check its destination. It is probed every few minutes, and at once where you resume it."
DISABLED_ADVICE = "Its destination asked for no more events; resume it to go on where it stopped."
AUTHORITY_ADVICE = (
    "Its certificate is of an authority that is not known here: name a file with all that you trust in SSL_CERT_FILE "
    "(Helm: trustedCertificates)."
)
FAILING_ADVICE = "GET …/attempts says how it answered; POST …/dead/retry tries again what was given up."

Opener = Callable[[Settings], AbstractAsyncContextManager[Resources]]


class Level(StrEnum):
    """How bad a finding is."""

    OK = auto()
    WARNING = auto()  # worth attention, but it works
    PROBLEM = auto()  # it does not work


@dataclass(frozen=True)
class Finding:
    """What was checked, what was seen, and what to do about it."""

    check: str
    level: Level
    seen: str
    advice: str | None = None
    installation_id: str | None = None


def settings_findings(problems: Sequence[str]) -> list[Finding]:
    """Return a finding for each problem with the settings; nothing else can be checked then."""
    advice = "Correct the environment; docs/operations.md has the table."
    return [Finding("settings", Level.PROBLEM, problem, advice) for problem in problems]


async def examine(
    settings: Settings, *, silent_after: timedelta = SILENT_AFTER, opener: Opener = open_resources
) -> AsyncIterator[Finding]:
    """Yield findings, what other checks depend on first; ends early where nothing more can be checked."""
    yield Finding("settings", Level.OK, "complete and right")
    database = await _database(settings)
    yield database
    if database.level == Level.PROBLEM:
        return
    try:
        async with opener(settings) as resources:
            async for finding in _service(resources, silent_after):
                yield finding
    except DatabaseAway as error:
        yield _database_away(error)
    except (PoolerRefused, DirectElsewhere) as error:
        yield Finding("pooler", Level.PROBLEM, error.seen, error.advice)
    except KeysUnfit as error:
        yield Finding("keys", Level.PROBLEM, error.detail, "Put the missing key back; docs/operations.md, The keys.")
    except KeyServiceFailed as error:
        yield Finding("keys", Level.PROBLEM, error.seen, error.advice)


async def _service(resources: Resources, silent_after: timedelta) -> AsyncIterator[Finding]:
    try:
        await resources.require_ready()
    except NotReady as error:
        yield Finding("schema", Level.PROBLEM, error.detail, "Run `aircall-oauth migrate`.")
        return
    for finding in [*await connection_findings(resources), *await rights_findings(resources)]:
        yield finding
    yield Finding("schema", Level.OK, f"at {newest_schema_version()} or newer")
    yield Finding("keys", Level.OK, f"open what is stored; {resources.vault.key_ids[0]} seals")
    for finding in [*await wrap_findings(resources), *await data_key_findings(resources)]:
        yield finding
    yield await _public_url(resources.settings)
    yield await consent_page(resources.settings)
    yield await worker_finding(resources)
    async for finding in subscription_findings(resources):
        yield finding
    aircall = [await _clock(resources), await _app(resources)]
    for finding in aircall:
        yield finding
    if any(finding.level == Level.PROBLEM for finding in aircall):
        return
    async for finding in _installations(resources, silent_after):
        yield finding


async def _database(settings: Settings) -> Finding:
    opened = database_of(settings)
    try:
        async with opened.driver_connection() as connection:
            version = await require_fit(connection)
    except DatabaseAway as error:
        return _database_away(error)
    except DatabaseUnfit as error:
        return Finding("database", Level.PROBLEM, error.seen, error.advice)
    finally:
        await opened.close()
    return Finding("database", Level.OK, f"PostgreSQL {version} answers")


def _database_away(error: DatabaseAway) -> Finding:
    fault = explain(error.__cause__)
    return Finding("database", Level.PROBLEM, fault.words, fault.advice)


async def connection_findings(resources: Resources) -> list[Finding]:
    """Tell what is between us and PostgreSQL, and whether it has room for our connections."""
    has_direct = bool(resources.settings.database_direct_url.get_secret_value())
    sessions = await resources.database.pooled_sessions()
    connection = await resources.database.connect()
    try:
        with database_errors():
            room = await connections.room(connection)
    finally:
        connection.terminate()
    found = _room_finding(room, sessions, has_direct)
    if sessions is Sessions.OWN and not has_direct:
        return [found]
    return [Finding("pooler", Level.OK, _between(sessions, has_direct)), found]


def _between(sessions: Sessions, has_direct: bool) -> str:
    """Describe a pooler, and what it must allow: the sum of our processes' connections."""
    seen = BETWEEN[sessions] + (BESIDE if has_direct else "")
    if sessions is Sessions.OWN:
        return seen
    web, worker, both = ((most.pooled if has_direct else most.all) for most in connections.EACH)
    seen += f"; it is given {web} connections by a web process at most, {worker} by a worker, {both} by both in one: "
    if sessions is Sessions.POOLED:
        return f"{seen}max_client_conn and default_pool_size must allow their sum, as each keeps a session"
    return f"{seen}max_client_conn must allow their sum, default_pool_size what is used at one time"


def _room_finding(room: connections.Room, sessions: Sessions, has_direct: bool) -> Finding:
    """Tell whether PostgreSQL has room for a process; a pooler in transaction mode needs none for each connection."""
    is_lent = sessions is Sessions.LENT
    web, worker, both = ((most.direct if is_lent else most.all) for most in connections.EACH)
    past = "past the pooler " if is_lent else ""
    seen = (
        f"PostgreSQL allows {room.most}, {room.open} are open, {room.ours} of them ours; "
        f"{past}a web process opens {web} at most, a worker {worker}, both in one {both}"
    )
    if room.for_us >= both:
        return Finding("connections", Level.OK, seen)
    instead = "put a pooler in between" if sessions is Sessions.OWN else "let the pooler open fewer (default_pool_size)"
    advice = f"Raise max_connections (or the limit of our user or database), or {instead}."
    return Finding("connections", Level.WARNING, seen, advice)


async def rights_findings(resources: Resources) -> list[Finding]:
    """Tell what a role that owns nothing may do beyond what it needs for a start; nothing of an owner."""
    async with resources.database.driver_connection() as connection:
        standing = await rights.standing(connection)
    if standing.owns:
        return []
    return [
        Finding("rights", Level.OK, f"{standing.role!r} reads and writes rows, and owns nothing"),
        *(Finding("rights", Level.WARNING, seen, advice) for seen, advice in standing.doubts()),
    ]


async def wrap_findings(resources: Resources) -> list[Finding]:
    """Tell how each key is held, and whether a version of Vault's key has wrapped it that should be gone.

    Nothing where none is wrapped.
    """
    settings = resources.settings
    held = [_wrap(one) for one in await wrapped_keys.holdings(settings.wrapped_keys, access(settings))]
    clear = [Finding("wrapped key", Level.OK, f"{name} is not wrapped") for name in settings.clear_keys]
    return [*held, *clear] if held else []


def _wrap(held: wrapped_keys.Holding) -> Finding:
    seen, versions = f"{held.name} is wrapped by {held.wrapped.by}", held.versions
    if held.wrapped.version is None or versions is None:
        return Finding("wrapped key", Level.OK, seen)
    seen += f", version {held.wrapped.version} of {versions.newest}"
    oldest = max(versions.decrypts_from, versions.encrypts_from)
    if held.wrapped.version < oldest:
        advice = "Run `aircall-oauth secrets rewrap` and put what it prints into the setting (docs/keys.md)."
        return Finding("wrapped key", Level.WARNING, f"{seen}: below its minimum, {oldest}", advice)
    return Finding("wrapped key", Level.OK, seen)


async def data_key_findings(resources: Resources) -> list[Finding]:
    """Check that every data key opens: its customer's events are neither taken in nor read while it does not."""
    # What does not open is said here; it is no alarm and not counted.
    keys = DataKeys(vault_of(resources.settings))
    async with resources.database.driver_connection() as connection:
        damaged = await keys.unusable(connection)
    advice = (
        "Restore the table data_key from a backup: until then this customer's events are answered 503, and readers "
        "stop before them (docs/privacy.md, Encrypt events at rest)."
    )
    return [Finding("data key", Level.PROBLEM, "it does not open", advice, each) for each in damaged]


async def _public_url(settings: Settings) -> Finding:
    """Check that `PUBLIC_URL` leads to this service."""
    url = f"{settings.public_url}/livez"
    advice = "AIRCALL_OAUTH_PUBLIC_URL must lead to `aircall-oauth serve`, for browsers and for Aircall."
    try:
        async with (
            _client(PUBLIC_URL_SECONDS) as client,
            client.get(url, allow_redirects=False) as answer,
        ):
            ours = answer.status == 200 and b'"status":"ok"' in await answer.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return _unreached("public url", error, advice)
    if not ours:
        return Finding("public url", Level.PROBLEM, "another service answers there", advice)
    return Finding("public url", Level.OK, "leads to this service")


async def consent_page(settings: Settings) -> Finding:
    """Check that Aircall still answers at the address of its consent page: Aircall has moved it before."""
    advice = (
        "AIRCALL_OAUTH_AUTHORIZE_URL (and AIRCALL_OAUTH_SUCCESS_URL) may name Aircall's newer host: "
        f"{NEWER_AUTHORIZE_URL}."
    )
    try:
        status = await _status_of(settings.authorize_url, settings.aircall_proxy.get_secret_value())
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return _unreached("consent page", error, advice)
    if status in GONE or status >= 500:
        return Finding("consent page", Level.WARNING, f"no longer answers: status {status}", advice)
    return Finding("consent page", Level.OK, "answers")


def _unreached(check: str, error: Exception, advice: str) -> Finding:
    why = tls_reason_in(error)
    if why == "tls_untrusted":
        advice = AUTHORITY_ADVICE
    return Finding(check, Level.WARNING, f"can't be reached from here ({why or type(error).__name__})", advice)


def _client(seconds: float) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=seconds)
    return aiohttp.ClientSession(timeout=timeout, trust_env=False, connector=aiohttp.TCPConnector(ssl=trust()))


async def _status_of(url: str, proxy: str) -> int:
    through = proxy if proxy and url.startswith("https://") else None
    async with (
        _client(CONSENT_SECONDS) as client,
        client.get(url, allow_redirects=False, proxy=through) as answer,
    ):
        return answer.status


async def worker_finding(resources: Resources) -> Finding:
    """Check that a worker runs: none of its work is overdue, and it was counted lately."""
    found = await work_finding(resources)
    if found.level != Level.OK:
        return found
    seen_at = await worker_seen_at(resources)
    if seen_at is None:
        seen = f"none has run yet, or within the last two days; {found.seen}"
        return Finding("worker", Level.WARNING, seen, f"{RUN_WORKER} One that has just begun is counted in a minute.")
    if is_gone(seen_at):
        return Finding("worker", Level.PROBLEM, f"none has run since {seen_at:%Y-%m-%d %H:%M} UTC", RUN_WORKER)
    return found


async def worker_seen_at(resources: Resources) -> datetime | None:
    """Return the last minute in which a worker was counted; None if it was in none of the last 48 hours."""
    return await figures.last(resources.database, Name.ALIVE, "worker")


def is_gone(seen_at: datetime) -> bool:
    return seen_at < now() - WORKER_GONE_AFTER


async def work_finding(resources: Resources, *, days_ahead: int | None = None) -> Finding:
    """Check that no work of a worker is overdue. `days_ahead` is what was measured already."""
    async with resources.database.driver_connection() as connection:
        is_late = await connection.fetchval(IS_OVERDUE, now() - OVERDUE_AFTER)
    days = await _days_ahead(resources) if days_ahead is None else days_ahead
    if is_late or days <= 2:
        return Finding("worker", Level.PROBLEM, "work is overdue", RUN_WORKER)
    return Finding("worker", Level.OK, f"nothing is overdue; the log has {days} days ahead")


async def _days_ahead(resources: Resources) -> int:
    async with resources.database.driver_connection() as connection:
        return await partitions.days_ahead(connection)


async def subscription_findings(resources: Resources) -> AsyncIterator[Finding]:
    """Yield findings on subscriptions that get no events, or fail often."""
    for down in await troubled.taking_nothing(resources):
        disabled = down.status == SubscriptionStatus.DISABLED
        stands = "is disabled" if disabled else "is down"
        advice = DISABLED_ADVICE if disabled else DOWN_ADVICE
        seen = f"{down.subscription_id} {stands} ({down.last_error or 'not tried yet'})"
        yield Finding("destination", Level.WARNING, seen, advice)
    for each in await troubled.refusing(resources):
        since = await troubled.failing_since(resources, each.subscription_id)
        when = "" if since is None else f", since {since:%Y-%m-%d %H:%MZ}"
        seen = f"{each.subscription_id} took none of its newest tries ({each.last_failure}){when}"
        yield Finding("destination", Level.WARNING, seen, FAILING_ADVICE)
    for subscription_id in await troubled.matching_nothing(resources):
        seen = f"{subscription_id} matched no event for a day, and there were some"
        yield Finding("filter", Level.WARNING, seen, "Check its types, owners and installations.")
    for failing in await troubled.failing(resources):
        seen = (
            f"{failing.subscription_id} fails: in 24 hours {failing.failed} tries failed, "
            f"{failing.delivered} events were delivered, {failing.given_up} given up"
        )
        yield Finding("deliveries", Level.WARNING, seen, FAILING_ADVICE)


def _of_active() -> ColumnElement[bool]:
    active = select(Installation.id).where(col(Installation.status) == InstallationStatus.ACTIVE)
    return col(Webhook.installation_id).in_(active)


async def _clock(resources: Resources) -> Finding:
    """Check that Aircall answers, and that its clock, the database's and ours agree."""
    try:
        theirs = await resources.aircall.clock()
    except AircallError as error:
        advice = "Check AIRCALL_OAUTH_API_URL and the network; https://status.aircall.com shows Aircall's own state."
        if "tls_untrusted" in str(error):
            advice = AUTHORITY_ADVICE
        return Finding("aircall", Level.PROBLEM, str(error), advice)
    async with resources.database.session() as session:
        of_database = await (await session.connection()).scalar(text("SELECT clock_timestamp()"))
    ours = datetime.now(UTC)
    for whose, clock in (("the database's", of_database), ("Aircall's", theirs)):
        if clock is not None and abs(clock - ours) > CLOCK_MAY_DIFFER:
            seconds = round((ours - clock).total_seconds())
            seen = f"this machine's clock is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} {whose}"
            return Finding("clock", Level.PROBLEM, seen, "Set the clocks by NTP: states and links expire in minutes.")
    return Finding("aircall", Level.OK, "answers; the clocks agree")


async def _app(resources: Resources) -> Finding:
    """Check that Aircall accepts our app's credentials."""
    try:
        known = await resources.aircall.knows_app()
    except AircallError as error:
        return Finding("app", Level.WARNING, str(error), "Run this again later.")
    if not known:
        advice = "AIRCALL_OAUTH_CLIENT_ID and AIRCALL_OAUTH_CLIENT_SECRET must be those that Aircall gave you."
        return Finding("app", Level.PROBLEM, "Aircall refuses this app's credentials", advice)
    secrets = resources.settings.client_secrets
    of_two = f", by client secret {secrets.index(resources.aircall.accepted_secret) + 1} of {len(secrets)}"
    return Finding("app", Level.OK, f"Aircall knows this app{of_two if len(secrets) > 1 else ''}")


async def _installations(resources: Resources, silent_after: timedelta) -> AsyncIterator[Finding]:
    installations = await views.list_all(resources, callers.OPERATOR)
    turn = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def check(view: InstallationView) -> list[Finding]:
        async with turn:
            return await _installation(resources, view, silent_after)

    well = 0
    for found in await asyncio.gather(
        *(
            check(view)
            for view in installations
            if view.status in {InstallationStatus.ACTIVE, InstallationStatus.UNAUTHORIZED}
        )
    ):
        well += not found
        for finding in found:
            yield finding
    yield Finding("installations", Level.OK, f"{well} well, {len(installations)} in all")
    async with resources.database.session() as session:
        farewells = (await session.exec(select(Farewell))).all()
    for farewell in farewells:
        advice = "Nothing: the worker goes on for three days."
        seen = f"still to be undone at Aircall ({farewell.last_error or 'not tried yet'})"
        yield Finding("farewell", Level.WARNING, seen, advice, farewell.installation_id)


async def _installation(resources: Resources, view: InstallationView, silent_after: timedelta) -> list[Finding]:
    """Return what is wrong with one installation; an empty list where it is well."""
    reinstall = "Ask its admin to install the app again; id and owner stay."
    if view.status == InstallationStatus.UNAUTHORIZED:
        return [Finding("token", Level.PROBLEM, "Aircall no longer accepts it", reinstall, view.id)]
    async with resources.database.session() as session:
        installation = await session.get(Installation, view.id)
    if installation is None or installation.token_sealed is None:
        return []
    try:
        tokens.token_of(resources, installation)
    except SealError as error:
        return [Finding("token", Level.PROBLEM, f"it does not open ({error.code()})", reinstall, view.id)]
    found, integration = await tokens.probe_token(resources, installation)
    if found in {TokenState.DEAD, TokenState.FOREIGN}:
        seen = "Aircall refuses it" if found == TokenState.DEAD else "it answers for another company or integration"
        return [Finding("token", Level.PROBLEM, seen, reinstall, view.id)]
    if integration is None:
        seen = "could not be checked: Aircall can't be reached, or the company's budget is spent"
        return [Finding("token", Level.WARNING, seen, "Run this again in a minute.", view.id)]
    webhook = await _webhook(resources, installation, view)
    return [*webhook, *_silence(view, integration, silent_after)]


async def _webhook(resources: Resources, installation: Installation, view: InstallationView) -> list[Finding]:
    advice = "A worker repairs it; if it stays so, the worker's log says why (`webhook looked at in vain`)."
    if view.webhook.webhook_id is None or view.webhook.status != WebhookStatus.ACTIVE:
        return [Finding("webhook", Level.PROBLEM, f"it is {view.webhook.status}", advice, view.id)]
    try:
        async with tokens.within_budget(resources, installation.company_id):
            there = await resources.aircall.get_webhook(
                tokens.token_of(resources, installation), view.webhook.webhook_id
            )
    except AircallRefused:
        return [Finding("webhook", Level.PROBLEM, "Aircall has it no more", advice, view.id)]
    except (AircallError, BudgetSpent):
        return [Finding("webhook", Level.WARNING, "could not be checked", "Run this again in a minute.", view.id)]
    if not there.active:
        return [Finding("webhook", Level.PROBLEM, "Aircall has switched it off", advice, view.id)]
    if there.url not in {None, resources.settings.webhook_url}:
        return [Finding("webhook", Level.PROBLEM, "it leads to another address than this service's", advice, view.id)]
    return []


def _silence(view: InstallationView, integration: Integration, silent_after: timedelta) -> list[Finding]:
    """Return why no events arrive of an installation that is connected."""
    if not integration.active and integration.active is not None:
        advice = "Ask its admin to switch the integration on in Aircall's Dashboard."
        return [Finding("integration", Level.WARNING, "it is switched off at Aircall", advice, view.id)]
    if not integration.number_ids:
        advice = "Ask its admin to choose numbers for the integration in Aircall's Dashboard."
        return [Finding("numbers", Level.WARNING, "none are linked, so no calls are sent", advice, view.id)]
    advice = "Call one of its numbers; if no event arrives, check its webhook and its numbers."
    if view.silent_since is not None:
        seen = f"silent since {view.silent_since:%Y-%m-%d %H:%MZ}, at hours when it usually sends events"
        return [Finding("silence", Level.WARNING, seen, advice, view.id)]
    last = view.last_event_at or view.connected_at
    if last < now() - silent_after:
        seen = f"connected but silent: no event since {last:%Y-%m-%d}"
        return [Finding("silence", Level.WARNING, seen, advice, view.id)]
    return []
