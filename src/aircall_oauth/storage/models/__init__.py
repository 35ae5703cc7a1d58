"""The tables, and the changes they allow. To import one module of them makes the metadata whole."""

from aircall_oauth.storage.models import access, aircall, deliveries, events, installations

__all__ = ["access", "aircall", "deliveries", "events", "installations"]
