"""Programs that some tests need: a missing one fails in CI, and skips elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

CI_GROUP = "the ci dependency group"


def tool(name: str, *, found_in: str = CI_GROUP) -> str:
    """The path of a program beside this Python or on PATH."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not found:
        miss(f"{name} is not installed (it is in {found_in})")
    return found


def miss(reason: str) -> NoReturn:
    """End a test for which something is missing: a failure in CI, a skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path, seconds: float = 60) -> str:
    """What a program printed; fails with what it said where it exits with another code than 0."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{command[0]} said:\n{done.stdout}{done.stderr}"
    return done.stdout
