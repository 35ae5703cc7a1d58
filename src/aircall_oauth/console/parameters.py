"""What addresses and forms of the console hold: ids, times, texts."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, BeforeValidator

from aircall_oauth.access.parameters import ID, TEXT

ATTEMPT = r"^(att_[0-9a-f]{32}|[0-9A-Z]{6,16})$"


def moment_of(text: str) -> datetime:
    """Parse a time as a browser's field writes it, in UTC where it names no zone; raises `ValueError`."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time such as 2026-01-31T08:00, in UTC") from None


def _read(value: object) -> object:
    return moment_of(value) if isinstance(value, str) else value


Time = Annotated[datetime | None, BeforeValidator(_read), Query()]
Text = Annotated[str | None, Query(max_length=255, pattern=TEXT), AfterValidator(lambda text: text and text.strip())]
InstallationId = Annotated[str, Path(pattern=ID)]
AttemptName = Annotated[str, Path(pattern=ATTEMPT)]
