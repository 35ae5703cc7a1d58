"""What is told of each retry: a line of the log, in place of stamina's own, which shows a function's arguments."""

from functools import partial

import stamina.instrumentation
from stamina.instrumentation import RetryDetails

from aircall_oauth.telemetry import log

logger = log.get(__name__)


def log_at(level: int) -> None:
    """Log retries at this level of `logging`.

    A command, which is `DEBUG`, says in the end what failed; what it tries meanwhile would only hide that.
    """
    stamina.instrumentation.set_on_retry_hooks([partial(_log, level)])


def _log(level: int, retry: RetryDetails) -> None:
    cause = retry.caused_by
    why = str(cause) or type(cause).__name__
    logger.log(level, "trying again", reason=why, retry=retry.retry_num, wait_seconds=round(retry.wait_for, 2))
