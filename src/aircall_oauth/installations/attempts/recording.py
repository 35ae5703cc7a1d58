"""Record how far an install attempt came. Strangers can't make rows here: see `tally`.

An attempt is known by its reference, which is derived from its link's id, or from the flow's where there is no link. So
every process knows it without asking, and no state has to carry it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.resources import Resources
from aircall_oauth.storage import batches, clocks, locks
from aircall_oauth.storage.models.installations import Flow, Installation, InstallAttempt, Webhook
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.statuses import WebhookStatus
from aircall_oauth.storage.vault import Vault

KEPT = timedelta(days=90)
# Without what looks alike (0 O, 1 I L), and without U, so that hardly any reference is a word.
ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
REFERENCE = rf"^[{ALPHABET}]{{8}}$"
CONNECTED, UNCLAIMED, CLAIMED = "connected", "unclaimed", "claimed"
# Rows of failed flows without a link: more than this within an hour are only counted.
FAILURES_PER_HOUR = 60
# Rows of connected flows without a link, for one installation: more than this within an hour leave none.
CONNECTIONS_PER_HOUR = 10
HOUR = timedelta(hours=1)
FORGET = "DELETE FROM install_attempt WHERE id IN (SELECT id FROM install_attempt WHERE created_at < $1 LIMIT $2)"

FORGET_COUNTS = """
    DELETE FROM install_tally WHERE (hour, what) IN (SELECT hour, what FROM install_tally WHERE hour < $1 LIMIT $2)
"""


@dataclass
class Attempt:
    """An attempt as a process knows it from a link or a state, and the steps that this flow has made so far."""

    reference: str
    link_id: str | None = None
    owner: str | None = None
    return_to: str | None = None
    steps: dict[str, Any] = field(default_factory=dict)

    def reached(self, step: str, **facts: Any) -> None:
        """Note a step, such as `exchanged_at`, and facts learned with it, to be written with the ending."""
        self.steps |= {step: now(), **facts}


def reference_of(vault: Vault, link_or_flow_id: str) -> str:
    """Return the reference of the attempt with this link, or with this flow where there is no link."""
    number = int.from_bytes(vault.fingerprint(link_or_flow_id, "install-attempt"), "big")
    letters = []
    for _ in range(8):
        number, place = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[place])
    return "".join(letters)


async def make(session: AsyncSession, attempt: Attempt) -> str | None:
    """Record that a link was made. Returns the row's id; None where another attempt has the reference already."""
    row = insert(InstallAttempt).values(**_new(attempt), made_at=now())
    made = row.on_conflict_do_nothing().returning(col(InstallAttempt.id))
    return (await session.exec(made)).scalars().first()


async def made_by(session: AsyncSession, link_id: str) -> str | None:
    """Return the id of the attempt that was recorded as its link was made; None if there is none."""
    return (await session.exec(select(InstallAttempt.id).where(col(InstallAttempt.link_id) == link_id))).first()


async def open_link(resources: Resources, attempt: Attempt) -> bool:
    """Record that a link was opened, once. Returns whether a flow has used it up. Reads only, the second time."""
    query = select(
        exists().where(col(Flow.link_id) == attempt.link_id),
        exists().where(_is(attempt), col(InstallAttempt.opened_at).is_not(None)),
    )
    async with resources.database.session() as session:
        is_used, was_opened = (await session.exec(query)).one()
        if not is_used and not was_opened:
            await _note(session, attempt, {"opened_at": now(), "shown": "consent"})
    return is_used


async def consent(session: AsyncSession, attempt: Attempt) -> None:
    """Record that a link's flow came back with a code. A flow without a link has no row yet."""
    attempt.reached("consented_at")
    if attempt.link_id is not None:
        await session.exec(update(InstallAttempt).where(_is(attempt), _is_open()).values(**attempt.steps))


async def connect(session: AsyncSession, attempt: Attempt, installation: Installation, *, held: bool) -> None:
    """Record in the install's own transaction that its token is kept; `held` until it is claimed."""
    facts = attempt.steps | {
        "connected_at": now(),
        "ended_at": now(),
        "ending": UNCLAIMED if held else CONNECTED,
        "installation_id": installation.id,
        "company_id": installation.company_id,
        "company_name": installation.company_name,
    }
    if attempt.link_id is None and not await _has_room_for(session, installation.id):
        return
    await _note(session, attempt, facts)
    if not held:
        await _live_already(session, installation.id)


async def claim(session: AsyncSession, reference: str | None, owner: str, installation_id: str) -> None:
    """Record that an attempt's installation was claimed."""
    claimed = update(InstallAttempt).where(col(InstallAttempt.reference) == reference)
    await session.exec(claimed.values(claimed_at=now(), ended_at=now(), ending=CLAIMED, owner=owner))
    await _live_already(session, installation_id)


async def live(session: AsyncSession, installation_id: str) -> None:
    """Record that an installation's webhook is live now, for the attempts that wait for it."""
    waiting = update(InstallAttempt).where(
        col(InstallAttempt.installation_id) == installation_id,
        col(InstallAttempt.ending).in_([CONNECTED, CLAIMED]),
        col(InstallAttempt.live_at).is_(None),
    )
    await session.exec(waiting.values(live_at=now()))


async def fail(resources: Resources, attempt: Attempt, ending: str, shown: str | None = None) -> bool:
    """Record a bad ending for an attempt that has a row. Returns whether it has one.

    What is connected stays so: later failures change only what the browser was shown last. A repeat writes nothing.
    """
    seen: dict[str, Any] = {} if shown is None else {"shown": shown}
    ended = attempt.steps | seen | {"ending": ending, "ended_at": now()}
    async with resources.database.session() as session:
        row = (await session.exec(select(InstallAttempt).where(_is(attempt)))).first()
        if row is None:
            return False
        is_new = (row.ending, row.shown) != (ending, shown or row.shown)
        if row.connected_at is None and is_new:
            await session.exec(update(InstallAttempt).where(_is(attempt), _is_open()).values(**ended))
        elif row.connected_at is not None and shown is not None and row.shown != shown:
            await session.exec(update(InstallAttempt).where(_is(attempt)).values(**seen))
    return True


async def fail_first(resources: Resources, attempt: Attempt, ending: str, shown: str) -> bool:
    """Make the row of a flow that failed. Without a link, only while there is room in this hour; returns whether."""
    async with resources.database.session() as session:
        if attempt.link_id is None and not await _has_room(session):
            return False
        await _note(session, attempt, attempt.steps | {"ending": ending, "ended_at": now(), "shown": shown})
    return True


async def show(resources: Resources, attempt: Attempt, shown: str) -> None:
    """Record what the browser of a connected attempt was shown, or where it was sent."""
    async with resources.database.session() as session:
        changed = col(InstallAttempt.shown).is_distinct_from(shown)
        await session.exec(update(InstallAttempt).where(_is(attempt), changed).values(shown=shown))


async def forget(resources: Resources) -> None:
    """Chore: delete attempts and hourly counts older than 90 days."""
    before = await clocks.agreed_now(resources.database) - KEPT
    await batches.delete(resources.database, FORGET, before)
    await batches.delete(resources.database, FORGET_COUNTS, before)


async def _has_room(session: AsyncSession) -> bool:
    """Return whether one more failure without a link may be kept. Processes count one after the other."""
    await session.exec(select(func.pg_advisory_xact_lock(locks.INSTALL_FAILURES)))
    failed = select(func.count()).where(
        col(InstallAttempt.created_at) > now() - HOUR,
        col(InstallAttempt.link_id).is_(None),
        col(InstallAttempt.connected_at).is_(None),
    )
    return (await session.exec(failed)).one() < FAILURES_PER_HOUR


async def _has_room_for(session: AsyncSession, installation_id: str) -> bool:
    """Return whether one more connection of this installation may be kept; its row is locked by the install."""
    connected = select(func.count()).where(
        col(InstallAttempt.installation_id) == installation_id,
        col(InstallAttempt.created_at) > now() - HOUR,
        col(InstallAttempt.link_id).is_(None),
    )
    return (await session.exec(connected)).one() < CONNECTIONS_PER_HOUR


async def _live_already(session: AsyncSession, installation_id: str) -> None:
    """Record a webhook that is live since an earlier attempt."""
    of_it = (col(Webhook.installation_id) == installation_id, col(Webhook.status) == WebhookStatus.ACTIVE)
    if (await session.exec(select(Webhook.id).where(*of_it))).first() is not None:
        await live(session, installation_id)


async def _note(session: AsyncSession, attempt: Attempt, facts: Mapping[str, Any]) -> None:
    """Write facts into an attempt's row, and make the row if there is none."""
    row = insert(InstallAttempt).values(**_new(attempt), **facts)
    await session.exec(row.on_conflict_do_update(index_elements=["reference"], set_=dict(facts)))


def _new(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": new_id("att"),
        "reference": attempt.reference,
        "link_id": attempt.link_id,
        "owner": attempt.owner,
        "created_at": now(),
    }


def _is(attempt: Attempt) -> Any:
    return col(InstallAttempt.reference) == attempt.reference


def _is_open() -> Any:
    return col(InstallAttempt.connected_at).is_(None)


def begun_at(seconds: int) -> datetime:
    """Return when a flow was begun, from its state's seconds."""
    return datetime.fromtimestamp(seconds, tz=now().tzinfo)
