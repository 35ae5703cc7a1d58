"""The secret of a subscription, kept in a file beside an app that has no better place for it."""

from __future__ import annotations

import json
from pathlib import Path


def read(file: str, subscription_id: str) -> str | None:
    """Return the secret that is kept for this subscription; None if there is none, or another one's."""
    try:
        kept = json.loads(Path(file).read_text())
    except (FileNotFoundError, ValueError):
        return None
    secret = kept.get(subscription_id) if isinstance(kept, dict) else None
    return secret if isinstance(secret, str) else None


def write(file: str, subscription_id: str, secret: str) -> None:
    """Keep it, for this user of the machine only: all of it, or what was there before."""
    new = Path(f"{file}.new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({subscription_id: secret}))
    new.replace(file)
