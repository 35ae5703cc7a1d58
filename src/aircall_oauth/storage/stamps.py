"""An id for a new row, that sorts by time, and the present time."""

from datetime import UTC, datetime

from uuid_utils import uuid7


def new_id(kind: str) -> str:
    """Make an id that sorts by time, with the kind of its object in front: `ins_0198…`."""
    return f"{kind}_{uuid7().hex}"


def now() -> datetime:
    return datetime.now(UTC)
