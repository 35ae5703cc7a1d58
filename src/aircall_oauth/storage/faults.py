"""Explains errors of PostgreSQL, the network and TLS in one line: what failed, whether it lasts, and what to do.

A fault that lasts is one of configuration: trying again does not help. Nothing secret is repeated: no address, no
password, and none of PostgreSQL's messages that may hold stored values.
"""

import socket
import ssl
from dataclasses import dataclass, replace

import asyncpg

from aircall_oauth.errors import DIRECT_URL

SETTING = "AIRCALL_OAUTH_DATABASE_URL"
# All that the driver raises. An `OSError` counts only where a connection was opened or used.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# Classes of SQLSTATE in which PostgreSQL's message may quote values: data, constraints, errors raised in SQL.
QUOTES_VALUES = ("22", "23", "P0")
LOOK = f"Look at {SETTING}, at the network, and whether PostgreSQL runs."
FILES = (
    f"Let the service's user read it; {SETTING} names the files (sslrootcert, sslcert, sslkey, sslcrl), and without a "
    "name they are looked for in ~/.postgresql of HOME."
)
RIGHTS = (
    f"The user of {SETTING} must own the service's tables and be allowed to create in their schema: as the database's "
    "owner, GRANT CREATE, USAGE ON SCHEMA public TO that user. Or it has what `aircall-oauth migrate --print-grants` "
    "prints (docs/database.md)."
)
PASSWORD = f"Look at the user and the password in {SETTING}."
POOLER = (
    f"A pooler in transaction mode is in between: name the way past it as {DIRECT_URL}, or use a pool in session "
    "mode (docs/operations.md, A pooler in between)."
)
NO_SESSION = (
    f"The pooler has no session for {SETTING}: look whether PostgreSQL runs, and at the pooler's default_pool_size."
)
MORE_CLIENTS = "Raise this setting of the pooler's, or run fewer processes (docs/operations.md, A pooler in between)."
# What a pooler says with the SQLSTATE of a protocol violation, by a word in it.
SAID_BY_POOLERS = {
    "authentication": f"A pooler says so. {PASSWORD[:-1]}, and at what the pooler knows of them.",
    "startup parameter": (
        f"A pooler takes no such parameter: leave it out of {SETTING}, and set it for the role instead "
        "(ALTER ROLE … IN DATABASE … SET …)."
    ),
    "max_client_conn": MORE_CLIENTS,
    "client connections exceeded": MORE_CLIENTS,
    "query_wait_timeout": NO_SESSION,
    "client_login_timeout": NO_SESSION,
    "server_login_retry": NO_SESSION,
    "no such": f"A pooler does not know it: look at {SETTING}, and at the pooler's own list.",
}
TLS = f"Look at sslmode and sslrootcert in {SETTING}, and at the server's certificate."


@dataclass(frozen=True)
class Fault:
    """Why something failed, for the operator; `lasting` if trying again does not help."""

    words: str
    advice: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.words}. {self.advice}" if self.lasting else self.words


# The first entry that fits an error counts.
KNOWN: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, bool], ...] = (
    (asyncpg.InsufficientPrivilegeError, RIGHTS, True),
    (asyncpg.InvalidPasswordError, PASSWORD, True),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        f"Look at the user in {SETTING}, and at the server's pg_hba.conf.",
        True,
    ),
    (asyncpg.InvalidCatalogNameError, f"Create the database, or name another one in {SETTING}.", True),
    (asyncpg.InvalidSchemaNameError, f"Look at the user's search_path, and at options in {SETTING}.", True),
    (
        asyncpg.TooManyConnectionsError,
        "Raise max_connections, or run fewer processes; docs/operations.md says how many each needs.",
        True,
    ),
    ((asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError), "Run `aircall-oauth migrate`.", True),
    (
        asyncpg.DuplicateTableError,
        "Tables of these names are there, and not ours: give the service a database of its own.",
        True,
    ),
    (
        (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError),
        POOLER,
        True,
    ),
    (asyncpg.ReadOnlySQLTransactionError, f"This is a standby: {SETTING} must lead to the primary.", False),
    (asyncpg.TargetServerAttributeNotMatched, f"No host in {SETTING} is what target_session_attrs asks for.", False),
    (
        asyncpg.ClientConfigurationError,
        f"Look at {SETTING}; the authority of the server's certificate is named there as sslrootcert=FILE.",
        True,
    ),
    (ssl.SSLError, TLS, True),
    (socket.gaierror, f"Look at the host's name in {SETTING}.", False),
    (ValueError, f"Look at {SETTING}.", True),
)


def mark_as_of_direct_url(error: BaseException) -> None:
    """Have `explain` name the setting of the direct URL where it names one."""
    error.add_note(DIRECT_URL)


def explain(error: BaseException | None) -> Fault:
    """Return an error of the driver, the network or TLS in words."""
    error = root(error)
    fault = _explained(error)
    if DIRECT_URL in getattr(error, "__notes__", ()):
        return replace(fault, advice=fault.advice.replace(SETTING, DIRECT_URL))
    return fault


def _explained(error: BaseException | None) -> Fault:
    if isinstance(error, FileNotFoundError | PermissionError) and error.filename is not None:
        return Fault(f"{error.strerror}: {error.filename}", FILES, True)
    if isinstance(error, asyncpg.ProtocolViolationError):
        said = str(error)
        advice = next((SAID_BY_POOLERS[it] for it in SAID_BY_POOLERS if it in said), POOLER)
        return Fault(_words(error), advice, advice is not NO_SESSION)
    for kinds, advice, lasting in KNOWN:
        if isinstance(error, kinds):
            return Fault(_words(error), advice, lasting)
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return Fault("the server does not speak TLS", TLS, True)
    return Fault(_words(error), LOOK, False)


def root(error: BaseException | None) -> BaseException | None:
    """Return the driver's own exception, which SQLAlchemy's dialect wraps twice."""
    # A `DBAPIError` by what only that has: SQLAlchemy takes too long to import for asking.
    if not hasattr(error, "connection_invalidated"):
        return error
    wrapped: BaseException | None = getattr(error, "orig", None)
    return wrapped and (wrapped.__cause__ or wrapped)


def _words(error: BaseException | None) -> str:
    """Return an error's first line, without anything secret."""
    name = type(error).__name__
    match error:
        case ssl.SSLCertVerificationError():
            return f"the server's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS fails: {error.reason or name}"
        case asyncpg.PostgresError() if not str(error.sqlstate or "").startswith(QUOTES_VALUES):
            said = error.args[0] if error.args else ""
        case asyncpg.ClientConfigurationError() | asyncpg.TargetServerAttributeNotMatched() | OSError():
            said = str(error)
        case _:
            said = ""
    return (str(said) or name).splitlines()[0]
