"""What all broker connections share: one word for each failure of the network, verified TLS, silent clients."""

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
    """Return one word for an error: the first of `words` that fits, else the word for what the network did."""
    for kind, word in words.items():
        if isinstance(error, kind):
            return word
    return _network_reason(error)


def _network_reason(error: BaseException | None) -> str:
    # The clients wrap errors in their own, so the causes are read too.
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
    """Return the word for an error's number. If a name has several addresses, the numbers are only in the text."""
    numbers = (
        [error.errno]
        if isinstance(error, OSError) and error.errno
        else map(int, re.findall(r"\[Errno (\d+)\]", str(error)))
    )
    return next((WORDS[number] for number in numbers if number in WORDS), None)


def tls() -> ssl.SSLContext:
    """Verify certificates against the system's authorities, or those in the file that `SSL_CERT_FILE` names."""
    return trust()


def silence(*loggers: str) -> None:
    """Silence clients, which log addresses, bodies and a line for each attempt. The outcome says what went wrong."""
    for name in loggers:
        logging.getLogger(name).setLevel(SILENT)
