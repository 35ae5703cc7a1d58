"""A new destination: an HTTP address that events go to. Brokers are made by the API, which knows their fields."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import ValidationError

from aircall_oauth.console import acts, corrections
from aircall_oauth.console.acts import Act, Field
from aircall_oauth.console.frame import DisclosingPage, Form, Page, PageDep
from aircall_oauth.console.pages.destination_acts import LISTS, fields_of, value_of
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.console.visitors import TO_DISCLOSE
from aircall_oauth.deliveries import filters, subscriptions
from aircall_oauth.deliveries.bodies import NewHttp
from aircall_oauth.deliveries.repeated import Repeat
from aircall_oauth.errors import DestinationRefused, InvalidRequest, PositionGone, SubscriptionsFull
from aircall_oauth.storage.statuses import SubscriptionKind

router = APIRouter(route_class=PageRoute)

BEGINNINGS = {"now": "with what comes in from now on", "beginning": "with the oldest event that the log has"}


@router.get("/destinations/new")
async def ask_new(page: PageDep) -> Response:
    """Ask where events go, and which."""
    return page.ask(_act(page, {}))


@router.post("/destinations/new")
async def make(page: DisclosingPage, form: Form) -> Response:
    """Make a destination, and show its signing secret once."""
    try:
        asked = NewHttp.model_validate(_body(form))
        fields = asked.model_dump(exclude={"order", "start", "ensure"}) | {"ordering": asked.order}
        repeat = Repeat(page.once.number, asked.model_dump_json())
        made = await subscriptions.create(
            page.resources, page.caller, page.who, start=asked.start, repeat=repeat, **fields
        )
    except ValidationError as error:
        return page.ask(_act(page, form), wrong=corrections.of(error))
    except (InvalidRequest, DestinationRefused, SubscriptionsFull, PositionGone) as error:
        return page.ask(_act(page, form), wrong=error)
    warned = await filters.warnings(page.resources, page.caller, asked.types)
    return page.done(
        "Destination made",
        f"Events go to “{asked.name}” now. Its receiver checks their signature with this secret.",
        back=f"/destinations/{made.subscription_id}",
        secret=made.secret.get_secret_value() if made.secret is not None else "",
        facts=[corrections.plainly(each.detail) for each in warned],
    )


def _body(form: Form) -> dict[str, Any]:
    """Return what was filled in as the API takes it."""
    text = {"name": form.get("name", ""), "url": form.get("url", ""), "order": form.get("order", "")}
    lists = {name: value_of(name, form.get(name, "")) for name in LISTS}
    return {"kind": SubscriptionKind.HTTP, **text, **lists, "from": form.get("from", "now")}


def _act(page: Page, given: Form) -> Act:
    body = {
        "kind": "http",
        "name": given.get("name", "crm"),
        "url": given.get("url", "https://crm.example.com/aircall"),
    }
    return Act(
        title="Make a destination",
        sentence="This sends events to an address of yours, each signed, until it is paused or deleted.",
        effects=[
            "It gets a signing secret of its own, shown once, by which its receiver knows that they are genuine.",
            "A sample can be sent from its page, before anything real comes.",
            "A broker (NATS, RabbitMQ, Kafka) as the destination is made by the API.",
        ],
        button="Make the destination",
        back="/destinations",
        curl=acts.curl(page.settings.public_url, "POST", "/v1/subscriptions", body),
        needs=TO_DISCLOSE,
        fields=[
            *fields_of(given),
            Field("from", "It begins", "select", given.get("from", "now"), required=True, options=BEGINNINGS),
        ],
    )
