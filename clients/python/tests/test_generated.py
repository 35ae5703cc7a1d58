"""What is generated is current: the blocking client from the asynchronous one, the types from the API's document."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("script", [HERE / "scripts" / "unasync.py", HERE.parent / "types_from_document.py"])
def test_what_is_generated_is_current(script: Path) -> None:
    ran = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=60)

    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_client_imports_nothing_of_the_service() -> None:
    for path in (HERE / "src").rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not (line.lstrip().startswith(("import", "from")) and "aircall_oauth." in line), path
            assert line.strip() != "import aircall_oauth", path


def test_the_package_needs_httpx_only() -> None:
    known = {"httpx", "aircall_oauth_client", "starlette", "flask", "django"}
    frameworks = {"starlette.py": "starlette", "flask.py": "flask", "django.py": "django"}
    for path in (HERE / "src").rglob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                root = line.split()[1].split(".")[0]
                assert root in sys.stdlib_module_names | known, (path, line)
                if root in {"starlette", "flask", "django"}:
                    assert frameworks.get(path.name) == root, path
