"""What can be changed while the pretend Aircall runs: undocumented behaviour, and limits that tests want lower."""

from dataclasses import dataclass


@dataclass
class Habits:
    rate_per_minute: int = 120
    attempt_pause: float = 2.0  # seconds between the attempts of one delivery; Aircall's spacing is unknown
    disable_after: int = 10  # failures of a webhook in a row
    webhook_timeout: float = 5.0  # seconds
    hide_integration_id: bool = False  # `integrations/me` without `id`, as one transcription shows it
    same_token_again: bool = (
        False  # a company that consents again gets the token it had; what Aircall does is not documented
    )
