"""Where a broker is, and who we are to it: read out of its URL, which is never shown because it may hold a password."""

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from aircall_oauth.errors import DestinationRefused

Kind = Literal["nats", "rabbitmq", "kafka"]
MAX_URL = 2048
MAX_SERVERS = 20
# The schemes of each kind, and the port where a URL names none.
SCHEMES: dict[Kind, dict[str, int]] = {
    "nats": {"nats": 4222, "tls": 4222},
    "rabbitmq": {"amqp": 5672, "amqps": 5671},
    "kafka": {"plaintext": 9092, "ssl": 9092, "sasl_plaintext": 9092, "sasl_ssl": 9092},
}
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_PARTS = re.compile(
    r"(?:(?P<scheme>[a-z_]+)://)?"
    r"(?:(?P<user>[^\s:@/?#,]*)(?::(?P<password>[^\s:@/?#]*))?@)?"
    r"(?P<servers>[^\s@/?#]+)"
    r"(?:/(?P<path>[^\s/?#]*))?"
    r"(?:\?mechanism=(?P<mechanism>[A-Z0-9-]+))?"
)
# Neither may hold one of these unwritten.
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
    shown: str = ""  # as everybody may see it: as it was written, without user, password and token


def read(kind: Kind, url: str) -> Address:
    """A URL of this kind in its parts, or `DestinationRefused`, which says what is wrong without showing it."""
    parts = _PARTS.fullmatch(_with_one_scheme(url)) if len(url) <= MAX_URL else None
    if parts is None:
        raise DestinationRefused(
            f"The url of a {kind} destination does not read as one; in a user name or password, "
            "the characters : @ / ? # % and , are written as %3A %40 %2F %3F %23 %25 %2C."
        )
    scheme = parts["scheme"] or ("plaintext" if kind == "kafka" else "")
    if scheme not in SCHEMES[kind]:
        raise DestinationRefused(f"The url of a {kind} destination begins with {_listed(SCHEMES[kind])}.")
    address = Address(
        scheme=scheme,
        servers=tuple(_server(text, SCHEMES[kind][scheme]) for text in parts["servers"].split(",")),
        user=_decoded(parts["user"]),
        password=_decoded(parts["password"]),
        path=_decoded(parts["path"]),
        mechanism=parts["mechanism"],
        shown=_CREDENTIALS.sub("", url),
    )
    _refuse_what_does_not_fit(kind, address)
    return address


def _with_one_scheme(url: str) -> str:
    """Some write the scheme before each server: `nats://a,nats://b`."""
    scheme, separator, _ = url.partition("://")
    return url.replace(f",{scheme}://", ",") if separator else url


def _refuse_what_does_not_fit(kind: Kind, address: Address) -> None:
    problem = None
    if len(address.servers) > (1 if kind == "rabbitmq" else MAX_SERVERS):
        problem = "names too many servers"
    elif address.path and kind != "rabbitmq":
        problem = "has no path"
    elif address.mechanism is not None and not address.scheme.startswith("sasl_"):
        problem = "has no ?mechanism= without sasl"
    elif kind == "kafka":
        problem = _what_sasl_lacks(address)
    elif kind == "rabbitmq" and (address.user is None) != (address.password is None):
        problem = "carries a user name and a password, or neither"
    if problem:
        raise DestinationRefused(f"The url of a {kind} destination {problem}.")


def _what_sasl_lacks(address: Address) -> str | None:
    if not address.scheme.startswith("sasl_"):
        return "carries a user name only with sasl_ssl:// or sasl_plaintext://" if address.user is not None else None
    if not address.user or not address.password:
        return f"with {address.scheme}:// carries a user name and a password"
    if address.mechanism not in (None, *SASL_MECHANISMS):
        return f"names a mechanism that is none of {', '.join(SASL_MECHANISMS)}"
    return None


def _server(text: str, default_port: int) -> tuple[str, int]:
    parts = _SERVER.fullmatch(text)
    port = int(parts["port"] or default_port) if parts else 0
    if parts is None or not 0 < port <= 65535:
        raise DestinationRefused("A server is written as host or host:port, several of them separated by commas.")
    return parts["host"].strip("[]"), port


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _listed(schemes: dict[str, int]) -> str:
    return " or ".join(f"{scheme}://" for scheme in schemes)
