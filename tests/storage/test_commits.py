"""What a process commits is told inside it at once, and announced to the others."""

import asyncio

from aircall_oauth.events import notify
from aircall_oauth.events.notify import open_notifier
from aircall_oauth.storage.commits import Commits
from tests.support.service import Service


async def test_a_commit_wakes_the_readers_of_its_own_process_without_the_database(service: Service) -> None:
    commits = Commits()
    async with service.database_away(), open_notifier(service.resources.database, told_by=commits) as notifier:
        growth = notifier.next_growth()

        commits.note(1)

        assert growth.is_set()


async def test_it_is_announced_to_other_processes_and_once_only_where_it_came_from(service: Service) -> None:
    commits, database = Commits(), service.resources.database
    async with (
        open_notifier(database, announces=commits),
        open_notifier(database, told_by=commits) as here,
        open_notifier(database) as elsewhere,
    ):
        await _settled(here.next_growth(), elsewhere.next_growth())
        there = elsewhere.next_growth()

        commits.note(1)
        after_it = here.next_growth()

        assert await notify.wait_for(there, 5.0)
        assert not after_it.is_set()


async def test_events_are_counted_until_they_are_announced() -> None:
    commits = Commits()

    commits.note(3)
    commits.note(4)

    assert [await commits.next(1.0), await commits.next(0.01)] == [7, 0]


async def _settled(*growths: asyncio.Event) -> None:
    """Wait until each notifier has learned the log's newest position: what wakes afterwards was announced."""
    for growth in growths:
        assert await notify.wait_for(growth, 5.0)
