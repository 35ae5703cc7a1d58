"""A worker is killed with `kill -9` at every step of every chore, and the next one finds nothing half done."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stamina

from aircall_oauth.sandbox.aircall import PretendAircall
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.server.worker import CHORES
from aircall_oauth.settings import Settings
from tests.support.databases import copy_database, looking, migrated_database
from tests.support.gates import Gate
from tests.support.killing import Stage, same_again, stage
from tests.support.scenes import SCENES, Scene
from tests.support.service import run_service, settings_for
from tests.support.snapshots import Picture, differences, known_values, picture

EVENTS = "SELECT coalesce(array_agg(type ORDER BY position), '{}') FROM event"
# What has not come to its end by then never does.
MOST_RUNS = 8


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@dataclass
class Play:
    """A scene that can be played again and again."""

    scene: Scene
    server: Postgres
    settings: Settings
    arranged: PretendAircall
    known: set[Any]
    stage: Stage

    async def set_up(self) -> None:
        await copy_database(self.server, "stage", of="scene")
        self.stage.aircall = same_again(self.arranged, self.settings)

    async def perform(self, *, kill_before: int | None = None) -> Gate:
        """A worker does the chore once, and is killed before its n-th step, if it gets there."""
        scene = self.scene
        return await self.stage.perform(
            scene.chore, kill_before=kill_before, once_open=scene.once_open, counts_reads=scene.only_reads
        )

    async def finish(self) -> None:
        """Time goes by, and other workers do the chore, until nothing is left to do for it."""
        for _ in range(MOST_RUNS):
            await self.stage.sql(self.scene.later)
            self.stage.aircall = same_again(self.stage.aircall, self.settings)
            await self.stage.go_on(self.scene.chore)
            if not await self.stage.ask(self.scene.left):
                return
        pytest.fail("the chore never comes to its end")

    async def look(self) -> Picture:
        async with looking(self.stage.database_url) as connection:
            seen = await picture(connection, self.stage.aircall, self.settings, self.known)
        return seen | {"times": [(await self.stage.ask(self.scene.shows),)]}


@asynccontextmanager
async def playing(scene: Scene, server: Postgres, folder: Path) -> AsyncIterator[Play]:
    """The scene is arranged: in a database that is copied for each performance, and at an Aircall."""
    async with migrated_database(server, "scene") as scene_url, migrated_database(server, "stage") as stage_url:
        settings = settings_for(scene_url, **scene.settings)
        async with run_service(settings) as service:
            await scene.arrange(service)
        async with looking(scene_url) as connection:
            known = await known_values(connection, service.aircall)
        async with stage(stage_url, service.aircall, folder, **scene.settings) as its_stage:
            yield Play(scene, server, settings, service.aircall, known, its_stage)


@pytest.mark.slow
def test_every_chore_has_a_scene() -> None:
    assert [chore.name for chore in CHORES] == list(dict.fromkeys(scene.chore for scene in SCENES))


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, ids=str)
async def test_a_chore_killed_at_any_step_leaves_nothing_half_done(
    scene: Scene, postgres: Postgres, tmp_path: Path
) -> None:
    async with playing(scene, postgres, tmp_path) as play:
        await play.set_up()
        begin, events = await play.look(), await play.stage.ask(EVENTS)
        undisturbed = await play.perform()
        await play.finish()
        end, told = await play.look(), (await play.stage.ask(EVENTS))[len(events) :]

        assert undisturbed.steps, "there is nothing to do in this scene"
        assert bool(differences(begin, end)) is scene.changes
        assert told == list(scene.tells)
        for step in range(1, len(undisturbed.steps) + 1):
            await play.set_up()
            gate = await play.perform(kill_before=step)
            await play.finish()
            assert differences(end, await play.look()) == {}, f"killed before step {step}: {gate.steps[-1]}"
