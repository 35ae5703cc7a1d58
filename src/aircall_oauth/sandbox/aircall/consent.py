"""The pages that an admin's browser sees at Aircall: consent, the non-admin's dead end, success."""

from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from aircall_oauth.sandbox.aircall.companies import Company
from aircall_oauth.sandbox.aircall.grants import Client
from aircall_oauth.sandbox.aircall.pages import form_fields, render
from aircall_oauth.sandbox.aircall.pretend import PretendAircall


class ConsentError(Exception):
    """The request names no valid redirect URI: answered with an error page, never with a redirect."""


@dataclass(frozen=True)
class Ask:
    """What the authorize URL asks for. `error` is set where the answer is a refusal by redirect."""

    query: str
    redirect_uri: str
    state: str | None
    challenge: str | None
    error: str | None


async def show(request: Request) -> Response:
    """`GET /oauth/authorize`."""
    aircall = _aircall(request)
    ask = _ask(request, aircall.grants.client)
    if ask.error is not None:
        return _back(ask, error=ask.error)
    return render("consent.html", ask=ask, companies=aircall.companies, client=aircall.grants.client)


async def decide(request: Request) -> Response:
    """The form of the consent page: `decision` is authorize, deny or not_admin."""
    aircall, form = _aircall(request), await form_fields(request)
    ask = _ask(request, aircall.grants.client)
    if ask.error is not None:
        return _back(ask, error=ask.error)
    match form.get("decision"):
        case "authorize":
            company = _chosen(aircall, form.get("company"))
            code = aircall.grant(company, redirect_uri=ask.redirect_uri, challenge=ask.challenge)
            return _back(ask, code=code)
        case "deny":
            return _back(ask, error="access_denied")
        case "not_admin":
            return RedirectResponse("/download", 303)
        case _:
            raise ConsentError("The form was sent without a decision.")


async def download(request: Request) -> Response:
    """Where a non-admin ends: nothing leads back to the partner from here."""
    return render("download.html")


async def success(request: Request) -> Response:
    return render("success.html")


async def cannot_ask(request: Request, error: Exception) -> Response:
    return render("error.html", status=400, reason=str(error))


def _ask(request: Request, client: Client) -> Ask:
    query = request.query_params
    if len(query.multi_items()) != len(query):
        raise ConsentError("A parameter is given more than once.")
    redirect_uri = query.get("redirect_uri", "")
    if redirect_uri not in client.redirect_uris:
        raise ConsentError("The redirect URI is not registered for this app.")
    challenge = query.get("code_challenge")
    return Ask(request.url.query, redirect_uri, query.get("state"), challenge, _error(query, client))


def _error(query: QueryParams, client: Client) -> str | None:
    if query.get("client_id") != client.id:
        return "invalid_client"
    if query.get("response_type") != "code":
        return "unsupported_response_type"
    if query.get("scope") != "public_api":
        return "invalid_scope"
    if "code_challenge" in query and query.get("code_challenge_method") != "S256":
        return "invalid_request"
    return None


def _chosen(aircall: PretendAircall, company_id: str | None) -> Company:
    try:
        return aircall.company(None if company_id is None else int(company_id))
    except (LookupError, ValueError):
        raise ConsentError("There is no such company.") from None


def _back(ask: Ask, **answer: str) -> Response:
    if ask.state is not None:
        answer["state"] = ask.state
    parts = urlsplit(ask.redirect_uri)
    query = "&".join(filter(None, [parts.query, urlencode(answer)]))
    return RedirectResponse(urlunsplit(parts._replace(query=query)), 303)


def _aircall(request: Request) -> PretendAircall:
    aircall: PretendAircall = request.app.state.aircall
    return aircall


ROUTES = [
    Route("/oauth/authorize", show, methods=["GET"]),
    Route("/oauth/authorize", decide, methods=["POST"]),
    Route("/oauth/success", success, methods=["GET"]),
    Route("/download", download, methods=["GET"]),
]
