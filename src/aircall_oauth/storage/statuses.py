"""The states and kinds that columns hold, each as a word."""

from enum import StrEnum


class SubscriptionKind(StrEnum):
    HTTP = "http"
    NATS = "nats"
    RABBITMQ = "rabbitmq"
    KAFKA = "kafka"


class SubscriptionOrder(StrEnum):
    NONE = "none"
    SUBJECT = "subject"  # the later events about a call (a user, a contact, …) wait behind its parked event
    INSTALLATION = "installation"  # an installation's later events wait behind its parked event


class SubscriptionStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"  # its destination answered that it wants no more events


class Health(StrEnum):
    UP = "up"
    DOWN = "down"  # the position stays, and one probe at a time is sent


class ReplayStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"  # the destination answered that it wants no more


class ErasureStatus(StrEnum):
    SEARCHING = "searching"  # for what names the person
    FOLLOWING = "following"  # for the rest of the calls that were found
    SETTLING = "settling"  # until no worker holds any of it in memory
    DONE = "done"


class ErasureKind(StrEnum):
    """What a person, or a customer, is known by."""

    PHONE = "phone"
    EMAIL = "email"
    CONTACT = "contact"
    USER = "user"
    CALL = "call"
    INSTALLATION = "installation"


class EventSource(StrEnum):
    AIRCALL = "aircall"
    SERVICE = "service"
    BACKFILL = "backfill"  # from Aircall's list of calls, not from its webhook


class Step(StrEnum):
    """How much time a row is about; `at` is when it begins, in UTC."""

    MINUTE = "minute"
    HOUR = "hour"


class InstallationStatus(StrEnum):
    UNCLAIMED = "unclaimed"  # saved, but not claimed yet: no webhook, no token, no proxy
    ACTIVE = "active"
    UNAUTHORIZED = "unauthorized"  # Aircall no longer accepts its token
    REMOVED = "removed"  # uninstalled or disconnected: the token is erased


class WebhookStatus(StrEnum):
    PENDING = "pending"  # not registered yet; the worker keeps trying
    ACTIVE = "active"
    DISABLED = "disabled"  # Aircall switched it off
    MISSING = "missing"  # Aircall does not have it any more


class FlowStatus(StrEnum):
    UNKNOWN = "unknown"  # its state is used, its ending not known yet: under way, or the process died
    CONNECTED = "connected"
    ENDED = "ended"  # without an installation; `ending` says how


class GapReason(StrEnum):
    WEBHOOK_DISABLED = "webhook_disabled"
    WEBHOOK_MISSING = "webhook_missing"
    SERVICE_AWAY = "service_away"
    BY_HAND = "by_hand"  # a window that an operator named
