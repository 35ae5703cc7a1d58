"""Setting up says how far it is, through a pipe and on a terminal, and keeps pip's errors and exit code."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install-packages"
NAMES = [f"package-{number}" for number in range(1, 26)]
# As pip says it, an index and a folder of packages in it.
SAID = [
    "Looking in indexes: https://user:c4n4ry@index.example/simple",
    "Looking in links: /a/folder/of/wheels",
    "Ignoring colorama: markers 'sys_platform == \"win32\"' don't match your environment",
    *(
        line
        for name in NAMES
        for line in (
            f"Collecting {name}==1.0 (from -r requirements.lock (line 1))",
            f"  Obtaining dependency information for {name}==1.0 from https://index.example/c4n4ry/{name}.metadata",
            f"  Downloading {name}-1.0-py3-none-any.whl ({'30.1 MB' if name == 'package-13' else '61 kB'})",
        )
    ),
    f"Installing collected packages: {', '.join(NAMES)}",
    f"Successfully installed {' '.join(f'{name}-1.0' for name in NAMES)}",
]
PIP = """\
import pathlib, sys, time
if sys.argv[1] == "-c":
    print({places!r})
else:
    for line in {said!r}:
        print(line)
        if line.startswith("Installing"):
            for name in {names!r}:
                pathlib.Path({places!r}, name + "-1.0.dist-info").mkdir()
            while {waits} and not pathlib.Path({places!r}, "go-on").exists():
                time.sleep(0.05)
    sys.stderr.write({errors!r})
    sys.exit({code})
"""


def installing(folder: Path, said: list[str], *, waits: bool = False, errors: str = "", code: int = 0) -> list[str]:
    """Return the install command, with a fake pip that prints `said` and waits at its end for `places/go-on`."""
    (folder / "places").mkdir()
    told = {"said": said, "names": NAMES, "places": str(folder / "places"), "waits": waits}
    (folder / "pip.py").write_text(PIP.format(**told, errors=errors, code=code))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "pip.py"} "$@"\n')
    python.chmod(0o755)
    lock = folder / "requirements.lock"
    lock.write_text("".join(f"{name}==1.0 \\\n    --hash=sha256:00\n" for name in [*NAMES, "colorama"]))
    return ["sh", str(SCRIPT), str(python), str(lock)]


@pytest.mark.slow
def test_through_a_pipe_it_tells_what_it_does_in_lines(tmp_path: Path) -> None:
    command = installing(tmp_path, SAID, waits=True)

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "25 of 25 installed" in line:
                (tmp_path / "places" / "go-on").touch()

    assert process.returncode == 0
    assert [line for line in lines if not line.endswith(" of 25 installed")] == [
        "  packages: pip starts …",
        "  packages: 10 of 25, now package-10",
        "  packages: 13 of 25, now package-13 (30.1 MB)",
        "  packages: 20 of 25, now package-20",
        "  packages: installing 25 …",
        "  packages: ready",
    ]


def test_on_a_terminal_it_is_one_line_that_fits(tmp_path: Path) -> None:
    command = installing(tmp_path, SAID)
    ours, its = pty.openpty()

    with subprocess.Popen(command, stdout=its, stderr=its, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(its)
        shown = ""
        while part := _read(ours):
            shown += part
    os.close(ours)

    states = [state for state in shown.split("\r\033[K") if state]
    assert process.returncode == 0
    assert shown.count("\n") == 1
    assert states[1] == "  packages: 1 of 25, now package-1\r"
    assert states[-1].strip() == "packages: ready"
    assert max(map(len, states)) < 80
    assert "c4n4ry" not in shown


@pytest.mark.parametrize("stopped_after", [len(SAID) - 1, 5, 0])
def test_pips_errors_are_shown_and_its_exit_code_is_kept(tmp_path: Path, stopped_after: int) -> None:
    errors = "ERROR: No matching distribution found for package-2==1.0\n"
    command = installing(tmp_path, SAID[:stopped_after], errors=errors, code=23)

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (23, errors)
    assert "ready" not in ended.stdout
    assert not (tmp_path / "places" / ".install-began").exists()


def test_make_setup_says_how_far_it_is(tmp_path: Path) -> None:
    installing(tmp_path, SAID)
    (tmp_path / "bin").mkdir()
    (tmp_path / "python").rename(tmp_path / "bin" / "python")
    # As pip does, this one says nothing where it is told to be quiet.
    pip = tmp_path / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\ncase " $* " in *" --quiet "*) ;; *) exec {tmp_path}/bin/python -m pip "$@" ;; esac\n')
    pip.chmod(0o755)
    command = ["make", "setup", f"VENV={tmp_path}"]

    ended = subprocess.run(command, cwd=SCRIPT.parents[1], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^  packages: \d+ of \d+, now package-10$", ended.stdout, re.MULTILINE)


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65_536).decode()
    except OSError:  # as Linux says that the other side is closed
        return ""
