"""What takes events in: opened before everything else that `serve` does, and closed after it."""

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
async def receiving(resources: Resources, receiver: Receiver) -> AsyncIterator[Inbox]:
    """Open an inbox for a receiver while the block lasts."""
    async with (
        figures.kept(resources),
        open_inbox(resources.database, resources.metrics, resources.commits, keys=resources.data_keys) as inbox,
        watch_troubles(resources.database) as troubles,
    ):
        receiver.open(resources, inbox, troubles)
        resources.metrics.expect_acks(UNWELCOME)
        resources.metrics.acts_as(Role.WEB)
        yield inbox
