"""What all lines need to know about networks: one word for each way to fail, verified TLS, and silent clients."""

import errno
import logging
import re
import socket
import ssl
from collections.abc import Mapping

from aircall_oauth.deliveries.destinations.addresses import AddressBlocked
from aircall_oauth.deliveries.destinations.brokers.intake import Flooded
from aircall_oauth.http_client import tls_reason, trust

SILENT = logging.CRITICAL + 1
WORDS = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


def reason(error: BaseException, words: Mapping[type[BaseException], str]) -> str:
    """One word for an error: a client's own where `words` has it (the first that fits), else what the network did."""
    for kind, word in words.items():
        if isinstance(error, kind):
            return word
    return _network_reason(error)


def _network_reason(error: BaseException | None) -> str:
    # The clients wrap what happened in errors of their own, so causes are read too.
    while error is not None:
        if word := _word(error):
            return word
        error = error.__cause__
    return "failed"


def _word(error: BaseException) -> str | None:
    word = None
    match error:
        case AddressBlocked():
            word = "blocked_address"
        case Flooded():
            word = "flood"
        case ssl.SSLError():
            word = tls_reason(error)
        case socket.gaierror():
            word = "dns"
        case TimeoutError():
            word = "timeout"
        case OSError() | EOFError():
            word = _word_of_number(error) or ("reset" if error.__cause__ is None else None)
    return word


def _word_of_number(error: OSError | EOFError) -> str | None:
    """By number; where a name has several addresses, the numbers stand in the text only."""
    numbers = (
        [error.errno]
        if isinstance(error, OSError) and error.errno
        else map(int, re.findall(r"\[Errno (\d+)\]", str(error)))
    )
    return next((WORDS[number] for number in numbers if number in WORDS), None)


def tls() -> ssl.SSLContext:
    """Verified against the system's authorities, or those that `SSL_CERT_FILE` names."""
    return trust()


def silence(*loggers: str) -> None:
    """The clients log addresses, bodies and a line per attempt; what went wrong is told by the outcome."""
    for name in loggers:
        logging.getLogger(name).setLevel(SILENT)
