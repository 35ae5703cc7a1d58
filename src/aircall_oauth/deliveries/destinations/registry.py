"""Opens where a subscription's events go, whatever its kind."""

from collections.abc import Callable, Sequence
from datetime import datetime

from aircall_oauth.access.callers import Caller
from aircall_oauth.deliveries.destinations import brokers, signatures
from aircall_oauth.deliveries.destinations.addresses import Guard
from aircall_oauth.deliveries.destinations.http import HttpDestination
from aircall_oauth.deliveries.destinations.outcomes import Destination
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.base import now
from aircall_oauth.storage.models.deliveries import Subscription, SubscriptionKind
from aircall_oauth.storage.models.sealed import OLD_SECRET_COLUMN, SECRET_COLUMN, URL_COLUMN
from aircall_oauth.storage.vault import SealedAt

MASK = "***"
# The version before this one takes what stands in clear for the address: it must not send to one that is masked.
NOT_AN_ADDRESS = "sealed:"


async def open(resources: Resources, subscription: Subscription) -> Destination:  # noqa: A001 - destinations.open
    """Where this subscription's events go; the caller closes it.

    Raises `SealError` where its secrets do not open, `ExtraMissing` where a broker's client is not installed.
    """
    guard, url = Guard(resources.settings, _asker(subscription)), _url(resources, subscription)
    if subscription.kind == SubscriptionKind.HTTP:
        at_once = resources.settings.deliveries_at_once
        return HttpDestination(url, _keys(resources, subscription), guard, at_once=at_once)
    broker = brokers.KINDS[SubscriptionKind(subscription.kind)]
    target = [getattr(subscription, field) for field in broker.target]
    return broker.open(url, *target, judge=guard.refusal, connect=guard.connect)


async def require_allowed(resources: Resources, key: Caller, kind: SubscriptionKind, url: str) -> None:
    """Raises `DestinationRefused` where deliveries may not go there, or would find nothing to speak to."""
    guard = Guard(resources.settings, key.id if key.owner is None else key.owner)
    if kind == SubscriptionKind.HTTP:
        await guard.require_url(url)
    else:
        await guard.require_hosts(brokers.KINDS[kind].read(url).servers)


def kept_url(kind: SubscriptionKind, url: str) -> str:
    """What stands of an address in clear beside the sealed one."""
    if kind != SubscriptionKind.HTTP:
        return brokers.KINDS[kind].read(url).shown
    masked = _masked(url)
    return url if masked == url else NOT_AN_ADDRESS + masked


def shown_url(kept: str) -> str:
    """An address as everybody may see it: without a broker's credentials, and without what an HTTP query says."""
    return _masked(kept.removeprefix(NOT_AN_ADDRESS))


def _masked(url: str) -> str:
    address, mark, query = url.partition("?")
    return address + mark + "&".join(map(_without_value, query.split("&")))


def _without_value(pair: str) -> str:
    name, _, value = pair.partition("=")
    # What ends with its `=` may be a secret in base64.
    return f"{name}={MASK}" if value.strip("=") else MASK if pair else ""


def _asker(subscription: Subscription) -> str:
    """Whose share of lookups it takes: its owner's, or its own where it has not exactly one."""
    return subscription.owners[0] if len(subscription.owners) == 1 else subscription.id


def _url(resources: Resources, subscription: Subscription) -> str:
    if subscription.url_sealed is None:
        return subscription.url
    return resources.vault.open(subscription.url_sealed, SealedAt(URL_COLUMN, subscription.id)).get_secret_value()


def _keys(resources: Resources, subscription: Subscription) -> Callable[[], Sequence[bytes]]:
    """The keys that sign at the moment: the secret's, and for a day the one's before it."""
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
