"""The tables. Importing any module of this package registers them all in the metadata."""

from aircall_oauth.storage.models import (
    access,
    aircall,
    console,
    data_keys,
    deliveries,
    erasures,
    events,
    figures,
    installations,
)

__all__ = [
    "access",
    "aircall",
    "console",
    "data_keys",
    "deliveries",
    "erasures",
    "events",
    "figures",
    "installations",
]
