"""Opens the destination of a subscription of any kind, and says what may be shown of its address."""

from collections.abc import Callable, Sequence
from datetime import datetime

from aircall_oauth.access.callers import Caller
from aircall_oauth.deliveries.destinations import brokers, signatures
from aircall_oauth.deliveries.destinations.addresses import Guard
from aircall_oauth.deliveries.destinations.outcomes import Destination
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.deliveries import Subscription
from aircall_oauth.storage.sealed import OLD_SECRET_COLUMN, SECRET_COLUMN, URL_COLUMN
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import SubscriptionKind
from aircall_oauth.storage.vault import SealedAt

MASK = "***"
# The previous version sends to the address in clear: with this prefix it does not take a masked one for an address.
NOT_AN_ADDRESS = "sealed:"


async def open(resources: Resources, subscription: Subscription) -> Destination:  # noqa: A001 - destinations.open
    """Open a subscription's destination; the caller closes it.

    Raises `SealError` if its secrets do not open, and `ExtraMissing` if its broker's client is not installed.
    """
    # Here: it takes long to import, and is needed where there is a subscription.
    from aircall_oauth.deliveries.destinations.http import HttpDestination

    guard, url = Guard(resources.settings, _asker(subscription)), url_of(resources, subscription)
    if subscription.kind == SubscriptionKind.HTTP:
        at_once = resources.settings.deliveries_at_once
        return HttpDestination(url, _keys(resources, subscription), guard, at_once=at_once)
    broker = brokers.KINDS[SubscriptionKind(subscription.kind)]
    target = [getattr(subscription, field) for field in broker.target]
    return broker.open(url, *target, judge=guard.refusal, connect=guard.connect)


async def require_allowed(resources: Resources, key: Caller, kind: SubscriptionKind, url: str) -> None:
    """Raise `DestinationRefused` if deliveries may not go to this URL, or it is not one of its kind."""
    guard = Guard(resources.settings, key.id if key.owner is None else key.owner)
    if kind == SubscriptionKind.HTTP:
        await guard.require_url(url)
    else:
        await guard.require_hosts(brokers.KINDS[kind].read(url).servers)


def kept_url(kind: SubscriptionKind, url: str) -> str:
    """Return the part of an address that is kept in clear beside the sealed address."""
    if kind != SubscriptionKind.HTTP:
        return brokers.KINDS[kind].read(url).shown
    masked = _masked(url)
    return url if masked == url else NOT_AN_ADDRESS + masked


def shown_url(kept: str) -> str:
    """Return a kept address as it may be shown: without a broker's credentials, and with an HTTP query masked."""
    return _masked(kept.removeprefix(NOT_AN_ADDRESS))


def _masked(url: str) -> str:
    address, mark, query = url.partition("?")
    return address + mark + "&".join(map(_without_value, query.split("&")))


def _without_value(pair: str) -> str:
    name, _, value = pair.partition("=")
    # A pair that has nothing behind its `=` may be a secret in base64.
    return f"{name}={MASK}" if value.strip("=") else MASK if pair else ""


def _asker(subscription: Subscription) -> str:
    """Return the share of lookups that a subscription takes: its one owner's, or else its own."""
    return subscription.owners[0] if len(subscription.owners) == 1 else subscription.id


def url_of(resources: Resources, subscription: Subscription) -> str:
    """Return the whole address of a subscription, with its secrets."""
    if subscription.url_sealed is None:
        return subscription.url
    return resources.vault.open(subscription.url_sealed, SealedAt(URL_COLUMN, subscription.id)).get_secret_value()


def _keys(resources: Resources, subscription: Subscription) -> Callable[[], Sequence[bytes]]:
    """Return a function for the keys that sign now: the secret's, and for a day after a change the old secret's."""
    places = (
        (subscription.secret_sealed, SECRET_COLUMN, None),
        (subscription.old_secret_sealed, OLD_SECRET_COLUMN, subscription.old_secret_until),
    )
    opened: list[tuple[bytes, datetime | None]] = [
        (signatures.key_of(resources.vault.open(sealed, SealedAt(column, subscription.id))), until)
        for sealed, column, until in places
        if sealed is not None
    ]
    return lambda: [key for key, until in opened if until is None or until > now()]
