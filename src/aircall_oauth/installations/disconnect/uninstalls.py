"""Uninstalls at Aircall: `integration.deleted` is in the log, and believed once the token is refused.

A late event must not end a fresh installation, and an event that comes before Aircall revokes the token must not be
lost. So the token is probed several times, until it is dead, or has been alive for half an hour.
"""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col, delete, select

from aircall_oauth.access import audit
from aircall_oauth.access.audit import SERVICE, Action
from aircall_oauth.aircall.payloads import UNINSTALLED
from aircall_oauth.events import follow
from aircall_oauth.installations import lifecycle, tokens
from aircall_oauth.installations.lifecycle import TokenState
from aircall_oauth.resources import Resources
from aircall_oauth.storage import leases
from aircall_oauth.storage.models.installations import Installation, Uninstall
from aircall_oauth.storage.statuses import EventSource, InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

READER = "uninstalls"
HAS_NEW_EVENTS = follow.has_more(READER)
HAS_DUE = leases.any_of(Uninstall, leases.is_due(Uninstall))
PROBE_AGAIN = (timedelta(seconds=30), timedelta(minutes=5), timedelta(minutes=30))
UNCERTAIN_PAUSE = timedelta(minutes=1)
# Probing a token takes less.
LEASE = timedelta(seconds=60)
BATCH = 20

NOTE = text(f"""
    INSERT INTO uninstall (installation_id, due_at)
    SELECT DISTINCT e.installation_id, now() FROM event e JOIN installation i ON i.id = e.installation_id
    WHERE e.position > :stand AND e.position <= :end AND e.type = '{UNINSTALLED}' AND e.source = '{EventSource.AIRCALL}'
      AND i.status IN ('{InstallationStatus.ACTIVE}', '{InstallationStatus.UNAUTHORIZED}')
    ORDER BY e.installation_id
    ON CONFLICT (installation_id) DO UPDATE SET due_at = excluded.due_at, looks = 0
""")  # noqa: S608 - only constants of ours are put in


async def notice_uninstalls(resources: Resources) -> None:
    """Chore: note the uninstalls in the log, reading each part of it once."""
    await follow.follow(resources, READER, _note)


async def confirm_uninstalls(resources: Resources) -> None:
    """Chore: probe the tokens of the uninstalls that are due, and end the installations with dead ones."""
    async with resources.database.session() as session:
        claimed = await leases.claim(
            session, Uninstall, leases.is_due(Uninstall), limit=BATCH, due_at=leases.after(LEASE)
        )
    for uninstall, _ in claimed:
        async with resources.database.session() as session:
            installation = await session.get(Installation, uninstall.installation_id)
        if installation is None or installation.token_sealed is None:
            # It was removed just as the uninstall was noted.
            await _forget(resources, uninstall.installation_id)
        else:
            state, _ = await tokens.probe_token(resources, installation)
            await _conclude(resources, installation, uninstall, state)


async def _note(connection: AsyncConnection, stand: int, end: int) -> None:
    await connection.execute(NOTE, {"stand": stand, "end": end})


async def _conclude(resources: Resources, installation: Installation, uninstall: Uninstall, state: TokenState) -> None:
    looks = uninstall.looks
    match state:
        case TokenState.DEAD | TokenState.FOREIGN:
            await _end(resources, installation)
        case TokenState.UNCERTAIN:
            await _probe_again(resources, uninstall, UNCERTAIN_PAUSE, looks)
        case TokenState.ALIVE if looks < len(PROBE_AGAIN):
            await _probe_again(resources, uninstall, PROBE_AGAIN[looks], looks + 1)
        case TokenState.ALIVE:
            logger.info("uninstall not confirmed", installation_id=installation.id)
            await _forget(resources, installation.id)


async def _probe_again(resources: Resources, uninstall: Uninstall, pause: timedelta, looks: int) -> None:
    async with resources.database.session() as session:
        await leases.put_off(session, uninstall, pause, looks=looks)


async def _forget(resources: Resources, installation_id: str) -> None:
    async with resources.database.session() as session:
        await session.exec(delete(Uninstall).where(col(Uninstall.installation_id) == installation_id))


async def _end(resources: Resources, installation: Installation) -> None:
    """Remove the installation if its token is still the one that was refused: a reinstall brings another."""
    same = select(Installation).where(
        col(Installation.id) == installation.id,
        col(Installation.token_fingerprint) == installation.token_fingerprint,
    )
    async with resources.database.session() as session:
        still = (await session.exec(lifecycle.for_change(same))).first()
        if still is not None:
            await audit.record(
                session, SERVICE, Action.INSTALLATION_DISCONNECTED, installation_id=still.id, owner=still.owner
            )
            await lifecycle.remove(session, still, reason="uninstalled")
            logger.info("installation uninstalled", installation_id=still.id)
