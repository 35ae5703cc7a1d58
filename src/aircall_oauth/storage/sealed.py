"""The columns that hold sealed secrets, and what the secrets are."""

from dataclasses import dataclass

# Where an installation's token is kept sealed, and the purposes of fingerprints.
TOKEN_COLUMN = "installation.token_sealed"
CLAIM_TOKEN_COLUMN = "claim.token_sealed"
DATA_KEY_COLUMN = "data_key.key_sealed"
FAREWELL_TOKEN_COLUMN = "farewell.token_sealed"
TOKEN_PURPOSE = "access-token"
WEBHOOK_TOKEN_PURPOSE = "webhook-token"
API_KEY_PURPOSE = "api-key"
CLAIM_PURPOSE = "claim"
CONSOLE_LINK_PURPOSE = "console-link"
ERASURE_CALL_PURPOSE = "erasure-call"
REDACTION_PURPOSE = "redaction"
REPEAT_PURPOSE = "repeat"
CONSOLE_SESSION_PURPOSE = "console-session"


@dataclass(frozen=True)
class Sealed:
    """A column of sealed secrets, and the column with their fingerprints, if any. The table's key is `id`."""

    table: str
    column: str
    fingerprint: str | None = None
    purpose: str = TOKEN_PURPOSE

    @property
    def place(self) -> str:
        return f"{self.table}.{self.column}"


# All such columns: checked at the start, and sealed anew by a rotation.
SEALED = (
    Sealed("installation", "token_sealed", "token_fingerprint"),
    Sealed("claim", "token_sealed", "token_fingerprint"),
    Sealed("farewell", "token_sealed", "token_fingerprint"),
    Sealed("subscription", "secret_sealed"),
    Sealed("subscription", "old_secret_sealed"),
    Sealed("subscription", "url_sealed"),
    Sealed("erasure", "pattern_sealed"),
    Sealed("data_key", "key_sealed"),
)


# Where a subscription's secrets are kept sealed.
SECRET_COLUMN = "subscription.secret_sealed"
OLD_SECRET_COLUMN = "subscription.old_secret_sealed"
URL_COLUMN = "subscription.url_sealed"
