"""Each folder of tests with fixtures of its own can be collected by itself."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(conftest.parent.name for conftest in TESTS.glob("*/conftest.py")))
def test_a_folder_with_fixtures_of_its_own_is_read_alone(folder: str) -> None:
    read = [sys.executable, "-m", "pytest", "-q", "--collect-only", f"tests/{folder}"]

    ended = subprocess.run(read, cwd=TESTS.parent, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout[-2000:]
