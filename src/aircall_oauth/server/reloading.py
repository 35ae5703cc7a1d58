"""Reading the settings again on SIGHUP: secrets that have changed in their files count without a restart."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aircall_oauth.errors import DatabaseAway, KeyServiceFailed, KeysUnfit, SettingsInvalid
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

logger = log.get(__name__)


@asynccontextmanager
async def reloading(resources: Resources) -> AsyncIterator[None]:
    """Read the settings again whenever SIGHUP comes; not in a terminal, where it means that the terminal is gone."""
    if _in_a_terminal():
        yield
        return
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, received.set)
    task = asyncio.create_task(_reload_when(received, resources))
    try:
        yield
    finally:
        # Ignored rather than back to its default: one that comes while the process stops must not cut that short.
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _reload_when(received: asyncio.Event, resources: Resources) -> None:
    while True:
        await received.wait()
        received.clear()
        await reload(resources)


async def reload(resources: Resources) -> None:
    """Read the settings again and use the secrets that have changed; log what was taken, or why nothing was."""
    try:
        fresh = Settings.load()
        before = resources.settings
        taken = await resources.take_secrets(fresh)
    except SettingsInvalid as error:
        logger.error("settings not taken", problems=error.problems)
    except (KeysUnfit, KeyServiceFailed, DatabaseAway) as error:
        logger.error("settings not taken", problems=[error.detail])
    else:
        changed = [name for name in Settings.model_fields if getattr(fresh, name) != getattr(before, name)]
        logger.info("settings read again", taken=taken, need_a_restart=sorted(set(changed) - set(taken)))


def _in_a_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and os.getpid() != 1
