"""The acceptance run with few events; the command sends ten thousand, in both modes, and judges seconds, too."""

from pathlib import Path

import pytest

from tests.crash.poolers.acceptance import accept
from tests.crash.poolers.figures import figures
from tests.support.poolers import PGBOUNCER
from tests.support.tools import miss

EVENTS = 300


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_everything_the_service_does_is_done_through_a_pooler(tmp_path: Path) -> None:
    if PGBOUNCER is None:
        miss("pgbouncer is not installed")

    run = await accept("transaction", tmp_path, events=EVENTS, pace=40)

    found = figures(run, EVENTS)
    assert [] == [f"{figure.name}: {figure.value}" for figure in found if figure.is_missed and not figure.is_timed]
