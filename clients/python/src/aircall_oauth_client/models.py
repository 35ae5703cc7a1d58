"""What the service answers and takes, as types. Generated from docs/openapi.json; answers may have more."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, Union


class AttemptList(TypedDict):
    items: list[Attempt]
    next: int | None


class Attempt(TypedDict):
    event_id: str
    position: int
    at: str
    outcome: str
    milliseconds: int
    replay_id: str | None


class AuditLine(TypedDict):
    """One act: who did what to what, when, from where."""

    id: str
    at: str
    actor: str
    actor_name: str | None
    action: str
    outcome: AuditOutcome
    installation_id: str | None
    owner: str | None
    subscription_id: str | None
    details: dict[str, Any] | None
    address: str | None
    request_id: str | None


class AuditPage(TypedDict):
    items: list[AuditLine]
    next: str | None


class CheckResult(TypedDict):
    """What a check found. `installation` is as it is after the mending."""

    healthy: bool
    token: TokenVerdict
    found: list[Finding]
    installation: Installation


class DeadEventList(TypedDict):
    items: list[DeadEvent]
    next: int | None


class RetryAnswer(TypedDict):
    retried: int


class RetryRequest(TypedDict, total=False):
    event_ids: list[str] | None


class DeadEvent(TypedDict):
    event_id: str
    position: int
    installation_id: str
    attempts: int
    reason: str
    dead_at: str


class Delivery(TypedDict):
    """How far one subscription is with an event."""

    subscription_id: str
    name: str
    status: DeliveryStatus
    attempts: int
    last_outcome: str | None
    last_at: str | None


class ErasedPositions(TypedDict):
    """The receipt: which events were erased."""

    positions: list[int]
    next: int | None


class ErasureList(TypedDict):
    items: list[Erasure]
    next: str | None


class Erasure(TypedDict):
    """One erasure: how far it is, and what it came to. It holds nothing of the person."""

    id: str
    status: ErasureStatus
    by: ErasureKind
    owner: str | None
    installation_id: str | None
    position: int
    last_position: int | None
    searched: int
    erased: int
    parked: int
    delivered: int
    created_at: str
    ended_at: str | None
    backups_until: str | None


class EventPage(TypedDict):
    events: list[Event]
    next: int
    more: bool
    epoch: str


class _EventWithDeliveries(TypedDict):
    id: str
    position: int
    type: str
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: Any
    deliveries: list[Delivery]


class EventWithDeliveries(_EventWithDeliveries, total=False):
    """One event, and what became of it."""

    erased: bool


class _Event(TypedDict):
    id: str
    position: int
    type: str
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: Any


class Event(_Event, total=False):
    """One event of the log, the same for every reader."""

    erased: bool


class FilterWarning(TypedDict):
    type: str
    nearest: str | None
    detail: str


class Finding(TypedDict):
    code: FindingCode
    mended: bool


class InstallAttemptList(TypedDict):
    items: list[InstallAttempt]
    next: str | None


class InstallAttempt(TypedDict):
    """One install attempt. Each `…_at` is one step, in this order; null where it was not reached."""

    id: str
    reference: str
    step: str
    ending: str | None
    shown: str | None
    owner: str | None
    link_id: str | None
    installation_id: str | None
    company_id: int | None
    company_name: str | None
    created_at: str
    made_at: str | None
    opened_at: str | None
    consented_at: str | None
    exchanged_at: str | None
    identified_at: str | None
    connected_at: str | None
    claimed_at: str | None
    live_at: str | None
    ended_at: str | None


class InstallLink(TypedDict):
    url: str
    expires_at: str
    attempt_id: str
    reference: str


class InstallationList(TypedDict):
    items: list[Installation]
    next: str | None


class _Installation(TypedDict):
    id: str
    status: InstallationStatus
    owner: str | None
    company_id: int
    integration_id: int | None
    company_name: str | None
    number_ids: list[int]
    connected_at: str
    last_event_at: str | None
    webhook: Webhook


class Installation(_Installation, total=False):
    silent_since: str | None


class ClaimRequest(TypedDict):
    claim: str
    owner: str


class NewErasure(TypedDict, total=False):
    """Whom to erase: by exactly one of `phone`, `email`, `contact_id`, `user_id`, `call_id`."""

    phone: str | None
    email: str | None
    contact_id: str | None
    user_id: str | None
    call_id: str | None
    owner: str | None
    installation_id: str | None


NewHttp = TypedDict(
    'NewHttp',
    {
        'name': 'str',
        'url': 'str',
        'types': 'list[str]',
        'owners': 'list[str]',
        'installations': 'list[str]',
        'order': 'SubscriptionOrder',
        'from': 'StartPosition',
        'ensure': 'bool',
        'kind': 'Literal["http"]',
    },
    total=False,
)


class _NewInstallLink(TypedDict):
    owner: str


class NewInstallLink(_NewInstallLink, total=False):
    return_to: str | None


NewKafka = TypedDict(
    'NewKafka',
    {
        'name': 'str',
        'url': 'str',
        'types': 'list[str]',
        'owners': 'list[str]',
        'installations': 'list[str]',
        'order': 'SubscriptionOrder',
        'from': 'StartPosition',
        'ensure': 'bool',
        'kind': 'Literal["kafka"]',
        'topic': 'str',
    },
    total=False,
)


NewNats = TypedDict(
    'NewNats',
    {
        'name': 'str',
        'url': 'str',
        'types': 'list[str]',
        'owners': 'list[str]',
        'installations': 'list[str]',
        'order': 'SubscriptionOrder',
        'from': 'StartPosition',
        'ensure': 'bool',
        'kind': 'Literal["nats"]',
        'subject': 'str',
    },
    total=False,
)


NewRabbitmq = TypedDict(
    'NewRabbitmq',
    {
        'name': 'str',
        'url': 'str',
        'types': 'list[str]',
        'owners': 'list[str]',
        'installations': 'list[str]',
        'order': 'SubscriptionOrder',
        'from': 'StartPosition',
        'ensure': 'bool',
        'kind': 'Literal["rabbitmq"]',
        'exchange': 'str',
        'routing_key': 'str',
    },
    total=False,
)


class NewRetention(TypedDict):
    """How long an owner's events are kept, by type; the closest type counts."""

    rules: dict[str, Any]


class OwnerRetention(TypedDict):
    owner: str
    rules: dict[str, Any]
    changed_at: str | None


class ReplayList(TypedDict):
    items: list[Replay]
    next: str | None


class ReplayPast(TypedDict):
    """Move the live reader: read again what lies past a position."""

    position: int


class ReplayPreview(TypedDict):
    """What a replay would deliver. Nothing was started."""

    events: int
    customers: int
    first_position: int
    last_position: int


class ReplaySince(TypedDict):
    """Move the live reader: read again what came in from a moment on."""

    since: str


class Replay(TypedDict):
    """One replay and how far it is."""

    id: str
    subscription_id: str
    status: ReplayStatus
    since: str | None
    until: str | None
    first_position: int
    last_position: int
    types: list[str]
    owners: list[str]
    installations: list[str]
    per_second: int
    events: int
    customers: int
    position: int
    delivered: int
    failed: int
    last_error: str | None
    created_at: str
    ended_at: str | None


ReplayWindow = TypedDict(
    'ReplayWindow',
    {
        'since': 'str | None',
        'until': 'str | None',
        'from': 'int | None',
        'to': 'int | None',
        'types': 'list[str]',
        'owners': 'list[str]',
        'installations': 'list[str]',
        'everything': 'bool',
        'per_second': 'int',
        'dry_run': 'bool',
    },
    total=False,
)


class ResendRequest(TypedDict):
    subscription_id: str


class RetentionList(TypedDict):
    longest: str
    rules: dict[str, Any]
    items: list[OwnerRetention]
    next: str | None


class RotateSecretRequest(TypedDict, total=False):
    now: bool


class SecretAnswer(TypedDict):
    secret: str


class SubscriptionChange(TypedDict, total=False):
    """What is left out stays as it is."""

    name: str
    url: str
    types: list[str]
    owners: list[str]
    installations: list[str]
    order: SubscriptionOrder


class SubscriptionCreated(TypedDict):
    id: str
    name: str
    kind: SubscriptionKind
    url: str
    subject: str | None
    exchange: str | None
    routing_key: str | None
    topic: str | None
    types: list[str]
    owners: list[str]
    installations: list[str]
    order: SubscriptionOrder
    status: SubscriptionStatus
    position: int
    lag: int
    parked: int
    dead: int
    matched_24h: int
    delivered_24h: int
    failed_24h: int
    oldest_undelivered_seconds: int | None
    health: SubscriptionHealth
    next_probe_at: str | None
    last_error: str | None
    last_error_at: str | None
    created_at: str
    warnings: list[FilterWarning]
    secret: str | None


class SubscriptionList(TypedDict):
    items: list[Subscription]
    next: str | None


class SubscriptionSaved(TypedDict):
    id: str
    name: str
    kind: SubscriptionKind
    url: str
    subject: str | None
    exchange: str | None
    routing_key: str | None
    topic: str | None
    types: list[str]
    owners: list[str]
    installations: list[str]
    order: SubscriptionOrder
    status: SubscriptionStatus
    position: int
    lag: int
    parked: int
    dead: int
    matched_24h: int
    delivered_24h: int
    failed_24h: int
    oldest_undelivered_seconds: int | None
    health: SubscriptionHealth
    next_probe_at: str | None
    last_error: str | None
    last_error_at: str | None
    created_at: str
    warnings: list[FilterWarning]


class Subscription(TypedDict):
    id: str
    name: str
    kind: SubscriptionKind
    url: str
    subject: str | None
    exchange: str | None
    routing_key: str | None
    topic: str | None
    types: list[str]
    owners: list[str]
    installations: list[str]
    order: SubscriptionOrder
    status: SubscriptionStatus
    position: int
    lag: int
    parked: int
    dead: int
    matched_24h: int
    delivered_24h: int
    failed_24h: int
    oldest_undelivered_seconds: int | None
    health: SubscriptionHealth
    next_probe_at: str | None
    last_error: str | None
    last_error_at: str | None
    created_at: str


class TestResult(TypedDict):
    delivered: bool
    outcome: str
    milliseconds: int


class _TokenAnswer(TypedDict):
    access_token: str


class TokenAnswer(_TokenAnswer, total=False):
    token_type: str


class Webhook(TypedDict):
    status: WebhookStatus
    webhook_id: str | None
    checked_at: str | None


class _Problem(TypedDict):
    type: str
    title: str
    status: int
    detail: str
    code: Literal["aircall_busy", "aircall_error", "aircall_refused", "aircall_unavailable", "api_error", "app_error", "backfill_put_off", "body_too_large", "body_too_slow", "budget_spent", "check_under_way", "claim_not_found", "claim_of_another", "clocks_disagree", "data_key_unusable", "database_away", "destination_refused", "encoding_refused", "erasure_not_found", "event_erased", "event_malformed", "event_not_found", "extra_missing", "idempotency_key_used", "inbox_full", "install_attempt_not_found", "installation_held", "installation_not_active", "installation_not_found", "intake_full", "invalid_request", "leaving", "method_not_allowed", "not_found", "not_ready", "output_lost", "owner_not_allowed", "path_not_allowed", "path_refused", "position_gone", "position_unknown", "redirect_refused", "replay_not_found", "rotation_under_way", "scope_missing", "seal_broken", "seal_error", "seal_key_missing", "subscription_differs", "subscription_not_found", "subscription_unsigned", "subscriptions_full", "too_many_at_once", "too_many_requests", "too_many_streams", "too_many_token_reads", "unauthenticated", "unavailable", "webhook_token_unknown"]
    request_id: str | None


class Problem(_Problem, total=False):
    """What went wrong. Branch on `code`; `detail` is for people."""

    oldest: int | None
    resume_from: int | None
    newest: int | None


class _AircallEvent(TypedDict):
    event: str
    token: str
    data: Any


class AircallEvent(_AircallEvent, total=False):
    """One event. There is no signature and no event id; `token` says which webhook it is of."""

    resource: str
    timestamp: Any


class StreamItem(TypedDict):
    """One server-sent event. A line that begins with `:` only keeps the connection open."""

    id: str
    data: str


class CallData(TypedDict, total=False):
    id: int
    direct_link: str | None
    call_uuid: str | None
    direction: str | None
    status: str | None
    missed_call_reason: str | None
    started_at: int | None
    answered_at: int | None
    ended_at: int | None
    duration: int | None
    cost: str | None
    hangup_cause: str | None
    voicemail: str | None
    recording: str | None
    asset: str | None
    raw_digits: str | None
    archived: bool | None
    contact: ContactData | None
    number: NumberData | None
    user: UserData | None
    assigned_to: UserData | None
    transferred_by: UserData | None
    transferred_to: UserData | None
    teams: list[dict[str, Any]] | None
    comments: list[dict[str, Any]] | None
    tags: list[dict[str, Any]] | None
    participants: list[dict[str, Any]] | None


class ContactData(TypedDict, total=False):
    id: int
    is_shared: bool | None
    direct_link: str | None
    first_name: str | None
    last_name: str | None
    company_name: str | None
    description: str | None
    information: str | None
    created_at: str | None
    updated_at: str | None
    phone_numbers: list[ContactDetail] | None
    emails: list[ContactDetail] | None


class ContactDetail(TypedDict, total=False):
    id: int
    label: str | None
    value: str | None


class MessageData(TypedDict, total=False):
    id: str | None
    direct_link: str | None
    direction: str | None
    external_number: str | None
    raw_digits: str | None
    body: str | None
    status: str | None
    channel: str | None
    created_at: str | None
    updated_at: str | None
    sent_at: str | None
    media_details: list[dict[str, Any]] | None
    number: NumberData | None
    contact: ContactData | None


class NumberData(TypedDict, total=False):
    id: int
    direct_link: str | None
    name: str | None
    digits: str | None
    e164_digits: str | None
    country: str | None
    time_zone: str | None
    created_at: str | None
    availability_status: str | None
    open: bool | None
    is_ivr: bool | None
    live_recording_activated: bool | None


class UserData(TypedDict, total=False):
    id: int
    available: bool | None
    direct_link: str | None
    name: str | None
    email: str | None
    availability_status: str | None
    created_at: str | None
    time_zone: str | None
    language: str | None


class _CallCreatedEvent(TypedDict):
    id: str
    position: int
    type: Literal["call.created"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: CallData


class CallCreatedEvent(_CallCreatedEvent, total=False):
    """An event of the type `call.created`."""

    erased: bool


class _CallRingingOnAgentEvent(TypedDict):
    id: str
    position: int
    type: Literal["call.ringing_on_agent"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: CallData


class CallRingingOnAgentEvent(_CallRingingOnAgentEvent, total=False):
    """An event of the type `call.ringing_on_agent`."""

    erased: bool


class _CallAnsweredEvent(TypedDict):
    id: str
    position: int
    type: Literal["call.answered"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: CallData


class CallAnsweredEvent(_CallAnsweredEvent, total=False):
    """An event of the type `call.answered`."""

    erased: bool


class _CallHungupEvent(TypedDict):
    id: str
    position: int
    type: Literal["call.hungup"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: CallData


class CallHungupEvent(_CallHungupEvent, total=False):
    """An event of the type `call.hungup`."""

    erased: bool


class _CallEndedEvent(TypedDict):
    id: str
    position: int
    type: Literal["call.ended"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: CallData


class CallEndedEvent(_CallEndedEvent, total=False):
    """An event of the type `call.ended`."""

    erased: bool


class _CallVoicemailLeftEvent(TypedDict):
    id: str
    position: int
    type: Literal["call.voicemail_left"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: CallData


class CallVoicemailLeftEvent(_CallVoicemailLeftEvent, total=False):
    """An event of the type `call.voicemail_left`."""

    erased: bool


class _CallTaggedEvent(TypedDict):
    id: str
    position: int
    type: Literal["call.tagged"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: CallData


class CallTaggedEvent(_CallTaggedEvent, total=False):
    """An event of the type `call.tagged`."""

    erased: bool


class _MessageReceivedEvent(TypedDict):
    id: str
    position: int
    type: Literal["message.received"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: MessageData


class MessageReceivedEvent(_MessageReceivedEvent, total=False):
    """An event of the type `message.received`."""

    erased: bool


class _ContactCreatedEvent(TypedDict):
    id: str
    position: int
    type: Literal["contact.created"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: ContactData


class ContactCreatedEvent(_ContactCreatedEvent, total=False):
    """An event of the type `contact.created`."""

    erased: bool


class _ContactUpdatedEvent(TypedDict):
    id: str
    position: int
    type: Literal["contact.updated"]
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: str | None
    received_at: str
    source: str
    data: ContactData


class ContactUpdatedEvent(_ContactUpdatedEvent, total=False):
    """An event of the type `contact.updated`."""

    erased: bool

FindingCode = Literal["token_refused", "token_foreign", "token_accepted_again", "integration_off", "no_numbers", "facts_changed", "webhook_new", "webhook_missing", "webhook_disabled", "webhook_changed", "webhook_doubled", "webhook_refused"]

DeliveryStatus = Literal["waiting", "delivered", "parked", "dead"]

ErasureKind = Literal["phone", "email", "contact", "user", "call", "installation"]

ErasureStatus = Literal["searching", "following", "settling", "done"]

SubscriptionHealth = Literal["up", "down"]

InstallationStatus = Literal["unclaimed", "active", "unauthorized", "removed"]

AuditOutcome = Literal["done", "refused", "failed"]

ReplayStatus = Literal["running", "done", "stopped", "failed"]

SubscriptionKind = Literal["http", "nats", "rabbitmq", "kafka"]

SubscriptionOrder = Literal["none", "subject", "installation"]

SubscriptionStatus = Literal["active", "paused", "disabled"]

TokenVerdict = Literal["accepted", "refused", "foreign"]

WebhookStatus = Literal["pending", "active", "disabled", "missing"]

NewSubscription = Union["NewHttp", "NewNats", "NewRabbitmq", "NewKafka"]

ReplayRequest = Union["ReplayPast", "ReplaySince", "ReplayWindow"]

ReplayAnswer = Union["Subscription", "ReplayPreview", "Replay"]

StartPosition = Union[Literal["now", "beginning"], int]
