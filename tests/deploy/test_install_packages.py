"""Setting up says how far it is, through a pipe and on a terminal, and keeps pip's errors and exit code.

uv installs where it can, with what pip's settings say of where packages come from.
"""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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
UV_SAID = [
    "Using Python 3.11.7 environment at: /a/folder/of/this/machine",
    "Resolved 25 packages in 1.42s",
    *(f"Downloading package-{number} (30.1MiB)" for number in range(1, 13)),
    " Downloaded package-3",
    "Prepared 25 packages in 4.31s",
    "Installed 25 packages in 212ms",
    " + package-1==1.0",
    "error: Failed to fetch: `https://user:c4n4ry@index.example/simple/package-1/`",
    "  Caused by: no space left",
]
PYTHON = """\
import json, os, pathlib, sys, time
places, uv_code, settings = pathlib.Path({places!r}), {uv_code}, {settings!r}
match sys.argv[1:]:
    case ["-c", _]:
        print(places)
    case ["-m", "uv", "--version"]:
        sys.exit(uv_code is None)
    case ["-m", "pip", *_, "config", "list"]:
        if settings is None:
            os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
        print(settings)
        sys.exit(settings == "unreadable")
    case ["-m", "uv", *command]:
        told = {{name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_"))}}
        (places / "uv.json").write_text(json.dumps([command, told]))
        for line in {uv_said!r}:
            print(line, file=sys.stderr)
        sys.exit(uv_code)
    case [*_, lock] if lock == "requirements-pip.lock":
        (places / "pip is up to date").touch()
    case _:
        (places / "pip").touch()
        for line in {said!r}:
            print(line)
            if line.startswith("Installing"):
                for name in {names!r}:
                    (places / (name + "-1.0.dist-info")).mkdir()
                while {waits} and not (places / "go-on").exists():
                    time.sleep(0.05)
        sys.stderr.write({errors!r})
        sys.exit({code})
"""


def installing(
    folder: Path,
    said: list[str],
    *,
    waits: bool = False,
    errors: str = "",
    code: int = 0,
    uv_code: int | None = None,
    settings: str | None = "",
) -> list[str]:
    """Return the install command, with a fake Python whose pip prints `said` and waits at its end for `places/go-on`.

    Its uv ends with `uv_code`; there is none where that is None. Its pip has these settings, or where they are None
    those that the real pip lists.
    """
    (folder / "places").mkdir()
    told = {"said": said, "names": NAMES, "places": str(folder / "places"), "waits": waits}
    uv = {"uv_said": UV_SAID, "uv_code": uv_code, "settings": settings}
    (folder / "fake.py").write_text(PYTHON.format(**told, **uv, errors=errors, code=code))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "fake.py"} "$@"\n')
    python.chmod(0o755)
    lock = folder / "requirements.lock"
    lock.write_text("".join(f"{name}==1.0 \\\n    --hash=sha256:00\n" for name in [*NAMES, "colorama"]))
    return ["sh", str(SCRIPT), str(python), str(lock), "requirements-pip.lock"]


def run(command: list[str], **exported: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **exported}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def told_to_uv(folder: Path) -> tuple[list[str], dict[str, str]]:
    command, its_environment = json.loads((folder / "places" / "uv.json").read_text())
    return command, its_environment


def test_uv_installs_the_lock_into_that_environment(tmp_path: Path) -> None:
    ended = run(installing(tmp_path, SAID, uv_code=0))

    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "  packages: uv starts …",
        "  packages: downloading package-10 (30.1MiB)",
        "  packages: installing …",
        "  packages: ready",
    ]
    assert not (tmp_path / "places" / "pip").exists()
    command, its_environment = told_to_uv(tmp_path)
    places = ["--python", f"{tmp_path}/python", "-r", f"{tmp_path}/requirements.lock"]
    assert sorted(command) == sorted(["pip", "install", "--no-config", "--no-deps", "--require-hashes", *places])
    assert its_environment == {"UV_SYSTEM_CERTS": "true", "UV_LINK_MODE": "copy"}


def test_pip_installs_what_uv_can_not_and_is_brought_up_to_date_first(tmp_path: Path) -> None:
    ended = run(installing(tmp_path, SAID, uv_code=2))

    assert ended.returncode == 0
    assert ended.stderr.splitlines() == ["  uv: error: Failed to fetch: `…", "  uv:   Caused by: no space left"]
    assert "  packages: uv can't install them here, so pip does" in ended.stdout.splitlines()
    assert ended.stdout.endswith("  packages: ready\n")
    assert (tmp_path / "places" / "pip is up to date").exists()


def test_a_pip_that_can_not_be_brought_up_to_date_ends_it(tmp_path: Path) -> None:
    command = installing(tmp_path, SAID, code=23)
    command[-1] = "another.lock"

    assert run(command).returncode == 23


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("global.timeout='180'\nglobal.disable-pip-version-check='1'", {}),
        ("global.index-url='https://one.example/simple'", {"UV_DEFAULT_INDEX": "https://one.example/simple"}),
        ("install.index-url='https://two.example/?a=b'", {"UV_DEFAULT_INDEX": "https://two.example/?a=b"}),
        (
            ":env:.index-url='https://a.example/'\nglobal.index-url='https://a.example/'",
            {"UV_DEFAULT_INDEX": "https://a.example/"},
        ),
        ("download.index-url='https://one.example/'", {}),
        (":env:.find-links='/no/such/folder'", {}),
        (f":env:.find-links='{SCRIPT.parent}'", {"UV_FIND_LINKS": str(SCRIPT.parent)}),
        (f"global.cert='{SCRIPT}'", {"SSL_CERT_FILE": str(SCRIPT)}),
    ],
)
def test_uv_is_told_what_pips_settings_say_and_nothing_else(
    settings: str, told: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = dict.fromkeys(("UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL"), "https://elsewhere.example/")
    own = {"UV_CACHE_DIR": "/a/cache", "UV_LINK_MODE": "symlink"}

    run(installing(tmp_path, SAID, uv_code=0, settings=settings), **elsewhere, UV_FIND_LINKS="/elsewhere", **own)

    assert told_to_uv(tmp_path)[1] == {"UV_SYSTEM_CERTS": "true", **own, **told}


@pytest.mark.parametrize(
    "settings",
    [
        "unreadable",
        "global.extra-index-url='https://two.example/'",
        ":env:.no-index='1'",
        ":env:.pypi-url='https://one.example/'",
        ":env:.index-url=''",
        "global.index-url='https://one.example/'\nglobal.index-url='https://two.example/'",
        ":env:.index-url='https://one.example/'\ninstall.index-url='https://two.example/'",
        "global.proxy='http://proxy.example'",
        "global.client-cert='/a/certificate'",
        "global.cert='/no/such/certificate'",
        "global.find-links='https://one.example/'",
        f"global.find-links='{SCRIPT.parent} {SCRIPT.parent}'",
        f"global.find-links='\\n{SCRIPT.parent}'",
        "install.trusted-host='one.example'",
        "install.no-binary=':all:'",
        "install.constraint='a file'",
        "global.keyring-provider='subprocess'",
    ],
)
def test_pip_installs_where_it_has_other_settings(settings: str, tmp_path: Path) -> None:
    ended = run(installing(tmp_path, SAID, uv_code=0, settings=settings))

    assert ended.returncode == 0
    assert (tmp_path / "places" / "pip").exists()
    assert not (tmp_path / "places" / "uv.json").exists()


@pytest.mark.parametrize("quiet", ["", "quiet = 1\n"])
def test_the_settings_are_read_as_the_real_pip_lists_them(quiet: str, tmp_path: Path) -> None:
    index = "https://user:pass%20word@one.example/it's/simple"
    (tmp_path / "pip.conf").write_text(f"[global]\n{quiet}index-url = {index}\n[download]\nno-index = 1\n")
    own = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path), "PIP_TIMEOUT": "7", "PIP_QUIET": "1"}

    run(installing(tmp_path, SAID, uv_code=0, settings=None), **own)

    assert told_to_uv(tmp_path)[1]["UV_DEFAULT_INDEX"] == index


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

    ended = run(command)

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
