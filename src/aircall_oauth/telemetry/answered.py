"""What is counted and logged of an answered event."""

from typing import NamedTuple


class Answered(NamedTuple):
    """The answer to one event; status 0 where the sender hung up, `answer` its outcome or the error's code."""

    status: int
    answer: str
    seconds: float
    request_id: str
