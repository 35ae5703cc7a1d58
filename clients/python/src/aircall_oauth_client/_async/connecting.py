"""A customer's way to Aircall and home again: the link, and what the browser comes home with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aircall_oauth_client import errors
from aircall_oauth_client.home import Home

if TYPE_CHECKING:
    from aircall_oauth_client._async.client import AsyncClient


async def way_home(client: AsyncClient, owner: str, *, claim: str = "", error: str = "", attempt: str = "") -> Home:
    """Say what came of a customer's connection, from the query that the browser came home with.

    Right for a reload and the back button too: without a claim that is still good, it is what is connected that counts.
    """
    if error:
        return Home(None, error=error, attempt=attempt)
    if claim:
        try:
            return Home(await client.claims.claim(claim, owner))
        except errors.ClaimNotFound:
            pass
        except (errors.ConnectionLost, errors.Unavailable, errors.TooManyRequests):
            return Home(None, error="try_again", attempt=attempt, reload=True)
        except errors.ServiceError as refused:
            return Home(None, error=refused.code, attempt=attempt)
    active = [one async for one in client.installations.list(owner=owner, status="active")]
    if active:
        # An owner may have several companies: the one that came last is what this browser has just connected.
        return Home(max(active, key=lambda one: one["connected_at"]))
    return Home(None, error="not_connected", attempt=attempt)
