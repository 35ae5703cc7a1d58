"""What is wrong with a form, as plain sentences beside its fields; the API's words for it are for programs."""

import re
from collections.abc import Mapping

from pydantic import ValidationError

from aircall_oauth.errors import AppError, DestinationRefused, InvalidRequest, OwnerNotAllowed

MOST_SHOWN = 80
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
