"""The database's URL: which of libpq's parameters are passed on, which are applied here, and which are refused.

asyncpg sends a parameter that it does not know to the server as a setting. So each parameter of libpq stands in one of
the tables below. A parameter that cannot be honoured is refused when the settings are read, and never dropped.
"""

import os
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

APPLICATION_NAME = "aircall-oauth"
SYSTEM = "system"  # `sslrootcert=system`: the certificates that the machine trusts
PASSED_ON = {
    "application_name",
    "database",
    "dbname",
    "fallback_application_name",
    "gsslib",
    "host",
    "krbsrvname",
    "options",
    "passfile",
    "password",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "user",
}
NUMBERS = {
    "connect_timeout",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "tcp_user_timeout",
}
PORT = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSIONS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
EXPECTED = {
    **dict.fromkeys(NUMBERS, ("-?[0-9]{1,9}", "a number")),
    "port": (f"{PORT}(,{PORT})*", "a port from 1 to 65535"),
    "sslmode": ("|".join(MODES), f"one of {', '.join(MODES)}"),
    "target_session_attrs": ("|".join(SESSIONS), f"one of {', '.join(SESSIONS)}"),
}
# Parameters that may be left out if they have one of these values, which changes nothing.
AS_WE_DO = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "requiressl": ("0",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
INSTEAD = {
    "hostaddr": "write the address as the host",
    "requiressl": "write sslmode=require",
    "servicefile": "set PGSERVICEFILE",
    "sslcrldir": "write sslcrl with one file",
}
# Parameters of libpq that are not supported here; `AS_WE_DO` has more.
NOT_SUPPORTED = {
    "hostaddr",
    "max_protocol_version",
    "min_protocol_version",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "servicefile",
    "sslcrldir",
    "sslkeylogfile",
}
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
SPELLED_OUT = re.compile(r"[a-z][a-z0-9_]{1,39}")
# libpq's names and the operating system's; in seconds, the last one in milliseconds.
TCP_OPTIONS = (
    ("keepalives_idle", "TCP_KEEPIDLE"),
    ("keepalives_interval", "TCP_KEEPINTVL"),
    ("keepalives_count", "TCP_KEEPCNT"),
    ("tcp_user_timeout", "TCP_USER_TIMEOUT"),
)


@dataclass(frozen=True)
class Address:
    """A parsed database URL: what asyncpg is given, and what asyncpg does not know and is applied here."""

    dsn: str
    connect_timeout_seconds: float | None  # per host; None where the URL says nothing
    tcp: Mapping[str, int]  # libpq's names: keepalives…, tcp_user_timeout
    files: tuple[str, ...]  # of certificates and keys
    tls: Callable[[], ssl.SSLContext] | None  # where asyncpg cannot make the context from the URL

    def require_files(self) -> None:
        """Raise `OSError` with the name of the first file of the URL that cannot be read."""
        for path in self.files:
            with Path(path).open("rb"):
                pass

    def tune(self, descriptor: int) -> None:
        """Set the URL's keepalives and timeout on a connected socket."""
        # The event loop's own socket object may refuse options; a copy of the descriptor is the same socket.
        with socket.socket(fileno=os.dup(descriptor)) as connected:
            if connected.family not in {socket.AF_INET, socket.AF_INET6}:
                return
            if "keepalives" in self.tcp:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(self.tcp["keepalives"] != 0))
            for name, option in TCP_OPTIONS:
                # As in libpq, 0 means the system's default, and options that the system lacks are left out.
                if self.tcp.get(name, 0) > 0 and hasattr(socket, option):
                    connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), self.tcp[name])


def read(url: str) -> Address:
    """Check and parse a URL. Raises `ValueError` for a refused parameter, with its name but never its value."""
    parts = urlsplit(url)
    given = {("sslmode" if name == "ssl" else name): value for name, value in _query(parts.query)}
    if problem := next((found for name, value in given.items() if (found := _problem(name, value))), None):
        raise ValueError(problem)
    numbers = {name: int(given.pop(name)) for name in sorted(NUMBERS & given.keys())}
    fallback = given.pop("fallback_application_name", APPLICATION_NAME)
    for name in AS_WE_DO:
        given.pop(name, None)
    trusted = _system_trust(given) if given.get("sslrootcert") == SYSTEM else None
    if trusted is not None:
        given.pop("sslrootcert")
    timeout = numbers.pop("connect_timeout", 0)
    return Address(
        dsn=urlunsplit(parts._replace(query=urlencode({"application_name": fallback, **given}))),
        connect_timeout_seconds=float(timeout) if timeout > 0 else None,
        tcp=numbers,
        files=tuple(given[name] for name in FILES if name in given),
        tls=trusted,
    )


def _query(query: str) -> list[tuple[str, str]]:
    """Decode names and values as libpq does: a plus is a plus. A parameter with an empty value is left out."""
    try:
        pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=True) if query else []
        return [(name, value) for name, value in pairs if value]
    except ValueError:
        raise ValueError("must have parameters like ?sslmode=require&connect_timeout=5") from None


def _problem(name: str, value: str) -> str | None:
    """Return what is wrong with a parameter; None if nothing is."""
    if name in PASSED_ON:
        return None
    if name in EXPECTED:
        pattern, words = EXPECTED[name]
        return None if re.fullmatch(pattern, value) else f"needs {words} as its parameter {name}"
    if name in AS_WE_DO:
        can_be = " or ".join(AS_WE_DO[name])
        return None if value in AS_WE_DO[name] else f"has {name}, which can only be {can_be} here; {_advice(name)}"
    if name in NOT_SUPPORTED:
        return f"has {name}, which is not supported; {_advice(name)}"
    # Not repeated if it does not look like a name: it may be the rest of a password that has a `?` in it.
    shown = name if SPELLED_OUT.fullmatch(name) else "a parameter"
    return f"has {shown}, which libpq does not know; a setting of the server is written options=-c%20name%3Dvalue"


def _advice(name: str) -> str:
    return INSTEAD.get(name, "leave it out")


def _system_trust(given: Mapping[str, str]) -> Callable[[], ssl.SSLContext]:
    """Return the context for `sslrootcert=system`: the machine's certificates, with `verify-full` only, as in libpq."""
    if given.get("sslmode", "verify-full") != "verify-full":
        raise ValueError("needs sslmode=verify-full with sslrootcert=system")
    if "sslcrl" in given or "sslnegotiation" in given:
        raise ValueError("cannot have sslcrl or sslnegotiation with sslrootcert=system; name a file of certificates")
    certificate, key, password = given.get("sslcert"), given.get("sslkey"), given.get("sslpassword", "")
    lowest, highest = (given.get(f"ssl_{end}_protocol_version") for end in ("min", "max"))

    def context() -> ssl.SSLContext:
        trusting = ssl.create_default_context()
        if certificate:
            trusting.load_cert_chain(certificate, keyfile=key, password=password)
        if lowest:
            trusting.minimum_version = ssl.TLSVersion[lowest.replace(".", "_")]
        if highest:
            trusting.maximum_version = ssl.TLSVersion[highest.replace(".", "_")]
        return trusting

    return context
