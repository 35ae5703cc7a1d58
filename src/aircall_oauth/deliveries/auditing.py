"""What the audit tells of an act on a subscription: never a secret, and an address only as it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Outcome, Who
from aircall_oauth.deliveries.destinations import brokers, registry
from aircall_oauth.storage.models.deliveries import Subscription

# Of a longer list so many entries are told, and how many more there are: a row is small, whatever a filter holds.
MOST_ENTRIES = 20
TARGETS = sorted({field for broker in brokers.KINDS.values() for field in broker.target})
FIELDS = ("name", "url", *TARGETS, "types", "owners", "installations", "ordering", "status")


def shown(subscription: Subscription) -> dict[str, Any]:
    """Return a subscription's fields as `change_of` compares them."""
    fields = {name: getattr(subscription, name) for name in FIELDS}
    return fields | {"url": registry.shown_url(subscription.url)}


def made_of(subscription: Subscription) -> dict[str, Any]:
    """Return the details of a subscription that is made or deleted; a filter that takes everything is left out."""
    told = {_name(name): _clipped(value) for name, value in shown(subscription).items() if value}
    return {"kind": subscription.kind} | told


def change_of(before: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the new values of `fields` change: each field from what to what; empty where nothing is changed."""
    fields = dict(fields)
    if "url" in fields:
        fields["url"] = registry.shown_url(fields["url"])
    return {
        _name(name): _from_to(before[name], value)
        for name, value in fields.items()
        # What a query says is not shown: an address that looks the same may be another one.
        if name in before and (value != before[name] or name == "url")
    }


def _name(field: str) -> str:
    """The field's name in the API."""
    return "order" if field == "ordering" else field


def _from_to(before: Any, after: Any) -> dict[str, Any]:
    if isinstance(before, list) and max(len(before), len(after)) > MOST_ENTRIES:
        added, removed = ([one for one in new if one not in old] for new, old in ((after, before), (before, after)))
        return {"from": len(before), "to": len(after), "added": _clipped(added), "removed": _clipped(removed)}
    return {"from": before, "to": after}


def _clipped(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) <= MOST_ENTRIES:
        return value
    return [*value[:MOST_ENTRIES], f"and {len(value) - MOST_ENTRIES} more"]


def clipped(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return details without what is empty, and with no long list."""
    return {name: _clipped(value) for name, value in fields.items() if value not in (None, [], ())}


def owner_of(*filters: Sequence[str]) -> str | None:
    """Return the one owner that an act on a subscription concerns; None if there is none, or more than one.

    `filters` are the subscription's owners before and after. A change of owner concerns no single one: neither may see
    the other's name.
    """
    owners = {owner for one in filters for owner in one}
    return owners.pop() if len(owners) == 1 and all(filters) else None


async def record(
    session: AsyncSession,
    who: Who,
    action: Action,
    subscription_id: str,
    owners: Sequence[str],
    details: dict[str, Any],
    *,
    installation_id: str | None = None,
    outcome: Outcome = Outcome.DONE,
) -> None:
    """Add the audit's row of an act on a subscription whose filter names these owners."""
    await audit.record(
        session,
        who,
        action,
        installation_id=installation_id,
        subscription_id=subscription_id,
        owner=owner_of(owners),
        details=details or None,
        outcome=outcome,
    )
