"""The two times of a form that asks for a window."""

from collections.abc import Mapping
from datetime import datetime

from aircall_oauth.console.corrections import WrongForm
from aircall_oauth.console.parameters import moment_of


def moments_of(form: Mapping[str, str]) -> tuple[datetime, datetime | None]:
    """Return the window of a form, whose end may be left out; raises `WrongForm`."""
    moments: dict[str, datetime] = {}
    faults: dict[str, str] = {} if "since" in form else {"since": "Say from when."}
    for name in ("since", "until"):
        try:
            moments |= {name: moment_of(form[name])} if name in form else {}
        except ValueError:
            faults[name] = "Write a time such as 2026-01-31T08:00, in UTC."
    if moments.keys() == {"since", "until"} and moments["since"] >= moments["until"]:
        faults["until"] = "The end must lie after the beginning."
    if faults:
        raise WrongForm(faults)
    return moments["since"], moments.get("until")
