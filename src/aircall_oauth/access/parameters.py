"""Path and body parameters that several endpoints share."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

ID = r"^ins_[0-9a-f]{32}$"
# PostgreSQL has no text with a NUL in it.
TEXT = r"^[^\x00]*$"

InstallationId = Annotated[str, Path(pattern=ID, examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])]

Owner = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        pattern=TEXT,
        description="The partner's own id of whom the installation belongs to",
        examples=["acme"],
    ),
]


def _written_out(moment: object) -> object:
    """A bare number is taken for seconds or milliseconds, whatever was meant, and what came in long ago comes again."""
    if not isinstance(moment, str) or re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", moment) is None:
        raise ValueError("must be written out, such as 2026-01-01T00:00:00Z")
    return moment


def _in_utc(moment: datetime) -> datetime:
    """As PostgreSQL is asked for it: near both ends of the calendar there is none of some zones' moments."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
