"""Generates the tables of settings and metrics in `docs/operations.md`, and `.env.example`.

`python -m aircall_oauth.cli.reference --write` updates both in a checkout; tests check that they are current.
"""

import argparse
import re
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from aircall_oauth.settings import DURATION_UNITS, Settings
from aircall_oauth.storage.secret_files import SECRETS_DIR, environment_name
from aircall_oauth.telemetry.metrics import PREFIX, Measurement, Metrics

ROOT = Path(__file__).parents[3]
OPERATIONS = ROOT / "docs" / "operations.md"
ENV_EXAMPLE = ROOT / ".env.example"
SETTINGS_BLOCK = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)
METRICS_BLOCK = re.compile(r"(?<=<!-- metrics -->\n).*?(?=<!-- /metrics -->)", re.DOTALL)
SECRETS_DIR_MEANING = "folder of mounted files, each named like a setting; the environment goes before them"
COMMENT_WIDTH = 110

ENV_HEAD = """\
# The settings of aircall-oauth. Copy this file to .env and fill in what has no value; a line that begins
# with `# AIRCALL_OAUTH_` shows a default. What is read here is the container's environment (docker compose)
# or your shell's: the service itself looks for no .env file.
#
# A key of 32 random bytes, base64-encoded, for AIRCALL_OAUTH_SECRET_KEYS (after an id of your choice: `k1:`)
# and another one for AIRCALL_OAUTH_FINGERPRINT_KEY:
#
#   openssl rand -base64 32
#   python3 -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'
#
# Lose them and no stored token can be opened again: keep a copy where the database's backups are not.
# A value with a `$` in it goes into single quotes.
#
# A secret may be in a file instead: AIRCALL_OAUTH_CLIENT_SECRET_FILE=/run/secrets/client_secret, and so on.

# For docker compose only: the password of its PostgreSQL. There AIRCALL_OAUTH_DATABASE_URL is set by
# docker-compose.yml, and the one below is not used.
POSTGRES_PASSWORD=
"""


def settings_table() -> str:
    """Return every setting with its default and meaning, as a Markdown table."""
    rows = [("variable", "default", "meaning"), ("---", "---", "---")]
    rows += [(f"`{name}`", _cell(field), _meaning(field)) for name, field in _settings()]
    rows.append((f"`{SECRETS_DIR}`", "empty", SECRETS_DIR_MEANING))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def metrics_table() -> str:
    """Return every metric of ours with its kind and meaning, as a Markdown table."""
    metrics = Metrics()
    metrics.measured(Measurement({}, {}, 0, 0, 0, {}, 0.0, 0.0, 0, 0))
    rows = [("metric", "kind", "meaning"), ("---", "---", "---")]
    for family in metrics.registry.collect():
        if family.name.startswith(PREFIX):
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            rows.append((f"`{name}`", family.type, family.documentation))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def env_example() -> str:
    """Return an environment file with every setting: the required ones blank, the others commented out."""
    blocks = [ENV_HEAD]
    for name, field in _settings():
        line = f"{name}=" if field.is_required() else f"# {name}={_text(field.default)}"
        blocks.append(f"{_comment(_meaning(field))}{line}\n")
    blocks.append(f"{_comment(SECRETS_DIR_MEANING)}# {SECRETS_DIR}=\n")
    return "\n".join(blocks)


def operations_page(page: str) -> str:
    """Return the page with its tables updated."""
    page = SETTINGS_BLOCK.sub(lambda _: settings_table(), page)
    return METRICS_BLOCK.sub(lambda _: metrics_table(), page)


def _settings() -> list[tuple[str, FieldInfo]]:
    return [(environment_name(name), field) for name, field in Settings.model_fields.items()]


def _cell(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    text = _text(field.default)
    return f"`{text}`" if text else "empty"


def _meaning(field: FieldInfo) -> str:
    assert field.description, "every setting says what it is for"
    return field.description


def _text(default: Any) -> str:
    """Return a default as an environment variable would hold it."""
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case timedelta():
            return _duration(default)
        case list():
            return ",".join(map(str, default))
        case _:
            return str(default)


def _duration(length: timedelta) -> str:
    units = reversed(DURATION_UNITS.items())
    return next(f"{length // unit}{letter}" for letter, name in units if not length % (unit := timedelta(**{name: 1})))


def _comment(text: str) -> str:
    sentence = text[0].upper() + text[1:] if text[0].isalpha() else text
    return textwrap.fill(sentence, COMMENT_WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aircall_oauth.cli.reference", description=__doc__)
    parser.add_argument("--write", action="store_true", help="bring docs/operations.md and .env.example up to date")
    if parser.parse_args().write:
        OPERATIONS.write_text(operations_page(OPERATIONS.read_text()))
        ENV_EXAMPLE.write_text(env_example())
    else:
        sys.stdout.write(settings_table())


if __name__ == "__main__":
    main()
