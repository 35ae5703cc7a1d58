"""Signing in: one-time links, API keys, and the sessions that they open. Secrets are kept as fingerprints only."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func
from sqlmodel import col, delete, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit, known_keys
from aircall_oauth.access.audit import OPERATOR, PERSON, Action, Who
from aircall_oauth.access.scopes import Scope
from aircall_oauth.console.visitors import SCOPES, SigningKey, Visitor
from aircall_oauth.errors import LinkSpent, SignInRefused
from aircall_oauth.resources import Resources
from aircall_oauth.storage import batches
from aircall_oauth.storage.models.access import ApiKey
from aircall_oauth.storage.models.console import ConsoleLink, ConsoleSession
from aircall_oauth.storage.sealed import CONSOLE_LINK_PURPOSE, CONSOLE_SESSION_PURPOSE
from aircall_oauth.storage.stamps import new_id

LINK_LASTS = timedelta(seconds=60)
SESSION_LASTS = timedelta(hours=12)
SEEN_AGAIN_AFTER = timedelta(minutes=1)
# Beyond these a person's oldest sessions end: signing in again and again does not fill the table.
MOST_SESSIONS = 20
RECOGNISE = f"""
    SELECT s.id, s.actor, s.person, s.scopes, s.last_seen_at > now() - interval '{SEEN_AGAIN_AFTER}' AS seen_lately,
        k.scopes AS key_scopes, k.aircall_rules, k.expires_at AS key_expires_at
    FROM console_session AS s
    LEFT JOIN api_key AS k ON k.id = s.api_key_id AND k.owner IS NULL
        AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
    WHERE s.fingerprint = $1 AND s.expires_at > now() AND (s.api_key_id IS NULL OR k.id IS NOT NULL)
"""  # noqa: S608 - only names of ours are put in
NOTE_VISIT = "UPDATE console_session SET last_seen_at = now() WHERE id = $1"
FORGET_SESSIONS = """
    DELETE FROM console_session WHERE id IN (SELECT id FROM console_session WHERE expires_at < now() LIMIT $1)
"""
FORGET_LINKS = "DELETE FROM console_link WHERE id IN (SELECT id FROM console_link WHERE expires_at < now() LIMIT $1)"
FORGET_FORMS = """
    DELETE FROM console_form
    WHERE fingerprint IN (SELECT fingerprint FROM console_form WHERE expires_at < now() LIMIT $1)
"""


@dataclass(frozen=True)
class Opened:
    """A new session: the secret for its cookie, shown this once, and its person's name."""

    secret: str
    person: str


@dataclass(frozen=True)
class Person:
    """A person that signs in, and what the session may do."""

    actor: str
    name: str
    scopes: Sequence[str]
    api_key_id: str | None = None


async def make_link(resources: Resources, *, person: str, scopes: Sequence[Scope]) -> str:
    """Make a link for one sign-in within a minute, and return its secret."""
    await resources.require_ready()
    secret = secrets.token_urlsafe(32)
    async with resources.database.session() as session:
        link = ConsoleLink(
            id=new_id("cln"),
            fingerprint=resources.vault.fingerprint(secret, CONSOLE_LINK_PURPOSE),
            person=person,
            scopes=[str(scope) for scope in scopes],
            expires_at=await _now(session) + LINK_LASTS,
        )
        session.add(link)
        details = {"person": person, "scopes": list(link.scopes)}
        await audit.record(session, OPERATOR, Action.CONSOLE_LINK_MADE, details=details)
    return secret


async def sign_in_by_link(resources: Resources, secret: str, who: Who) -> Opened:
    """Use a link up and open a session; raises `LinkSpent`. Of two at the same time one gets it."""
    fingerprint = resources.vault.fingerprint(secret, CONSOLE_LINK_PURPOSE)
    used = (
        delete(ConsoleLink)
        .where(col(ConsoleLink.fingerprint) == fingerprint)
        .returning(col(ConsoleLink.person), col(ConsoleLink.scopes), col(ConsoleLink.expires_at) > func.now())
    )
    async with resources.database.session() as session:
        row = (await session.exec(used)).first()
        if row is not None and row[2]:
            return await _open(resources, session, Person(f"{PERSON}{row[0]}", row[0], row[1]), who, by="link")
    raise LinkSpent


async def sign_in_by_key(resources: Resources, secret: str, who: Who) -> Opened:
    """Open a session with an API key; raises `SignInRefused`. It ends when the key does."""
    caller = await known_keys.recognise(resources, secret)
    if caller is None:
        raise SignInRefused("There is no such API key, or it is revoked or expired.")
    scopes = [scope for scope in SCOPES if caller.may(scope)]
    if not scopes or scopes == [Scope.PAYLOADS_READ]:
        raise SignInRefused("This API key has neither the scope console:read nor console:act.")
    if caller.owner is not None:
        raise SignInRefused("This API key is bound to an owner, and the console shows every owner's.")
    async with resources.database.session() as session:
        key = await session.get(ApiKey, caller.id)
        person = Person(caller.id, key.name if key is not None else caller.id, scopes, caller.id)
        return await _open(resources, session, person, who, by="api_key")


async def recognise(resources: Resources, secret: str) -> Visitor | None:
    """Return the visitor with this cookie; None if there is no such session."""
    fingerprint = resources.vault.fingerprint(secret, CONSOLE_SESSION_PURPOSE)
    async with resources.recognition.driver_connection() as connection:
        row = await connection.fetchrow(RECOGNISE, fingerprint)
        if row is None:
            return None
        if not row["seen_lately"]:
            await connection.execute(NOTE_VISIT, row["id"])
    key = None
    if row["key_scopes"] is not None:
        key = SigningKey(frozenset(row["key_scopes"]), row["aircall_rules"], row["key_expires_at"])
    return Visitor(row["actor"], row["person"], frozenset(row["scopes"]), session_id=row["id"], key=key)


async def sign_out(resources: Resources, visitor: Visitor, who: Who) -> None:
    """End the visitor's own session; a repeat changes nothing."""
    async with resources.database.session() as session:
        ended = (
            delete(ConsoleSession).where(col(ConsoleSession.id) == visitor.session_id).returning(col(ConsoleSession.id))
        )
        if (await session.exec(ended)).first() is not None:
            await audit.record(session, who, Action.CONSOLE_SIGNED_OUT)


async def list_all(resources: Resources) -> Sequence[ConsoleSession]:
    """Return the sessions that still work, newest first."""
    await resources.require_ready()
    query = select(ConsoleSession).where(col(ConsoleSession.expires_at) > func.now())
    async with resources.database.session() as session:
        return (await session.exec(query.order_by(col(ConsoleSession.id).desc()))).all()


async def revoke(resources: Resources, which: str | None, *, who: Who = OPERATOR) -> int:
    """End the sessions with this id or of this person, or all of them; returns how many there were."""
    await resources.require_ready()
    ended = delete(ConsoleSession).returning(col(ConsoleSession.id), col(ConsoleSession.person))
    if which is not None:
        ended = ended.where((col(ConsoleSession.id) == which) | (col(ConsoleSession.person) == which))
    async with resources.database.session() as session:
        rows = (await session.exec(ended)).all()
        for session_id, person in rows:
            details = {"session_id": session_id, "person": person}
            await audit.record(session, who, Action.CONSOLE_SESSION_REVOKED, details=details)
    return len(rows)


async def forget(resources: Resources) -> None:
    """The worker's chore: delete sessions, links, and what came of forms, that are past their time."""
    await batches.delete(resources.database, FORGET_SESSIONS)
    await batches.delete(resources.database, FORGET_LINKS)
    await batches.delete(resources.database, FORGET_FORMS)


async def _open(resources: Resources, session: AsyncSession, person: Person, who: Who, *, by: str) -> Opened:
    secret, at = secrets.token_urlsafe(32), await _now(session)
    await _end_oldest(session, person)
    opened = ConsoleSession(
        id=new_id("cse"),
        fingerprint=resources.vault.fingerprint(secret, CONSOLE_SESSION_PURPOSE),
        actor=person.actor,
        person=person.name,
        api_key_id=person.api_key_id,
        scopes=list(person.scopes),
        address=who.address,
        created_at=at,
        last_seen_at=at,
        expires_at=at + SESSION_LASTS,
    )
    session.add(opened)
    named = Who(person.actor, who.address, who.request_id)
    details = {"by": by, "person": person.name, "scopes": list(person.scopes)}
    await audit.record(session, named, Action.CONSOLE_SIGNED_IN, details=details)
    return Opened(secret, person.name)


async def _now(session: AsyncSession) -> datetime:
    """Return the database's time, by which links and sessions end."""
    moment: datetime = (await session.exec(select(func.now()))).one()
    return moment


async def _end_oldest(session: AsyncSession, person: Person) -> None:
    newest = (
        select(ConsoleSession.id)
        .where(col(ConsoleSession.actor) == person.actor)
        .order_by(col(ConsoleSession.id).desc())
        .limit(MOST_SESSIONS - 1)
    )
    kept = set((await session.exec(newest)).all())
    await session.exec(
        delete(ConsoleSession).where(col(ConsoleSession.actor) == person.actor, col(ConsoleSession.id).not_in(kept))
    )
