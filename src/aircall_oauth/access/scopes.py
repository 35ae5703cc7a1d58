"""The scopes of API keys: what a key lets its holder do."""

from enum import StrEnum


class Scope(StrEnum):
    INSTALLATIONS_READ = "installations:read"
    INSTALLATIONS_WRITE = "installations:write"
    TOKENS_READ = "tokens:read"
    AIRCALL_CALL = "aircall:call"
    EVENTS_READ = "events:read"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    AUDIT_READ = "audit:read"
    SUBSCRIPTIONS_BROKERS = "subscriptions:brokers"  # without it a key bound to an owner makes HTTP destinations only
    CONSOLE_READ = "console:read"
    CONSOLE_ACT = "console:act"  # with console:read in it
    PAYLOADS_READ = "payloads:read"  # personal data in the console
    PRIVACY_ERASE = "privacy:erase"  # what is held about a person, or a customer
    PRIVACY_RETENTION = "privacy:retention"  # how long an owner's events are kept
    PRIVACY_EXPORT = "privacy:export"  # all that is held about one customer, personal data included
