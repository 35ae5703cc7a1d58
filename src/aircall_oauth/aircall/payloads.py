"""Aircall's JSON: the fields we read, leniently, and the names of its events.

Fields as in the API reference (developers.aircall.io/api-references, read August 2026). Fields that we do not need are
left out; a field that Aircall may leave out has a default.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

BIGINT = 2**63 - 1
# Of a phone call, a contact, a message and so on.
PLAIN_ID = re.compile(r"[!-~]{1,64}")

EVENT_NAMES = tuple(
    f"{family}.{name}"
    for family, names in {
        "call": "created ringing_on_agent agent_declined answered transferred external_transferred "
        "unsuccessful_transfer hungup ended hold unhold ivr_option_selected comm_assets_generated "
        "voicemail_left assigned archived tagged untagged commented",
        "user": "created.v2 deleted.v2 connected.v2 disconnected.v2 opened.v2 closed.v2 wut_start.v2 wut_end.v2 "
        "created deleted connected disconnected opened closed wut_start wut_end",
        "number": "created opened closed deleted",
        "contact": "created updated deleted",
        "message": "sent received status_updated",
        "group_message": "sent received status_updated",
        "transcription": "created",
        "summary": "created",
        "topics": "created",
        "sentiment": "created",
        "action_item": "created",
        "playbook_result": "created updated",
        "realtime_transcription": "utterances_received",
        "custom_summary": "result_created result_updated",
        "call_evaluation": "created updated",
        "ai_voice_agent": "started ended escalated summary",
        "analytics": "report_created report_failed",
        "integration": "deleted",
    }.items()
    for name in names.split()
)
UNINSTALLED = "integration.deleted"

Id = Annotated[int, Field(ge=0, le=BIGINT, strict=True)]
# Errors of `POST /oauth/token` that are about our app and not about the code.
APP_REFUSED = {"invalid_client", "unauthorized_client"}


def _label(value: Any) -> str | None:
    """Read a text that is only shown: a wrong type counts as absent, since it is no reason to refuse an answer.

    JSON may hold what PostgreSQL cannot store: NUL, which is removed, and half a surrogate pair, which is replaced.
    """
    return value.replace("\0", "").encode(errors="replace").decode() if isinstance(value, str) else None


Label = Annotated[str | None, BeforeValidator(_label)]


class Payload(BaseModel):
    # Answers hold tokens: no error may quote its input.
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)


def _fits_a_header(token: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]{1,4096}", token.get_secret_value()):
        raise ValueError("does not fit a header")
    return token


class TokenAnswer(Payload):
    """`POST /oauth/token`. The token never expires and there is no refresh token."""

    access_token: Annotated[SecretStr, AfterValidator(_fits_a_header)]


class Integration(Payload):
    """`GET /integrations/me`: the integration of a token. Some transcriptions of the reference lack `id`."""

    company_id: Id
    id: Id | None = None
    active: bool | None = None
    number_ids: Annotated[list[Id], BeforeValidator(lambda value: value or [])] = []


class IntegrationAnswer(Payload):
    integration: Integration


class Company(Payload):
    """`GET /company`: a name, and no id."""

    name: Label = None


class CompanyAnswer(Payload):
    company: Company


class AircallWebhook(Payload):
    """The id is `webhook_id`, a UUID; there is no `id`."""

    webhook_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")
    url: Label = None
    custom_name: Label = None
    active: bool = True
    events: Annotated[list[str], BeforeValidator(lambda value: value or [])] = []
    token: SecretStr | None = None


class WebhookAnswer(Payload):
    webhook: AircallWebhook


class PageMeta(Payload):
    next_page_link: Label = None


class WebhookPage(Payload):
    webhooks: list[AircallWebhook]
    meta: PageMeta = PageMeta()


class Identity(Payload):
    """The company and the integration that a token belongs to; the integration's id where Aircall tells it."""

    company_id: Id
    integration_id: Id | None
    company_name: str | None
    number_ids: list[Id]
    active: bool | None = None


def subject(kind: str | None, id_: int | str | None) -> str | None:
    """Return what an event is about, such as `call:123`; None where its kind or its id is not known or is unusual."""
    if isinstance(id_, str):
        known = PLAIN_ID.fullmatch(id_) is not None
    elif id_ is not None:
        known = 0 <= id_ <= BIGINT
    else:
        known = False
    return f"{kind}:{id_}" if known and kind is not None else None


def error_reason(body: Any, *, secrets: Iterable[str] = ()) -> str:
    """Return the reason in an error body of either of Aircall's layers: `{"error": …}` or `{"message": …}`.

    It may quote the request, so the secrets that were sent are replaced in it.
    """
    if isinstance(body, dict):
        for name in ("error", "message", "troubleshoot"):
            word = body.get(name)
            if isinstance(word, str) and word:
                for secret in secrets:
                    word = word.replace(secret, "(hidden)")
                return "".join(c for c in word if c.isprintable())[:100]
    return "no reason given"
