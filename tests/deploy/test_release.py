"""A release: two clean clones build the same to the byte, and its tag is the version that is written everywhere."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.support.tools import CI_GROUP, miss, run, tool

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github/workflows/release.yml"
VERSION = version("aircall-oauth")
PACKAGES = {
    f"aircall_oauth-{VERSION}-py3-none-any.whl",
    f"aircall_oauth-{VERSION}.tar.gz",
    f"aircall_oauth_client-{VERSION}-py3-none-any.whl",
    f"aircall_oauth_client-{VERSION}.tar.gz",
}


def clone(folder: Path, umask: int) -> Path:
    """A clean clone of what is committed; its files have the rights that this umask leaves."""
    done = subprocess.run(
        ["git", "clone", "--quiet", "--no-local", str(ROOT), str(folder)], capture_output=True, umask=umask, check=False
    )
    if done.returncode:
        miss(f"git clone: {done.stderr.decode().strip()}")
    return folder


def say(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given |= {"PYTHON": sys.executable, **environment}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.deploy
def test_a_clean_clone_builds_the_same_to_the_byte_wherever_it_is(tmp_path: Path) -> None:
    if find_spec("build") is None or find_spec("cyclonedx_py") is None:
        miss(f"build or cyclonedx-bom is not installed (it is in {CI_GROUP})")
    release, again, moment = (
        tmp_path / "release",
        tmp_path / "again",
        say(ROOT, "git", "log", "-1", "--format=%ct").stdout,
    )
    parts = ("scripts/build-release", str(release), "service", "python", "sbom")
    one = say(clone(tmp_path / "one", 0o022), *parts, SBOM_OPTIONS="--no-validate")
    # Past the source archive, with other rights, at another place and by another clock.
    for project in (elsewhere := clone(tmp_path / "elsewhere", 0o077), elsewhere / "clients/python"):
        hatch = (sys.executable, "-m", "hatchling", "build", "-d", str(again))
        say(project, *hatch, SOURCE_DATE_EPOCH=moment.strip(), TZ="Asia/Tokyo")
    listed = json.loads((release / "aircall-oauth.cdx.json").read_text())

    assert one.returncode == 0, one.stderr
    assert hashes(release).items() >= hashes(again).items()
    assert set(hashes(again)) == PACKAGES
    assert one.stdout == (release / "SHA256SUMS").read_text()
    lock = (ROOT / "requirements.lock").read_text()
    assert {each["name"] for each in listed["components"]} == set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE))
    assert (listed["metadata"]["component"]["name"], listed["bomFormat"]) == ("aircall-oauth", "CycloneDX")
    assert "aircall_oauth/_alembic/env.py" in zipfile.ZipFile(release / min(PACKAGES)).namelist()


@pytest.mark.slow
def test_a_tag_is_released_only_if_it_is_the_version_that_is_written_everywhere(tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone", 0o022)
    unreleased = say(folder, sys.executable, "scripts/release", "check", f"v{VERSION}")

    begun = say(folder, sys.executable, "scripts/release", "begin", "7.8.9")
    finished = say(folder, sys.executable, "scripts/release", "finish")
    checks = {
        tag: say(folder, sys.executable, "scripts/release", "check", tag) for tag in ("v7.8.9", "v7.8.8", "7.8.9")
    }
    notes = say(folder, sys.executable, "scripts/release", "notes")
    elsewhere = (":!*.lock", ":!CHANGELOG.md", ":!tests", ":!deploy/drills")
    left = say(folder, "git", "grep", "-nwF", VERSION, "--", *elsewhere)

    assert begun.returncode + finished.returncode == 0, begun.stderr + finished.stderr
    assert [1, 0, 1, 1] == [unreleased.returncode, *(done.returncode for done in checks.values())]
    assert "pyproject.toml does not say 7.8.8" in checks["v7.8.8"].stderr
    assert notes.stdout.startswith("### Added\n")
    assert left.stdout == ""


@pytest.mark.slow
@pytest.mark.deploy
def test_the_release_workflow_fits_its_schema_and_its_scripts_are_bash() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", WORKFLOW)
    for job in yaml.safe_load(WORKFLOW.read_text())["jobs"].values():
        for step in job["steps"]:
            run("bash", "-n", "-c", step.get("run", ":"))


def test_the_release_workflow_runs_no_action_that_may_change_and_nothing_of_a_fork() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"].partition("@")[2] for step in steps if "uses" in step]

    assert all(len(commit) == 40 and set(commit) <= set("0123456789abcdef") for commit in used)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    assert workflow["permissions"] == {}
    # What comes from outside is not put into a script's text.
    assert not [step["run"] for step in steps if "run" in step and "${{" in step["run"]]
