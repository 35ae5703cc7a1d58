"""Makes, changes, pauses, replays and deletes subscriptions.

Every change notifies the workers as it commits, and makes a new version of the row: by it, a worker that missed the
notification sees that its reader is out of date. A replay also takes the lease away, so that the present reader can't
move the position forward again.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from pydantic import SecretStr
from sqlalchemy import ColumnElement, delete, func, text, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.access.scopes import Scope
from aircall_oauth.deliveries import auditing, repeated
from aircall_oauth.deliveries.destinations import registry, signatures
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Message, Outcome, attempt, raised_at, word
from aircall_oauth.deliveries.reader.leases import CHANGED
from aircall_oauth.deliveries.repeated import Repeat
from aircall_oauth.errors import (
    InvalidRequest,
    OwnerNotAllowed,
    PositionGone,
    ScopeMissing,
    SubscriptionNotFound,
    SubscriptionsFull,
    SubscriptionUnsigned,
)
from aircall_oauth.events import store
from aircall_oauth.events.query import EventJson
from aircall_oauth.resources import Resources
from aircall_oauth.storage import epochs, locks
from aircall_oauth.storage.models.deliveries import Parked, Subscription
from aircall_oauth.storage.sealed import OLD_SECRET_COLUMN, SECRET_COLUMN, URL_COLUMN
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.statuses import Health, SubscriptionKind, SubscriptionStatus
from aircall_oauth.storage.vault import SealedAt
from aircall_oauth.telemetry import log

logger = log.get(__name__)

OLD_SECRET_WORKS = timedelta(hours=24)
HEAD = text(f"SELECT {epochs.END}, coalesce({epochs.DROPPED_TO}, 0)")
BEFORE = text("SELECT position - 1 FROM event WHERE received_at >= :since ORDER BY position LIMIT 1")
COUNT = text("SELECT count(*), count(*) FILTER (WHERE owners = :owners) FROM subscription WHERE id <> :but")
TEST_TYPE = "subscription.test"
NO_REPEAT = Repeat()
# A destination that is held to be up.
FRESH: dict[str, Any] = {"health": Health.UP, "quiet_until": None, "probes": 0}


@dataclass(frozen=True)
class SampleResult:
    """What came of sending a sample event."""

    outcome: Outcome
    milliseconds: int


@dataclass(frozen=True)
class Made:
    """A subscription that was made now, or `is_new` false, by an earlier request; its secret where it may be shown."""

    subscription_id: str
    secret: SecretStr | None
    is_new: bool = True


async def create(
    resources: Resources, key: Caller, who: Who, *, start: int | str, repeat: Repeat = NO_REPEAT, **fields: Any
) -> Made:
    """Make a subscription that begins at once; returns it with its signing secret in clear.

    `start` is `now`, `beginning` or a position. A broker's subscription has no secret. What a `repeat` made before is
    returned instead: with its secret to the same `Idempotency-Key`, since the first answer may be lost. Raises
    `DestinationRefused`, `OwnerNotAllowed`, `PositionGone`, `SubscriptionsFull`, `IdempotencyKeyUsed` or
    `SubscriptionDiffers`.
    """
    subscription_id, url, asked = new_id("sub"), fields["url"], dict(fields)
    fields["owners"] = _owners(key, fields["owners"])
    kind = SubscriptionKind(fields["kind"])
    fields |= await _addressed(resources, key, kind, subscription_id, fields["url"])
    secret = signatures.new_secret() if kind == SubscriptionKind.HTTP else None
    if secret is not None:
        fields["secret_sealed"] = resources.vault.seal(secret, SealedAt(SECRET_COLUMN, subscription_id))
    async with resources.database.session() as session:
        await _take_turn(session)
        if (before := await repeated.by_key(resources, session, key, repeat)) is not None:
            return Made(before.id, _secret_of(resources, before), is_new=False)
        if (before := await repeated.by_name(resources, session, repeat, fields["owners"], url, asked)) is not None:
            return Made(before.id, None, is_new=False)
        await _require_room(resources, session, fields["owners"])
        subscription = Subscription(
            id=subscription_id,
            status=SubscriptionStatus.ACTIVE,
            position=await _position_of(session, start),
            created_at=now(),
            **fields,
        )
        session.add(subscription)
        await repeated.remember(resources, session, key, repeat, subscription_id)
        details = auditing.made_of(subscription) | {"from": start, "position": subscription.position}
        await auditing.record(session, who, Action.SUBSCRIPTION_CREATED, subscription_id, subscription.owners, details)
        await _notify_workers(session, subscription_id)
    return Made(subscription_id, secret)


async def change(resources: Resources, key: Caller, who: Who, subscription_id: str, **fields: Any) -> None:
    """Change its name, its filter, its order or its address; its position stays."""
    if "owners" in fields:
        fields["owners"] = _owners(key, fields["owners"])
    if "url" in fields:
        found = await find(resources, key, subscription_id)
        if fields["url"] == registry.shown_url(found.url) != found.url:
            # The address as it is shown, without its secrets, was sent back: nothing to change.
            del fields["url"]
        else:
            fields |= await _addressed(resources, key, found.kind, subscription_id, fields["url"]) | FRESH
    await _update(resources, key, who, Action.SUBSCRIPTION_CHANGED, subscription_id, **fields)


async def delete_one(resources: Resources, key: Caller, who: Who, subscription_id: str) -> None:
    """Delete a subscription with its parked and dead events."""
    async with resources.database.session() as session:
        gone = await held(session, key, subscription_id)
        await auditing.record(
            session, who, Action.SUBSCRIPTION_DELETED, subscription_id, gone.owners, auditing.made_of(gone)
        )
        await session.exec(delete(Subscription).where(*_one(key, subscription_id)))
        await _notify_workers(session, subscription_id)


async def pause(resources: Resources, key: Caller, who: Who, subscription_id: str) -> None:
    """Stop deliveries; those under way are waited for."""
    paused = SubscriptionStatus.PAUSED
    await _update(resources, key, who, Action.SUBSCRIPTION_PAUSED, subscription_id, status=paused)


async def resume(resources: Resources, key: Caller, who: Who, subscription_id: str) -> None:
    """Go on from its position, whether it was paused or disabled, without waiting for the next probe."""
    active = SubscriptionStatus.ACTIVE
    await _update(resources, key, who, Action.SUBSCRIPTION_RESUMED, subscription_id, status=active, **FRESH)


async def replay(resources: Resources, key: Caller, who: Who, subscription_id: str, *, start: int | datetime) -> None:
    """Move a subscription to a position, or to before the first event that came in at or after a moment.

    Events past there that were parked or given up are read from the log again, so their rows are deleted.
    """
    async with resources.database.session() as session:
        position = await _position_of(session, start)
        before = await held(session, key, subscription_id)
        details = {"position": {"from": before.position, "to": position}}
        await auditing.record(session, who, Action.SUBSCRIPTION_MOVED, subscription_id, before.owners, details)
        moved = (
            update(Subscription)
            .where(*_one(key, subscription_id))
            .values(position=position, version=Subscription.version + 1, **_without_lease())
        )
        await session.exec(moved)
        beside = delete(Parked).where(col(Parked.subscription_id) == subscription_id, col(Parked.position) > position)
        await session.exec(beside)
        await _notify_workers(session, subscription_id)


async def rotate_secret(
    resources: Resources,
    key: Caller,
    who: Who,
    subscription_id: str,
    *,
    at_once: bool,
    secret: SecretStr | None = None,
) -> SecretStr:
    """Make a new secret; returns it in clear this one time. The old one signs too for a day, unless `at_once`.

    With a `secret` that it has already, nothing is changed: a form was sent twice.
    """
    subscription = await find(resources, key, subscription_id)
    if subscription.secret_sealed is None:
        raise SubscriptionUnsigned
    # One that can't be opened any more is replaced at once; only a form compares, and only a day's grace keeps it.
    known = None
    if secret is not None or not at_once:
        known = resources.vault.open(subscription.secret_sealed, SealedAt(SECRET_COLUMN, subscription_id))
    if secret is not None and secret == known:
        return secret
    secret, old = secret or signatures.new_secret(), None
    until = None if at_once else now() + OLD_SECRET_WORKS
    if not at_once and known is not None:
        old = resources.vault.seal(known, SealedAt(OLD_SECRET_COLUMN, subscription_id))
    await _update(
        resources,
        key,
        who,
        Action.SUBSCRIPTION_SECRET_ROTATED,
        subscription_id,
        details={"old_secret_until": None if until is None else until.isoformat()},
        secret_sealed=resources.vault.seal(secret, SealedAt(SECRET_COLUMN, subscription_id)),
        old_secret_sealed=old,
        old_secret_until=until,
    )
    return secret


async def try_out(resources: Resources, key: Caller, who: Who, subscription_id: str) -> SampleResult:
    """Send a sample event right now. It is not in the log, and its outcome changes nothing but the audit."""
    subscription = await find(resources, key, subscription_id)
    destination = await registry.open(resources, subscription)
    started = time.perf_counter()
    try:
        outcome = await attempt(destination, _sample(subscription), note_unexpected)
    finally:
        await destination.close()
    tried = SampleResult(outcome, round((time.perf_counter() - started) * 1000))
    async with resources.database.session() as session:
        await auditing.record(
            session,
            who,
            Action.SUBSCRIPTION_TESTED,
            subscription_id,
            subscription.owners,
            {"outcome": word(outcome)},
            outcome=audit.Outcome.DONE if isinstance(outcome, Delivered) else audit.Outcome.FAILED,
        )
    return tried


async def retry_dead(
    resources: Resources, key: Caller, who: Who, subscription_id: str, event_ids: Sequence[str] | None
) -> int:
    """Make dead events parked again and due now, all of them if none are named; returns how many."""
    dead = [col(Parked.subscription_id) == subscription_id, col(Parked.dead_at).is_not(None)]
    if event_ids is not None:
        dead.append(col(Parked.event_id).in_(event_ids))
    async with resources.database.session() as session:
        known = await held(session, key, subscription_id)
        owners = known.owners
        await session.exec(
            update(Subscription).where(*_one(key, subscription_id)).values(version=Subscription.version + 1)
        )
        put_back = update(Parked).where(*dead).values(dead_at=None, due_at=func.now(), attempts=0)
        count = (await session.exec(put_back)).rowcount
        details = auditing.clipped({"retried": count, "event_ids": event_ids})
        await auditing.record(session, who, Action.SUBSCRIPTION_DEAD_RETRIED, subscription_id, owners, details)
        await _notify_workers(session, subscription_id)
    return count


def visible(key: Caller) -> Iterable[ColumnElement[bool]]:
    """Return the condition for what an API key sees: bound to an owner, subscriptions for exactly that owner."""
    return () if key.owner is None else (col(Subscription.owners) == [key.owner],)


def _one(key: Caller, subscription_id: str) -> Iterable[ColumnElement[bool]]:
    return (col(Subscription.id) == subscription_id, *visible(key))


async def find(resources: Resources, key: Caller, subscription_id: str) -> Subscription:
    """A subscription that this API key may see; raises `SubscriptionNotFound`."""
    async with resources.database.session() as session:
        found = (await session.exec(select(Subscription).where(*_one(key, subscription_id)))).first()
    if found is None:
        raise SubscriptionNotFound
    return found


async def held(session: AsyncSession, key: Caller, subscription_id: str) -> Subscription:
    """Return a subscription as it is, and stays until the commit; raises `SubscriptionNotFound`."""
    held = select(Subscription).where(*_one(key, subscription_id)).with_for_update(key_share=True)
    found = (await session.exec(held)).first()
    if found is None:
        raise SubscriptionNotFound
    return found


async def _update(
    resources: Resources,
    key: Caller,
    who: Who,
    action: Action,
    subscription_id: str,
    *,
    details: dict[str, Any] | None = None,
    **fields: Any,
) -> None:
    """Change a subscription and say in the audit what was changed; a change that changes nothing has no row there."""
    changed = update(Subscription).where(*_one(key, subscription_id))
    async with resources.database.session() as session:
        if "owners" in fields:
            await _require_room(resources, session, fields["owners"], but=subscription_id)
        found = await held(session, key, subscription_id)
        before = auditing.shown(found)
        await session.exec(changed.values(version=Subscription.version + 1, **fields))
        told = auditing.change_of(before, fields) | (details or {})
        if told or action != Action.SUBSCRIPTION_CHANGED:
            owner = auditing.owner_of(before["owners"], fields.get("owners", before["owners"]))
            owners = [] if owner is None else [owner]
            await auditing.record(session, who, action, subscription_id, owners, told)
        await _notify_workers(session, subscription_id)


async def _require_room(
    resources: Resources, session: AsyncSession, owners: Sequence[str], but: str | None = None
) -> None:
    """Raise `SubscriptionsFull` if there are enough. Another one is made only once this transaction has ended."""
    await _take_turn(session)
    connection, settings = await session.connection(), resources.settings
    counted = await connection.execute(COUNT, {"owners": list(owners), "but": but or ""})
    in_all, of_the_owner = counted.one()
    if len(owners) == 1 and of_the_owner >= settings.max_subscriptions_per_owner:
        raise SubscriptionsFull("MAX_SUBSCRIPTIONS_PER_OWNER")
    if in_all >= settings.max_subscriptions:
        raise SubscriptionsFull("MAX_SUBSCRIPTIONS")


async def _take_turn(session: AsyncSession) -> None:
    """Let no other subscription be made until this transaction has ended; what was made before can be seen then."""
    await (await session.connection()).execute(select(func.pg_advisory_xact_lock(locks.SUBSCRIPTIONS)))


def _secret_of(resources: Resources, subscription: Subscription) -> SecretStr | None:
    sealed = subscription.secret_sealed
    return None if sealed is None else resources.vault.open(sealed, SealedAt(SECRET_COLUMN, subscription.id))


async def _notify_workers(session: AsyncSession, subscription_id: str) -> None:
    await (await session.connection()).execute(select(func.pg_notify(CHANGED, subscription_id)))


def _without_lease() -> dict[str, Any]:
    return {"lease_holder": None, "lease_until": None, "lease_number": Subscription.lease_number + 1}


def _owners(key: Caller, wanted: Sequence[str]) -> list[str]:
    if key.owner is None or list(wanted) == [key.owner]:
        return list(wanted)
    if wanted:
        raise OwnerNotAllowed
    return [key.owner]


async def _addressed(resources: Resources, key: Caller, kind: str, subscription_id: str, url: str) -> dict[str, str]:
    """Check an address; returns it as it is kept: sealed whole, as it may hold secrets, and as it may be shown."""
    kind = SubscriptionKind(kind)
    if kind != SubscriptionKind.HTTP and key.owner is not None and not key.may(Scope.SUBSCRIPTIONS_BROKERS):
        raise ScopeMissing(f"An API key bound to an owner needs the scope {Scope.SUBSCRIPTIONS_BROKERS} for a broker.")
    await registry.require_allowed(resources, key, kind, url)
    sealed = resources.vault.seal(url, SealedAt(URL_COLUMN, subscription_id))
    return {"url": registry.kept_url(kind, url), "url_sealed": sealed}


async def _position_of(session: AsyncSession, start: int | str | datetime) -> int:
    connection = await session.connection()
    head, dropped_to = (await connection.execute(HEAD)).one()
    match start:
        case "now":
            return int(head)
        case "beginning":
            return int(dropped_to)
        case datetime():
            before = await connection.scalar(BEFORE, {"since": start})
            return int(head) if before is None else max(int(before), int(dropped_to))
        case int() if 0 < start < dropped_to:
            raise PositionGone(dropped_to)
        case int() if start <= head:
            return max(start, int(dropped_to))
        case _:
            raise InvalidRequest(f"The newest position is {head}.")


def note_unexpected(error: BaseException) -> None:
    logger.error("sample failed unexpectedly", error=type(error).__name__, at=raised_at(error))


def _sample(subscription: Subscription) -> Message:
    at = now()
    event = EventJson(
        id=new_id("evt"),
        position=0,
        type=TEST_TYPE,
        resource="subscription",
        subject=None,
        installation_id=store.NO_INSTALLATION,
        company_id=0,
        owner=subscription.owners[0] if len(subscription.owners) == 1 else None,
        occurred_at=at,
        received_at=at,
        source="service",
        data=msgspec.Raw(msgspec.json.encode({"subscription_id": subscription.id})),
    )
    return Message(event.id, event.installation_id, event.type, msgspec.json.encode(event))
