"""Opens where a subscription's events go, whatever its kind."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any, assert_never, cast

from aircall_oauth.deliveries import signatures
from aircall_oauth.deliveries.addresses import Guard
from aircall_oauth.deliveries.http import HttpDestination
from aircall_oauth.deliveries.outcomes import Destination
from aircall_oauth.errors import DestinationRefused
from aircall_oauth.models import (
    OLD_SECRET_COLUMN,
    SECRET_COLUMN,
    URL_COLUMN,
    Subscription,
    SubscriptionKind,
    now,
)
from aircall_oauth.resources import Resources
from aircall_oauth.vault import Place

# One server of a broker's address: scheme, user and password, host and port, the rest.
SERVER = re.compile(
    r"(?P<scheme>[a-z_]+://|)(?:[^@/?#\s]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?P<port>:[0-9]{1,5}|)"
    r"(?P<path>/[^?#\s]*|)(?:\?[^#\s]*)?"
)
SCHEMES = {
    SubscriptionKind.NATS: {"nats://", "tls://"},
    SubscriptionKind.RABBITMQ: {"amqp://", "amqps://"},
    SubscriptionKind.KAFKA: {"", "plaintext://", "ssl://", "sasl_plaintext://", "sasl_ssl://"},
}
FORMS = {
    SubscriptionKind.NATS: "nats://host:4222, or several of them separated by commas",
    SubscriptionKind.RABBITMQ: "amqps://host:5671/vhost",
    SubscriptionKind.KAFKA: "host:9092, or several of them separated by commas",
}
USUAL_PORTS = {SubscriptionKind.NATS: 4222, SubscriptionKind.RABBITMQ: 5672, SubscriptionKind.KAFKA: 9092}


async def open(resources: Resources, subscription: Subscription) -> Destination:  # noqa: A001 - destinations.open
    """Where this subscription's events go; the caller closes it.

    Raises `SealError` where its secrets do not open, `ExtraMissing` where a broker's client is not installed.
    """
    guard, settings = Guard(resources.settings), resources.settings
    match SubscriptionKind(subscription.kind):
        case SubscriptionKind.HTTP:
            keys = _keys(resources, subscription)
            return HttpDestination(subscription.url, keys, guard, at_once=settings.deliveries_at_once)
        case SubscriptionKind.NATS:
            url = _broker_url(resources, subscription)
            return cast("Destination", _brokers().nats(url, subscription.subject, judge=guard.refusal))
        case SubscriptionKind.RABBITMQ:
            url = _broker_url(resources, subscription)
            exchange, routing_key = subscription.exchange, subscription.routing_key
            return cast("Destination", _brokers().rabbitmq(url, exchange, routing_key, judge=guard.refusal))
        case SubscriptionKind.KAFKA:
            url = _broker_url(resources, subscription)
            return cast("Destination", _brokers().kafka(url, subscription.topic, judge=guard.refusal))
        case kind:
            assert_never(kind)


async def require_allowed(resources: Resources, kind: SubscriptionKind, url: str) -> None:
    """Raises `DestinationRefused` where deliveries may not go there, or would find nothing to speak to."""
    guard = Guard(resources.settings)
    if kind == SubscriptionKind.HTTP:
        await guard.require_url(url)
    else:
        await guard.require_hosts(_hosts(kind, url))


def shown_url(kind: SubscriptionKind, url: str) -> str:
    """An address as everybody may see it: without credentials, which a broker's may hold."""
    if kind == SubscriptionKind.HTTP:
        return url
    return ",".join("".join(server.group("scheme", "host", "port", "path")) for server in _servers(kind, url))


def _brokers() -> Any:
    """Their clients are optional: only who has such a subscription needs them."""
    return import_module("aircall_oauth.deliveries.brokers")


def _broker_url(resources: Resources, subscription: Subscription) -> str:
    assert subscription.url_sealed is not None
    return resources.vault.open(subscription.url_sealed, Place(URL_COLUMN, subscription.id)).get_secret_value()


def _hosts(kind: SubscriptionKind, url: str) -> list[tuple[str, int]]:
    return [
        (server["host"].strip("[]"), int(server["port"][1:] or USUAL_PORTS[kind])) for server in _servers(kind, url)
    ]


def _servers(kind: SubscriptionKind, url: str) -> list[re.Match[str]]:
    found = [SERVER.fullmatch(text) for text in url.split(",")]
    servers = [server for server in found if server is not None]
    schemes = {server["scheme"] for server in servers[1:]}
    if len(servers) < len(found) or servers[0]["scheme"] not in SCHEMES[kind] or schemes - SCHEMES[kind] - {""}:
        raise DestinationRefused(f"The address must look like {FORMS[kind]}.")
    return servers


def _keys(resources: Resources, subscription: Subscription) -> Callable[[], Sequence[bytes]]:
    """The keys that sign at the moment: the secret's, and for a day the one's before it."""
    places = (
        (subscription.secret_sealed, SECRET_COLUMN, None),
        (subscription.old_secret_sealed, OLD_SECRET_COLUMN, subscription.old_secret_until),
    )
    opened: list[tuple[bytes, datetime | None]] = [
        (signatures.key_of(resources.vault.open(sealed, Place(column, subscription.id))), until)
        for sealed, column, until in places
        if sealed is not None
    ]
    return lambda: [key for key, until in opened if until is None or until > now()]
