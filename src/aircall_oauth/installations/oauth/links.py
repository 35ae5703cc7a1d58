"""Install links: the partner's page sends an admin to Aircall with one, and it says for which owner.

A link is sealed and not stored. It works for thirty minutes, and once: the first flow that comes back from Aircall with
a code uses it up (`flow.finish_install`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import msgspec
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import InvalidRequest, LinkExpired, LinkInvalid, OwnerNotAllowed, SealError
from aircall_oauth.installations.attempts import recording
from aircall_oauth.installations.attempts.recording import Attempt
from aircall_oauth.resources import Resources
from aircall_oauth.settings import ANY_LOCAL
from aircall_oauth.storage.stamps import new_id
from aircall_oauth.storage.vault import Vault

LIFETIME = timedelta(minutes=30)
PURPOSE = "install-link"


class Link(msgspec.Struct, frozen=True, array_like=True):
    """The content of an install link."""

    id: str | None
    owner: str | None
    expires_at: int
    return_to: str | None = None


NO_LINK = Link(None, None, 0)


@dataclass(frozen=True)
class InstallLink:
    """A link to hand to an admin's browser."""

    url: str
    expires_at: datetime
    attempt_id: str
    reference: str


async def make_link(
    resources: Resources,
    key: Caller,
    who: Who,
    *,
    owner: str,
    return_to: str | None = None,
    link_id: str | None = None,
) -> InstallLink:
    """Make a link for an owner. Without `return_to`, it ends at the first of `AIRCALL_OAUTH_RETURN_URLS`.

    With a `link_id`, a repeat returns the same link, which still works once.

    Raises `OwnerNotAllowed` for another owner's API key, `InvalidRequest` for an address that is not on the list.
    """
    if not key.may_act_for(owner):
        raise OwnerNotAllowed
    if return_to is not None and not resources.settings.may_return_to(return_to):
        raise InvalidRequest("body.return_to: is not one of AIRCALL_OAUTH_RETURN_URLS")
    expires_at = int(time.time() + LIFETIME.total_seconds())
    home = return_to or default_return(resources.settings.return_urls)
    async with resources.database.session() as session:
        content = Link(link_id, owner, expires_at, home)
        link, attempt_id, reference, is_new = await _link(session, resources.vault, content)
        if is_new:
            details = {"link_id": link.id, "attempt": reference}
            await audit.record(session, who, Action.INSTALL_LINK_MADE, owner=owner, details=details)
    sealed = resources.vault.seal_message(msgspec.json.encode(link), PURPOSE)
    door = f"{resources.settings.public_url}/aircall/oauth/install"
    url = f"{door}?{urlencode({'link': sealed})}"
    return InstallLink(url, datetime.fromtimestamp(expires_at, UTC), attempt_id, reference)


async def _link(session: AsyncSession, vault: Vault, content: Link) -> tuple[Link, str, str, bool]:
    """Give a link an id, if it has none, and its install attempt a row.

    Returns the link, the attempt's id and reference, and whether it is new: false where a link of this id was made.
    """
    link = content
    while True:
        link = msgspec.structs.replace(link, id=link.id or new_id("lnk"))
        attempt = Attempt(recording.reference_of(vault, str(link.id)), link.id, link.owner, link.return_to)
        if (attempt_id := await recording.make(session, attempt)) is not None:
            return link, attempt_id, attempt.reference, True
        if (attempt_id := await recording.made_by(session, str(link.id))) is not None:
            return link, attempt_id, attempt.reference, False
        link = msgspec.structs.replace(link, id=None)


def read_link(vault: Vault, sealed: str) -> Link:
    """Open a link, however old it is. Raises `LinkInvalid`."""
    try:
        return msgspec.json.decode(vault.open_message(sealed, PURPOSE), type=Link)
    except (SealError, msgspec.DecodeError):
        raise LinkInvalid from None


def open_link(vault: Vault, sealed: str) -> Link:
    """Open a link. Raises `LinkInvalid` or `LinkExpired`."""
    link = read_link(vault, sealed)
    if link.expires_at < time.time():
        raise LinkExpired
    return link


def default_return(return_urls: Sequence[str]) -> str | None:
    """Return the default address that a claim is carried to: the first on the list."""
    return next((url for url in return_urls if url != ANY_LOCAL), None)
