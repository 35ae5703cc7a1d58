"""The sandbox's own page and API: shows what goes on in the pretend Aircall, and makes things happen."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from aircall_oauth.sandbox.aircall.courier import Delivery
from aircall_oauth.sandbox.aircall.faults import HOWS
from aircall_oauth.sandbox.aircall.orders import (
    Break,
    GiveConsent,
    PlaceCall,
    RecordCalls,
    SendEvent,
    Settings,
    TellEnd,
    Uninstall,
)
from aircall_oauth.sandbox.aircall.pages import form_fields, render, shortened
from aircall_oauth.sandbox.aircall.pretend import PretendAircall
from aircall_oauth.sandbox.aircall.samples import EVENT_NAMES
from aircall_oauth.sandbox.aircall.webhooks import Webhook

Order = TypeVar("Order", bound=msgspec.Struct)
LAST_SHOWN = 20
MOST_ROWS = 1000


class OrderError(Exception):
    """The order doesn't make sense; the message says why."""


async def home(request: Request) -> Response:
    aircall = _aircall(request)
    return render(
        "control.html",
        aircall=aircall,
        event_names=EVENT_NAMES,
        hows=HOWS,
        deliveries=aircall.deliveries[: -LAST_SHOWN - 1 : -1],
        requests=aircall.requests[: -LAST_SHOWN - 1 : -1],
    )


async def place_call(request: Request) -> Response:
    order = await _order(request, PlaceCall)
    call_id = _try(lambda: _aircall(request).start_call(order.company, order.pause))
    return _done(request, {"call_id": call_id})


async def record_calls(request: Request) -> Response:
    order = await _order(request, RecordCalls)
    aircall = _aircall(request)
    call_ids = _try(
        lambda: aircall.record_calls(order.count, since=order.since, until=order.until, company=order.company)
    )
    return _done(request, {"call_ids": call_ids})


async def tell_end(request: Request) -> Response:
    order = await _order(request, TellEnd)
    sent = _try(lambda: _aircall(request).tell_end(order.call_id, order.company, repeat=order.repeat))
    return _done(request, {"deliveries": [delivery.number for delivery in sent]})


async def send_event(request: Request) -> Response:
    order = await _order(request, SendEvent)
    aircall = _aircall(request)
    _try(lambda: aircall.company(order.company))
    sent = await aircall.send_event(order.name, order.data, order.company, repeat=order.repeat, manner=order.manner)
    return _done(request, {"deliveries": [delivery.number for delivery in sent]})


async def uninstall(request: Request) -> Response:
    order = await _order(request, Uninstall)
    aircall = _aircall(request)
    company = _try(lambda: aircall.company(order.company))
    sent = await aircall.uninstall(company, keep_integration_id=order.keep_integration_id)
    return _done(request, {"deliveries": [delivery.number for delivery in sent]})


async def grant(request: Request) -> Response:
    order = await _order(request, GiveConsent)
    code = _try(lambda: _aircall(request).grant(order.company, challenge=order.challenge))
    return _done(request, {"code": code})


async def break_next(request: Request) -> Response:
    order = await _order(request, Break)
    aircall = _aircall(request)
    _try(lambda: aircall.break_next(order.door, order.how, order.times, seconds=order.seconds, size=order.size))
    return _done(request, {"broken": [asdict(fault) for fault in aircall.faults.waiting]})


async def heal(request: Request) -> Response:
    _aircall(request).heal()
    return _done(request, {"broken": []})


async def settings(request: Request) -> Response:
    """Change some habits; answers with all of them."""
    order = await _order(request, Settings)
    habits = _aircall(request).habits
    for name, value in msgspec.structs.asdict(order).items():
        if value is not None:
            setattr(habits, name, value)
    return _done(request, asdict(habits))


async def ledger(request: Request) -> Response:
    rows = [asdict(received) for received in _aircall(request).requests[-MOST_ROWS:]]
    return JSONResponse({"requests": rows})


async def deliveries(request: Request) -> Response:
    rows = [_delivery(delivery) for delivery in _aircall(request).deliveries[-MOST_ROWS:]]
    return JSONResponse({"deliveries": rows})


async def state(request: Request) -> Response:
    """Answer with companies, tokens and webhooks (secrets shortened), habits, and the faults that are set."""
    aircall = _aircall(request)
    return JSONResponse(
        {
            "companies": [_company(aircall, company.id) for company in aircall.companies],
            "habits": asdict(aircall.habits),
            "broken": [asdict(fault) for fault in aircall.faults.waiting],
        }
    )


async def cannot_do(request: Request, error: Exception) -> Response:
    if _is_form(request):
        return render("error.html", status=400, reason=str(error))
    return JSONResponse({"error": str(error)}, 400)


def _company(aircall: PretendAircall, company_id: int) -> dict[str, Any]:
    company = aircall.company(company_id)
    return {
        "id": company.id,
        "name": company.name,
        "numbers": list(company.numbers),
        "integration": asdict(company.integration),
        "tokens": [shortened(token) for token in aircall.tokens_of(company)],
        "webhooks": [_webhook(webhook, aircall.base_url) for webhook in aircall.webhooks.of(company.id)],
        "calls": len(company.calls),
    }


def _webhook(webhook: Webhook, base_url: str) -> dict[str, Any]:
    return {
        **webhook.view(base_url),
        "token": shortened(webhook.token),
        "failures_in_a_row": webhook.failures_in_a_row,
    }


def _delivery(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery without its body, which holds the webhook's token."""
    row = asdict(delivery)
    del row["body"]
    return row


async def _order(request: Request, kind: type[Order]) -> Order:
    try:
        if _is_form(request):
            return msgspec.convert(await form_fields(request), kind, strict=False)
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise OrderError(str(error)) from None


T = TypeVar("T")


def _try(verb: Callable[[], T]) -> T:
    try:
        return verb()
    except (LookupError, ValueError) as error:
        raise OrderError(str(error)) from None


def _done(request: Request, answer: dict[str, Any]) -> Response:
    """Redirect a form back to the page; answer a program with JSON."""
    return RedirectResponse("/", 303) if _is_form(request) else JSONResponse(answer)


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")


def _aircall(request: Request) -> PretendAircall:
    aircall: PretendAircall = request.app.state.aircall
    return aircall


ROUTES = [
    Route("/", home, methods=["GET"]),
    Route("/control/place-call", place_call, methods=["POST"]),
    Route("/control/record-calls", record_calls, methods=["POST"]),
    Route("/control/tell-end", tell_end, methods=["POST"]),
    Route("/control/send-event", send_event, methods=["POST"]),
    Route("/control/uninstall", uninstall, methods=["POST"]),
    Route("/control/grant", grant, methods=["POST"]),
    Route("/control/break", break_next, methods=["POST"]),
    Route("/control/heal", heal, methods=["POST"]),
    Route("/control/settings", settings, methods=["POST"]),
    Route("/control/ledger", ledger, methods=["GET"]),
    Route("/control/deliveries", deliveries, methods=["GET"]),
    Route("/control/state", state, methods=["GET"]),
]
