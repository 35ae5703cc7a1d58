"""The quick drills, one after the other on two servers: nothing acknowledged is lost, and all comes back by itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.availability.drill import perform
from tests.crash.availability.rows import ROWS
from tests.support.documented import DOCS

# None with a promotion: whether the standby has what was acknowledged depends on how the drill joins it.
QUICK = ("standby-lost", "read-only", "connections-exhausted")
# Seconds are the command's to judge, on a machine that does nothing else.
TIMED = "(5)"


@pytest.mark.slow
async def test_whatever_happens_to_postgresql_no_acknowledged_event_is_lost_and_each_is_delivered(
    tmp_path: Path,
) -> None:
    rows = [replace(ROWS[name], seconds=1.0) for name in QUICK]

    found = await perform(rows, tmp_path, pace=40, calm=0.3)

    assert [] == [promise for promise in found["broken"] if not promise.startswith(TIMED)]
    assert [(0, 0)] * len(rows) == [(one["lost"], one["missing"]) for one in found["figures"]]
    assert all(one["acknowledged"] > 0 for one in found["figures"])


def test_each_row_of_the_page_is_a_drill() -> None:
    page = (DOCS / "high-availability.md").read_text()

    assert [] == [name for name in ROWS if f"`{name}`" not in page]
