"""Go on with the checkout's own Python where the one found lacks the service; each drill imports this first."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PYTHON = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "python"

if find_spec("aircall_oauth") is None:
    if not PYTHON.is_file():
        sys.exit(f"{Path(sys.argv[0]).name}: run `make setup` in the checkout first")
    os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606 - our own
