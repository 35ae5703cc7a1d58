"""A pretend Aircall, honest about the vendor's rules; development and tests talk to this one fake."""

from aircall_oauth.sandbox.aircall.app import create_app
from aircall_oauth.sandbox.aircall.companies import Company
from aircall_oauth.sandbox.aircall.courier import Attempt, Delivery
from aircall_oauth.sandbox.aircall.pretend import PretendAircall
from aircall_oauth.sandbox.aircall.samples import EVENT_NAMES, read
from aircall_oauth.sandbox.aircall.webhooks import Webhook

__all__ = [
    "EVENT_NAMES",
    "Attempt",
    "Company",
    "Delivery",
    "PretendAircall",
    "Webhook",
    "create_app",
    "read",
]
