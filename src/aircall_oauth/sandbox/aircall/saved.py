"""The state that survives a restart: grants, tokens and webhooks, in one file that only its owner can read."""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aircall_oauth.sandbox.aircall.companies import Company, Integration
from aircall_oauth.sandbox.aircall.grants import Grant, Grants, Token
from aircall_oauth.sandbox.aircall.webhooks import Webhook, Webhooks


@dataclass
class Saved:
    integrations: dict[int, Integration]
    codes: list[Grant]
    tokens: list[Token]
    webhooks: list[Webhook]


def save(path: Path, companies: list[Company], grants: Grants, webhooks: Webhooks) -> None:
    """Save by replacing the file with a new one: a crash leaves the old one or the new one."""
    integrations = {company.id: company.integration for company in companies}
    saved = Saved(integrations, list(grants.codes.values()), list(grants.tokens.values()), webhooks.all)
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(saved))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: Path, companies: list[Company], grants: Grants, webhooks: Webhooks) -> None:
    """Restore what was saved, if anything was; raises `ValueError` for a file that isn't ours."""
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=Saved)
    except FileNotFoundError:
        return
    except msgspec.DecodeError as error:
        raise ValueError(f"not a state file of the sandbox: {error}") from None
    for company in companies:
        company.integration = saved.integrations.get(company.id, company.integration)
    grants.codes = {grant.code: grant for grant in saved.codes}
    grants.tokens = {token.access_token: token for token in saved.tokens}
    webhooks.all = saved.webhooks
