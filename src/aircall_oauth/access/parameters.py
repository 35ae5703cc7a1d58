"""Path and body parameters that several endpoints share."""

from typing import Annotated

from fastapi import Path
from pydantic import Field

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
