"""The console's gate: recognises visitors, by cookie or by an authenticating proxy; refuses other hosts and sites."""

import ipaddress
import re
import secrets
from urllib.parse import urlsplit

import structlog
from fastapi import Request

from aircall_oauth.access.audit import PROXIED, Who
from aircall_oauth.console import sessions
from aircall_oauth.console.visitors import SCOPES, Visitor
from aircall_oauth.errors import CrossSiteRefused, OtherHostRefused, SignInNeeded
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings

# Kept over http://localhost too by browsers that take localhost for a safe place: docs/console.md.
COOKIE = "__Host-aircall-console"
SECRET_HEADER = "x-console-secret"
READING_METHODS = {"GET", "HEAD"}
MOST_OF_A_NAME = 255
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


def resources_of(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def admit(request: Request) -> Visitor:
    """Return the visitor; raises `SignInNeeded`."""
    visitor = await visitor_of(request)
    if visitor is None:
        raise SignInNeeded
    structlog.contextvars.bind_contextvars(actor=visitor.actor)
    return visitor


async def visitor_of(request: Request) -> Visitor | None:
    """Return the person that a cookie or the proxy says; None if neither does."""
    resources = resources_of(request)
    await resources.require_ready()
    cookie = request.cookies.get(COOKIE)
    visitor = None if cookie is None else await sessions.recognise(resources, cookie)
    return visitor or _of_the_proxy(request, resources.settings)


def who(request: Request, actor: str) -> Who:
    """Return the actor for the audit; the address is the socket's, which no header can change."""
    return Who(actor, request.client.host if request.client else "-", request.scope.get("request_id"))


def refuse_other_hosts(request: Request) -> None:
    """Raise `OtherHostRefused` for a name that is not the console's.

    A hostile site may have its own name resolve to this machine, and its pages would then be of one origin with these.
    A browser names the host that its address bar has; an authenticating proxy may name any.
    """
    settings = resources_of(request).settings
    if not _is_own_host(request.headers.get("host", ""), settings) and not _is_the_proxy(request, settings):
        raise OtherHostRefused


def refuse_other_sites(request: Request) -> None:
    """Raise `CrossSiteRefused` for a form that another site's page sent, or that does not say where it is from."""
    if request.method in READING_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    is_own = _is_own(request, request.headers.get("origin")) if site is None else site == "same-origin"
    if not is_own:
        raise CrossSiteRefused


def _is_own(request: Request, origin: str | None) -> bool:
    """Whether an origin is this console's, by the address that the browser asked or the one of the settings."""
    if origin is None or "://" not in origin:
        return False
    address = urlsplit(resources_of(request).settings.console_address)
    return origin == f"{address.scheme}://{address.netloc}" or urlsplit(origin).netloc == request.headers.get("host")


def _is_own_host(host: str, settings: Settings) -> bool:
    """Whether a `Host` is the settings' address, or this machine's own name on any port, as a port-forward has it."""
    found = HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found["name"].strip("[]")
    if name in {"localhost", urlsplit(settings.console_address).hostname}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_the_proxy(request: Request, settings: Settings) -> bool:
    """Whether this is the proxy: from its network, and with its secret."""
    if not settings.console_proxy or request.client is None:
        return False
    told = request.headers.getlist(SECRET_HEADER)
    wanted = settings.console_proxy_secret.get_secret_value()
    if len(told) != 1 or not secrets.compare_digest(told[0].encode(), wanted.encode()):
        return False
    return _is_within(request.client.host, settings.console_proxy)


def _of_the_proxy(request: Request, settings: Settings) -> Visitor | None:
    """Return the person that the proxy names."""
    if not _is_the_proxy(request, settings):
        return None
    names = request.headers.getlist(settings.console_proxy_user_header)
    if len(names) != 1 or not names[0].isprintable() or not 0 < len(names[0].strip()) <= MOST_OF_A_NAME:
        return None
    name = names[0].strip()
    scopes = SCOPES if name in settings.console_proxy_operators else settings.console_proxy_scopes
    return Visitor(f"{PROXIED}{name}", name, frozenset(map(str, scopes)))


def _is_within(host: str, networks: list[str]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(network) for network in networks)
