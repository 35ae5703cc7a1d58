"""One run of reconciling a webhook: what is reconciled, with which token, for a chore or for a waiting caller."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from aircall_oauth.aircall.payloads import AircallWebhook
from aircall_oauth.installations import tokens
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings
from aircall_oauth.storage.models.installations import Installation, Webhook
from aircall_oauth.storage.sealed import WEBHOOK_TOKEN_PURPOSE


@dataclass(frozen=True)
class Run:
    """A leased webhook that is being reconciled. A thorough run lists all webhooks of the account."""

    resources: Resources
    webhook: Webhook
    installation: Installation
    token: SecretStr
    chore: bool
    thorough: bool

    @property
    def settings(self) -> Settings:
        return self.resources.settings

    @asynccontextmanager
    async def asking(self, calls: int) -> AsyncIterator[None]:
        """Draw from the company's budget: callers from all of it, a chore from the part that callers leave."""
        company_id = self.installation.company_id
        async with tokens.within_budget(self.resources, company_id, calls=calls, chore=self.chore):
            yield

    def fingerprint(self, webhook: AircallWebhook) -> bytes:
        """Return the fingerprint of a webhook's token, by which its events are recognised."""
        assert webhook.token is not None
        return self.resources.vault.fingerprint(webhook.token, WEBHOOK_TOKEN_PURPOSE)
