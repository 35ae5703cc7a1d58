"""Parses a broker's URL into servers and credentials. It may hold a password, so no message shows it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from aircall_oauth.errors import DestinationRefused

MAX_URL = 2048
MAX_SERVERS = 20
_PARTS = re.compile(
    r"(?:(?P<scheme>[a-z_]+)://)?"
    r"(?:(?P<user>[^\s:@/?#,]*)(?::(?P<password>[^\s:@/?#]*))?@)?"
    r"(?P<servers>[^\s@/?#]+)"
    r"(?:/(?P<path>[^\s/?#]*))?"
    r"(?:\?mechanism=(?P<mechanism>[A-Z0-9-]+))?"
)
# A user name and a password hold these characters percent-encoded only.
_CREDENTIALS = re.compile(r"(?<=//)[^\s@/?#]*@")
_SERVER = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's URL in its parts. `servers` are host and port, an IPv6 host without its brackets."""

    scheme: str
    servers: tuple[tuple[str, int], ...]
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    path: str | None = None
    mechanism: str | None = None
    shown: str = ""  # safe to show: the URL as it was written, without user, password and token


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What the URLs of one kind of broker may look like."""

    schemes: Mapping[str, int]  # each with the port where a URL names none
    default_scheme: str = ""
    max_servers: int = MAX_SERVERS
    may_have_path: bool = False
    problem: Callable[[Address], str | None] = lambda _: None  # what else is wrong, to follow "The url …"


def read(kind: str, rules: AddressRules, url: str) -> Address:
    """Parse a URL. Raises `DestinationRefused`, which says what is wrong without showing the URL."""
    parts = _PARTS.fullmatch(_with_one_scheme(url)) if len(url) <= MAX_URL else None
    if parts is None:
        raise DestinationRefused(
            f"The url of a {kind} destination does not read as one; in a user name or password, "
            "the characters : @ / ? # % and , are written as %3A %40 %2F %3F %23 %25 %2C."
        )
    scheme = parts["scheme"] or rules.default_scheme
    if scheme not in rules.schemes:
        raise DestinationRefused(f"The url of a {kind} destination begins with {_listed(rules.schemes)}.")
    address = Address(
        scheme=scheme,
        servers=tuple(_server(text, rules.schemes[scheme]) for text in parts["servers"].split(",")),
        user=_decoded(parts["user"]),
        password=_decoded(parts["password"]),
        path=_decoded(parts["path"]),
        mechanism=parts["mechanism"],
        shown=_CREDENTIALS.sub("", url),
    )
    if problem := _problem(rules, address):
        raise DestinationRefused(f"The url of a {kind} destination {problem}.")
    return address


def _with_one_scheme(url: str) -> str:
    """Drop a scheme that is repeated before each server, as in `nats://a,nats://b`."""
    scheme, separator, _ = url.partition("://")
    return url.replace(f",{scheme}://", ",") if separator else url


def _problem(rules: AddressRules, address: Address) -> str | None:
    if len(address.servers) > rules.max_servers:
        return "names too many servers"
    if address.path and not rules.may_have_path:
        return "has no path"
    if address.mechanism is not None and not address.scheme.startswith("sasl_"):
        return "has no ?mechanism= without sasl"
    return rules.problem(address)


def _server(text: str, default_port: int) -> tuple[str, int]:
    parts = _SERVER.fullmatch(text)
    port = int(parts["port"] or default_port) if parts else 0
    if parts is None or not 0 < port <= 65535:
        raise DestinationRefused("A server is written as host or host:port, several of them separated by commas.")
    return parts["host"].strip("[]"), port


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _listed(schemes: Mapping[str, int]) -> str:
    return " or ".join(f"{scheme}://" for scheme in schemes)
