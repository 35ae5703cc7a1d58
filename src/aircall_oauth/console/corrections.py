"""What is wrong with a form, as plain sentences beside its fields; the API's words for it are for programs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from aircall_oauth.access.faults import faults
from aircall_oauth.errors import AppError, DestinationRefused, InvalidRequest, OwnerNotAllowed

MOST_SHOWN = 80
# By the name of a filter in a page's address.
FILTERS = {
    "reference": "A reference has eight letters and digits, such as 7KQ2MXNP.",
    "installation_id": "A customer's id is ins_ and 32 digits and letters, as its page shows it; the search box finds "
    "customers by company or owner.",
    "subscription_id": "A destination's id is sub_ and 32 digits and letters, as its page shows it.",
    "subject": "What an event is about is written such as call:2400000000.",
    "call_id": "A call's id is Aircall's, a whole number.",
    **dict.fromkeys(("since", "until"), "A time is written such as 2026-01-31T08:00, in UTC."),
    "ending": "Choose an ending from the list.",
    "status": "Choose a status from the list.",
}
# What the API calls a subscription is a destination here; names of scopes, paths and event types stay.
SUBSCRIPTION = re.compile(r"(?<![/\w.:`])([Ss])ubscription(s?)\b(?![:_`]|\.\w)")
# By the field's name in the API's body.
SENTENCES = {
    "name": "Give it a name of 1 to 100 characters.",
    "url": "Write an address such as https://crm.example.com/aircall: 2,048 characters at most, and no spaces.",
    "types": "Write event types such as call.ended, or call.* for all that begin so: 100 at most.",
    "owners": "Write your own ids of customers, one a line: 1,000 at most, of 255 characters at most.",
    "installations": "Write ids such as ins_0198…, one a line: 1,000 at most.",
    "order": "Choose one of these.",
    "from": "Choose one of these.",
    "event_id": "Write an event's id, as its page shows it: evt_ and 32 digits and letters.",
    "event_ids": "Write an event's id, as its page shows it: evt_ and 32 digits and letters.",
    "subscription_id": "Choose a destination, or write its id as its page shows it: sub_ and 32 digits and letters.",
    "per_second": "Write a whole number from 1 to 1,000.",
}
PLAIN = "This can't be taken."


class WrongForm(InvalidRequest):
    """Something that was filled in is not right."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        self.faults = faults
        super().__init__(" ".join(faults.values()))


def of(error: ValidationError, names: Mapping[str, str] | None = None) -> WrongForm:
    """Return what is wrong by field, with the entry of a list that is; `names` are other names that the form has."""
    faults: dict[str, str] = {}
    for each in error.errors():
        field, *rest = [part for part in each["loc"] if not isinstance(part, str) or part in SENTENCES] or [""]
        said = SENTENCES.get(str(field), PLAIN)
        if rest and isinstance(each.get("input"), str):
            said = f"“{str(each['input'])[:MOST_SHOWN]}” is not right. {said}"
        faults.setdefault((names or {}).get(str(field), str(field)), said)
    return WrongForm(faults)


def of_filters(errors: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return what is wrong with the filters of an address, and their names."""
    names = list(dict.fromkeys(str(each["loc"][1]) for each in errors))
    said = [FILTERS.get(name) or faults([each for each in errors if each["loc"][1] == name]) for name in names]
    return " ".join(said), names


def plainly(text: str) -> str:
    """Return a sentence of the API's in the console's words."""
    return SUBSCRIPTION.sub(lambda found: f"{'D' if found[1] == 'S' else 'd'}estination{found[2]}", text)


def faults_of(error: AppError) -> tuple[str | None, Mapping[str, str]]:
    """Return what to say above a form, and beside its fields, of an error that a person can mend there."""
    match error:
        case WrongForm():
            return None, error.faults
        case DestinationRefused():
            return None, {"url": plainly(error.detail)}
        case OwnerNotAllowed():
            return None, {"owner": error.detail}
        case _:
            return plainly(error.detail), {}
