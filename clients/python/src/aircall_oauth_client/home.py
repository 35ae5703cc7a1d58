"""What came of a customer's connection, and the page that says so."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from aircall_oauth_client.models import Installation

PATH = "/aircall"


@dataclass(frozen=True)
class Home:
    """`installation` is what is connected; if it is None, `error` says why, in one word of the service's.

    `attempt` is the reference that support asks for; `reload` means that the same address is worth another try.
    """

    installation: Installation | None
    error: str = ""
    attempt: str = ""
    reload: bool = False

    @property
    def status(self) -> int:
        """The HTTP status of a page about it."""
        return 200 if self.installation else 503 if self.reload else 409

    @property
    def text(self) -> str:
        if self.installation is not None:
            return f"{self.installation['company_name'] or 'Your company'} is connected to Aircall."
        if self.reload:
            return "This did not work right now. Please reload this page."
        said = "was declined" if self.error == "declined" else "did not work"
        reference = f" Reference for our support: {self.attempt}." if self.attempt else ""
        return f"Connecting to Aircall {said} ({self.error}). Please start again from your settings.{reference}"

    def page(self) -> str:
        """Return a plain page, for until you have one of your own."""
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            '<meta name="viewport" content="width=device-width"><title>Aircall</title>'
            f'<p style="font: 1.1rem/1.5 sans-serif; margin: 3rem auto; max-width: 32rem">{escape(self.text)}</p>'
        )
