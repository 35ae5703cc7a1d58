"""Settings in files: those of the secrets folder, each named like a setting, and those that `…_FILE` variables name."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = "AIRCALL_OAUTH_"
SECRETS_DIR = f"{PREFIX}SECRETS_DIR"
FILE_SUFFIX = "_FILE"
# Far more than any setting needs; the file may be the wrong one.
MOST_BYTES = 256 * 1024


@dataclass(frozen=True)
class InFiles:
    """What files say: the path and text of each setting found in one, and what is wrong with the others.

    The text is None if a file of the secrets folder can't be read or is not UTF-8.
    """

    paths: dict[str, Path] = field(default_factory=dict)  # by setting, as `database_url`
    texts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # settings that a problem is about already


def environment_name(setting: str) -> str:
    """Return the name of a setting's environment variable."""
    return f"{PREFIX}{setting.upper()}"


def is_ours(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def in_files(settings: Iterable[str], secrets: Iterable[str]) -> InFiles:
    """Read the files that the environment names; a variable with a value counts before a file of the secrets folder.

    `secrets` are the settings that may have a `…_FILE` variable.
    """
    found = InFiles()
    environment = {name.upper(): value for name, value in os.environ.items() if is_ours(name)}
    _take_mounted(found, environment, set(settings))
    for setting in secrets:
        _take_named(found, environment, setting)
    return found


def mounted_names() -> list[str]:
    """Return the names of the files in the secrets folder that have our prefix."""
    return [path.name for path in _mounted()]


def text_of(path: Path) -> str | None:
    """Return a file's text without white space around it; None if it is no text, or can't be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return None if len(content) > MOST_BYTES else content.decode().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _mounted() -> Iterator[Path]:
    if folder := os.environ.get(SECRETS_DIR):
        try:
            yield from sorted(path for path in Path(folder).iterdir() if is_ours(path.name))
        except OSError:
            return


def _take_mounted(found: InFiles, environment: Mapping[str, str], settings: set[str]) -> None:
    folder = environment.get(SECRETS_DIR)
    if folder and not (Path(folder).is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        found.problems.append(f"{SECRETS_DIR} does not name a readable folder")
        return
    for path in _mounted():
        setting = path.name.upper().removeprefix(PREFIX).lower()
        if setting in settings and environment_name(setting) not in environment:
            found.paths[setting] = path
            found.texts[setting] = text_of(path)


def _take_named(found: InFiles, environment: Mapping[str, str], setting: str) -> None:
    """Read the file that a `…_FILE` variable names; it counts before one of the secrets folder."""
    variable = environment_name(setting)
    if not (named := environment.get(variable + FILE_SUFFIX)):
        return
    path = Path(named)
    text = text_of(path) if _asked(path.is_file) else None
    if environment.get(variable):
        problem = f"{variable} and {variable}{FILE_SUFFIX} are both set: keep one of them"
    elif not text:
        problem = f"{variable}{FILE_SUFFIX} names {_what_is_wrong(path, text)}"
    else:
        found.paths[setting], found.texts[setting] = path, text
        return
    found.problems.append(problem)
    found.refused.add(setting)


def _what_is_wrong(path: Path, text: str | None) -> str:
    """Say what is wrong with a file, and where it is if that is a path for sure: it may be the secret by mistake."""
    shown = f": {path}" if path.is_absolute() and len(path.parts) > 2 and _asked(path.parent.exists) else ""
    if text is not None:
        return f"an empty file{shown}"
    return f"{'a file that is no readable text' if _asked(path.exists) else 'a file that is not there'}{shown}"


def _asked(question: Callable[[], bool]) -> bool:
    """Answer a question about a path; no, where the text cannot be one, such as a long secret."""
    try:
        return question()
    except (OSError, ValueError):
        return False
