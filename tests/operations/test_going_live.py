"""The blocks of `docs/going-live.md`, run with a service that stands where Docker Compose would have put it."""

import base64
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support.documented import DOCS, blocks, shell
from tests.support.quick_commands import quick_commands
from tests.support.service import command_environment, run_service, settings_for
from tests.support.tools import miss

ROOT = DOCS.parent
PAGES = [
    DOCS / f"{name}.md" for name in ("your-first-event", "your-app", "going-live", "aircall-app-listing", "clients")
]
# The container's command line, in place of Docker, which a test does not have.
DOCKER = """#!/bin/sh
case "$*" in
  "compose up --build --detach") test -s docker-compose.yml && test -s .env ;;
  "compose run --rm service "*) shift 4; exec aircall-oauth "$@" ;;
  *) echo "unknown: $*" >&2; exit 1 ;;
esac
"""


@pytest.mark.slow
async def test_the_blocks_make_keys_start_ask_the_doctor_and_list(database_url: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        miss("openssl is not installed")
    for name in (".env.example", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path)
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    environment = command_environment(database_url) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    copying, keys, starting, doctor, shown, creating, installs, events = blocks(DOCS / "going-live.md")

    async with (
        run_service(settings_for(database_url)) as service,
        quick_commands(tmp_path),
        shell(tmp_path, environment) as terminal,
    ):
        await service.installed()
        await terminal.read([copying, keys])
        made = [base64.b64decode(line) for line in terminal.said.split()]
        assert [len(key) for key in made] == [32, 32, 32]
        assert len(set(made)) == 3
        # No service answers at its address here, so the doctor has something to say; what is shown is well.
        await terminal.read([starting, doctor.with_text(doctor.text.replace("doctor", "doctor || true")), shown])
        await terminal.read([creating])
        assert re.search(r"^aok_\S+$", terminal.said, re.MULTILINE), terminal.said
        await terminal.read([installs])
        assert "connected" in terminal.said
        assert "Northwind Demo Ltd" in terminal.said
        await terminal.read([events])
        assert "installation.connected" in terminal.said


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_link_of_the_path_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(target)

    assert broken == []
