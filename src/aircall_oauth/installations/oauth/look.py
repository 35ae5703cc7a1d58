"""How the pages of the install flow look, as the partner wants it, and the policy (CSP) they need."""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aircall_oauth.errors import SettingsInvalid
from aircall_oauth.settings import Settings

if TYPE_CHECKING:
    # For annotations only: most processes show no page for long, and Jinja takes a while to import.
    from jinja2 import Environment

PLAIN_ACCENT = "#007a4d"
DARK_INK, LIGHT_INK = "#000000", "#ffffff"
INSTALL_PAGE = "AIRCALL_OAUTH_INSTALL_PAGE"
TRIED_WITH = {"app": "App", "language": "en", "continue_url": "https://example.com/", "reference": None}


@cache
def environment() -> "Environment":
    """Return the environment of our own templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("aircall_oauth.installations.oauth"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _of_the_partner() -> "Environment":
    """Return the environment of the partner's own template, which sees what it is given and nothing else."""
    from jinja2 import DictLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(autoescape=True, undefined=StrictUndefined, loader=DictLoader({}))


@cache
def script() -> str:
    """Return the script of the pages that have one."""
    return environment().get_template("copy.js").render()


@dataclass(frozen=True)
class Look:
    """What every page has: the partner's name, logo and help, the style sheet, and the headers."""

    app_name: str
    logo_url: str
    support: str
    style: str

    @property
    def support_url(self) -> str:
        return f"mailto:{self.support}" if "@" in self.support and "://" not in self.support else self.support

    def headers(self, language: str | None = None, *, scripted: bool = False) -> dict[str, str]:
        """Return the headers of a page in this language; of a redirect without one."""
        spoken = {} if language is None else {"content-language": language, "vary": "Accept-Language"}
        return {
            "cache-control": "no-store",
            "content-security-policy": self._policy(scripted=scripted),
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            **spoken,
        }

    def _policy(self, *, scripted: bool) -> str:
        logo = urlsplit(self.logo_url)
        images = f"img-src {logo.scheme}://{logo.netloc}" if self.logo_url else ""
        allowed = f"script-src {_hash(script())}" if scripted else ""
        bounds = ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")
        parts = ("default-src 'none'", f"style-src {_hash(self.style)}", images, allowed, *bounds)
        return "; ".join(part for part in parts if part)


def of(settings: Settings) -> Look:
    return _look(settings.app_name, settings.logo_url, settings.support, settings.accent)


@cache
def _look(app_name: str, logo_url: str, support: str, accent: str) -> Look:
    accent = accent or PLAIN_ACCENT
    style = environment().get_template("page.css").render(accent=accent, on_accent=ink_on(accent))
    return Look(app_name, logo_url, support, style)


def ink_on(colour: str) -> str:
    """Return black or white, which of them is easier to read on a colour (at least 4.5 to 1, as WCAG asks)."""
    return LIGHT_INK if _luminance(colour) < 0.179 else DARK_INK


def install_page(settings: Settings, language: str, **known: str | None) -> str | None:
    """Render the partner's own part of the page in front of consent; None where there is none.

    `install.html` may have `install.de.html` beside it, which is taken for German.
    """
    if not settings.install_page:
        return None
    return _of_the_partner().from_string(_text_for(settings.install_page, language)).render(language=language, **known)


def require_install_page(settings: Settings) -> None:
    """Raise `SettingsInvalid` where the partner's template can't be read, or not be rendered."""
    if not settings.install_page:
        return
    from jinja2 import TemplateError

    base = Path(settings.install_page)
    for path in (base, *sorted(base.parent.glob(f"{base.stem}.??{base.suffix}"))):
        try:
            _of_the_partner().from_string(path.read_text(encoding="utf-8")).render(TRIED_WITH)
        except (OSError, UnicodeDecodeError):
            raise SettingsInvalid([f"{INSTALL_PAGE} does not name a readable text file"]) from None
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise SettingsInvalid([f"{INSTALL_PAGE}: {path.name} is no template that works ({error})"]) from None


@cache
def _text_for(file: str, language: str) -> str:
    base = Path(file)
    translated = base.with_name(f"{base.stem}.{language}{base.suffix}")
    return (translated if translated.is_file() else base).read_text(encoding="utf-8")


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(part, 16) / 255) for part in re.findall("[0-9a-fA-F]{2}", colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    linear: float = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
    return linear


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
