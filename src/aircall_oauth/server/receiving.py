"""What the receiver of events works with: `serve` opens it before its application, and closes it after that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aircall_oauth.events.receiver.endpoint import UNWELCOME, Receiver
from aircall_oauth.events.receiver.failures import watch_troubles
from aircall_oauth.events.receiver.inbox import Inbox
from aircall_oauth.events.receiver.writers import open_inbox
from aircall_oauth.operations import figures
from aircall_oauth.resources import Resources
from aircall_oauth.telemetry.metrics import Role


@asynccontextmanager
async def open_receiver(resources: Resources, receiver: Receiver) -> AsyncIterator[Inbox]:
    """Open an inbox for a receiver while the block lasts, and count what the process does as a web server."""
    async with (
        figures.kept(resources),
        open_inbox(resources.database, resources.metrics, resources.commits, keys=resources.data_keys) as inbox,
        watch_troubles(resources.database) as troubles,
    ):
        receiver.open(resources, inbox, troubles)
        resources.metrics.expect_acks(UNWELCOME)
        resources.metrics.acts_as(Role.WEB)
        yield inbox
