"""Base64 with the URL-safe alphabet and without padding (RFC 4648, section 5; RFC 7636, appendix A)."""

import base64


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Return the bytes of a text that `encode` made; raises `ValueError` for any other spelling of them."""
    # Checked by hand: Python's decoder skips what is not of the alphabet, and ignores the last bits.
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encode(raw) != text:
        raise ValueError("not base64url")
    return raw
