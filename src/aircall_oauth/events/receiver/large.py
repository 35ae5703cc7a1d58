"""Reads large bodies: their token is looked up before they are parsed, which may take half a second."""

import asyncio
import json
import re
from collections.abc import Collection
from itertools import islice

from aircall_oauth.errors import EventMalformed, WebhookTokenUnknown
from aircall_oauth.events.receiver import envelope
from aircall_oauth.events.receiver.envelope import MAX_TOKEN, Envelope
from aircall_oauth.events.receiver.statement import ANSWER_SECONDS
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import database_errors
from aircall_oauth.storage.sealed import WEBHOOK_TOKEN_PURPOSE

# Inside `data` there may be a few tokens that are not the webhook's.
MOST_TOKENS = 8
ASKING_AT_ONCE = 2
TOKEN = re.compile(rb'"token"[ \t\n\r]*:[ \t\n\r]*("(?:[^"\\]|\\.){1,%d}")' % MAX_TOKEN)
IS_ANY_KNOWN = """
    SELECT EXISTS (
        SELECT FROM webhook WHERE token_fingerprint = ANY ($1)
        UNION ALL SELECT FROM retired_webhook WHERE token_fingerprint = ANY ($1)
    )
"""


class LargeBodies:
    """Reads large bodies so that those with an unknown token do not hold up the events of known webhooks."""

    def __init__(self) -> None:
        self._asking = asyncio.Semaphore(ASKING_AT_ONCE)
        self._parsing = asyncio.Lock()

    async def read(self, resources: Resources, body: bytes) -> Envelope:
        """Read the envelope; raises `EventMalformed`, `WebhookTokenUnknown` or `DatabaseAway`."""
        tokens = _tokens(body)
        if tokens and await self._is_any_known(resources, tokens):
            return envelope.read(body)
        if b"\\u" not in body and len(tokens) < MOST_TOKENS:
            # No further token can be in the body, however it is spelled.
            raise WebhookTokenUnknown if tokens else EventMalformed
        async with self._parsing:
            return await asyncio.to_thread(envelope.read, body)

    async def _is_any_known(self, resources: Resources, tokens: Collection[str]) -> bool:
        vault = resources.vault
        fingerprints = [vault.fingerprint(token, WEBHOOK_TOKEN_PURPOSE) for token in tokens]
        fingerprints += [older for token in tokens for older in vault.older_fingerprints(token, WEBHOOK_TOKEN_PURPOSE)]
        with database_errors():
            async with asyncio.timeout(ANSWER_SECONDS), self._asking:
                await resources.require_ready()
                async with resources.database.driver_connection() as connection:
                    known: bool = await connection.fetchval(IS_ANY_KNOWN, fingerprints)
        return known


def _tokens(body: bytes) -> list[str]:
    """Return the first strings that may be the webhook's token; the field's name without escapes only."""
    return [_text(match[1]) for match in islice(TOKEN.finditer(body), MOST_TOKENS)]


def _text(literal: bytes) -> str:
    try:
        return str(json.loads(literal))
    except ValueError:
        return ""
