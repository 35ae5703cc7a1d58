"""Aircall's REST API, as far as this project uses it: tokens, companies, webhooks, calls."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aircall_oauth.sandbox.aircall import companies, refusals, samples
from aircall_oauth.sandbox.aircall.answers import in_order, json_object, page, require_json, whole_number
from aircall_oauth.sandbox.aircall.companies import Company
from aircall_oauth.sandbox.aircall.pretend import PretendAircall

CALLS_BOUND = 10_000


@dataclass(frozen=True)
class Visit:
    """A request with a valid token, and the company it belongs to."""

    aircall: PretendAircall
    company: Company
    request: Request


Endpoint = Callable[[Request], Awaitable[Response]]


async def exchange(request: Request) -> Response:
    """`POST /v1/oauth/token`: needs no token; the client's secret is in the body."""
    require_json(request)
    token = _aircall(request).exchange(await json_object(request))
    answer = {"access_token": token.access_token, "token_type": "Bearer", "created_at": token.created_at}
    return JSONResponse(answer)


async def ping(visit: Visit) -> Response:
    return JSONResponse(samples.read("rest.ping.200"))


async def company(visit: Visit) -> Response:
    return JSONResponse(companies.company_view(visit.company))


async def integration(visit: Visit) -> Response:
    return _integration(visit)


async def enable(visit: Visit) -> Response:
    return _switched(visit, active=True)


async def disable(visit: Visit) -> Response:
    return _switched(visit, active=False)


async def create_webhook(visit: Visit) -> Response:
    """`POST /v1/webhooks`: 201 with the webhook's token. The documented answer has no `custom_name`."""
    wanted = await json_object(visit.request)
    webhook = visit.aircall.webhooks.create(visit.company.id, wanted, visit.aircall.clock())
    visit.aircall.save()
    view = webhook.view(visit.aircall.base_url)
    del view["custom_name"]
    return JSONResponse({"webhook": view}, 201)


async def list_webhooks(visit: Visit) -> Response:
    rows = [webhook.view(visit.aircall.base_url) for webhook in visit.aircall.webhooks.of(visit.company.id)]
    return page(visit.request, visit.aircall.base_url, "webhooks", in_order(visit.request, rows))


async def get_webhook(visit: Visit) -> Response:
    webhook = visit.aircall.webhooks.get(visit.company.id, visit.request.path_params["id"])
    return JSONResponse({"webhook": webhook.view(visit.aircall.base_url)})


async def update_webhook(visit: Visit) -> Response:
    wanted, action = await json_object(visit.request), visit.request.query_params.get("events_action")
    webhook_id = visit.request.path_params["id"]
    webhook = visit.aircall.webhooks.update(visit.company.id, webhook_id, wanted, action)
    visit.aircall.save()
    return JSONResponse({"webhook": webhook.view(visit.aircall.base_url)})


async def delete_webhook(visit: Visit) -> Response:
    visit.aircall.webhooks.delete(visit.company.id, visit.request.path_params["id"])
    visit.aircall.save()
    return Response(status_code=204)


async def list_calls(visit: Visit) -> Response:
    """`GET /v1/calls`: calls that started between `from` and `to` (UNIX seconds); ends after 10,000."""
    since = whole_number(visit.request, "from", 0)
    until = whole_number(visit.request, "to", 10**15)
    rows = [call for call in visit.company.calls.values() if since <= call["started_at"] <= until]
    rows.sort(key=lambda call: (call["started_at"], call["id"]))
    return page(visit.request, visit.aircall.base_url, "calls", in_order(visit.request, rows), bound=CALLS_BOUND)


async def get_call(visit: Visit) -> Response:
    call = visit.company.calls.get(visit.request.path_params["id"])
    if call is None:
        raise refusals.no_such_thing("Call")
    return JSONResponse({"call": call})


async def ai_of_call(visit: Visit) -> Response:
    """`GET /v1/calls/:id/transcription` and others: the pretend companies have no AI plan."""
    raise refusals.no_ai_plan()


async def list_numbers(visit: Visit) -> Response:
    return page(visit.request, visit.aircall.base_url, "numbers", companies.number_views(visit.company))


async def list_users(visit: Visit) -> Response:
    return page(visit.request, visit.aircall.base_url, "users", companies.user_views())


def admitted(verb: Callable[[Visit], Awaitable[Response]]) -> Endpoint:
    """Return an endpoint that needs a token: 401 without a header, 403 for a dead token, then the rate limit."""

    async def endpoint(request: Request) -> Response:
        return await verb(_admit(request))

    return endpoint


def _admit(request: Request) -> Visit:
    header = request.headers.get("authorization")
    if header is None:
        raise refusals.no_authorization()
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise refusals.bad_token()
    aircall = _aircall(request)
    visit = Visit(aircall, aircall.admit(token), request)
    require_json(request)
    return visit


def _switched(visit: Visit, *, active: bool) -> Response:
    visit.company.integration.active = active
    visit.aircall.save()
    return _integration(visit)


def _integration(visit: Visit) -> Response:
    with_id = not visit.aircall.habits.hide_integration_id
    return JSONResponse(companies.integration_view(visit.company, with_id=with_id))


def _aircall(request: Request) -> PretendAircall:
    aircall: PretendAircall = request.app.state.aircall
    return aircall


ROUTES = [
    Route("/v1/oauth/token", exchange, methods=["POST"]),
    Route("/v1/ping", admitted(ping), methods=["GET"]),
    Route("/v1/company", admitted(company), methods=["GET"]),
    Route("/v1/integrations/me", admitted(integration), methods=["GET"]),
    Route("/v1/integrations/enable", admitted(enable), methods=["POST"]),
    Route("/v1/integrations/disable", admitted(disable), methods=["POST"]),
    Route("/v1/webhooks", admitted(create_webhook), methods=["POST"]),
    Route("/v1/webhooks", admitted(list_webhooks), methods=["GET"]),
    Route("/v1/webhooks/{id}", admitted(get_webhook), methods=["GET"]),
    Route("/v1/webhooks/{id}", admitted(update_webhook), methods=["PUT"]),
    Route("/v1/webhooks/{id}", admitted(delete_webhook), methods=["DELETE"]),
    Route("/v1/calls", admitted(list_calls), methods=["GET"]),
    Route("/v1/calls/{id:int}", admitted(get_call), methods=["GET"]),
    Route("/v1/calls/{id:int}/{ai}", admitted(ai_of_call), methods=["GET"]),
    Route("/v1/numbers", admitted(list_numbers), methods=["GET"]),
    Route("/v2/users", admitted(list_users), methods=["GET"]),
]
