"""What all lines need to know about networks: one word for each way to fail, verified TLS, and silent clients."""

import errno
import logging
import re
import socket
import ssl
from collections.abc import Mapping

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
        match error:
            case ssl.SSLError():
                return "tls"
            case socket.gaierror():
                return "dns"
            case TimeoutError():
                return "timeout"
            case OSError() if word := _word(error):
                return word
            case OSError() | EOFError() if error.__cause__ is None:
                return "reset"
        error = error.__cause__
    return "failed"


def _word(error: OSError) -> str | None:
    """By number; where a name has several addresses, the numbers stand in the text only."""
    numbers = [error.errno] if error.errno else map(int, re.findall(r"\[Errno (\d+)\]", str(error)))
    return next((WORDS[number] for number in numbers if number in WORDS), None)


def tls() -> ssl.SSLContext:
    """Verified against the system's authorities, or those that `SSL_CERT_FILE` names."""
    return ssl.create_default_context()


def silence(*loggers: str) -> None:
    """The clients log addresses, bodies and a line per attempt; what went wrong is told by the outcome."""
    for name in loggers:
        logging.getLogger(name).setLevel(SILENT)
