"""Our voice to Aircall: what it says, what it makes of every answer, and what it never repeats."""

import asyncio
import json
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
import stamina
from pydantic import SecretStr

from aircall_oauth.aircall import client as client_module
from aircall_oauth.aircall.client import MAX_ANSWER_BYTES, MAX_PAGES, Aircall
from aircall_oauth.aircall.payloads import AircallWebhook, Identity
from aircall_oauth.errors import AircallRefused, AircallUnavailable

API = "https://api.example.com/v1"
REDIRECT_URI = "https://partner.example.com/aircall/oauth/callback"
HOOK_URL = "https://partner.example.com/aircall/webhook"
CODE = SecretStr("c4n4ry-code")
VERIFIER = "c4n4ry-verifier"
CLIENT_SECRET = SecretStr("c4n4ry-client-secret")
TOKEN = SecretStr("c4n4ry-token")
EVENTS = ["call.ended", "integration.deleted"]
ANSWERED = {"access_token": "a-new-token", "token_type": "Bearer"}
INTEGRATION = {"integration": {"id": 400123, "company_id": 70077, "number_ids": [55010], "active": True}}
HOOK = {"webhook": {"webhook_id": "6f1d2c3b", "url": HOOK_URL, "active": True, "events": EVENTS, "token": "wh7k"}}

Call = Callable[[Aircall], Awaitable[Any]]


def exchange(aircall: Aircall) -> Awaitable[Any]:
    return aircall.exchange_code(CODE, verifier=VERIFIER)


def ping(aircall: Aircall) -> Awaitable[Any]:
    return aircall._get(TOKEN, "/ping")


def create_webhook(aircall: Aircall) -> Awaitable[Any]:
    return aircall.create_webhook(TOKEN, url=HOOK_URL, name="ours", events=EVENTS)


def update_webhook(aircall: Aircall) -> Awaitable[Any]:
    return aircall.update_webhook(TOKEN, "6f1d2c3b", url=HOOK_URL, name="ours", events=EVENTS)


def delete_webhook(aircall: Aircall) -> Awaitable[Any]:
    return aircall.delete_webhook(TOKEN, "6f1d2c3b")


def disable(aircall: Aircall) -> Awaitable[Any]:
    return aircall.disable_integration(TOKEN)


def get_webhook(aircall: Aircall) -> Awaitable[Any]:
    return aircall.get_webhook(TOKEN, "6f1d2c3b")


def identify(aircall: Aircall) -> Awaitable[Any]:
    return aircall.identify(TOKEN)


async def listed(aircall: Aircall) -> list[AircallWebhook]:
    return [webhook async for webhook in aircall.list_webhooks(TOKEN)]


CALLS: list[Call] = [
    exchange,
    ping,
    create_webhook,
    update_webhook,
    delete_webhook,
    disable,
    get_webhook,
    identify,
    listed,
]
# What changes nothing at Aircall, or the same thing twice, is repeated; the rest is not.
REPEATED = [ping, update_webhook, delete_webhook]
NOT_REPEATED = [exchange, create_webhook, disable]


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    """As many attempts as ever, without the pauses between them."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def vendor() -> respx.MockRouter:
    return respx.MockRouter(base_url=API, assert_all_called=False)


@pytest.fixture
async def aircall(vendor: respx.MockRouter) -> AsyncIterator[Aircall]:
    async with opened(API, httpx.MockTransport(vendor.async_handler)) as client:
        yield client


@asynccontextmanager
async def opened(api_url: str, transport: httpx.AsyncBaseTransport | None = None) -> AsyncIterator[Aircall]:
    client = Aircall(
        api_url=api_url,
        client_id="our-client-id",
        client_secrets=[CLIENT_SECRET],
        redirect_uri=REDIRECT_URI,
        transport=transport,
    )
    try:
        yield client
    finally:
        await client.close()


def everything(vendor: respx.MockRouter, **answer: Any) -> respx.Route:
    """Whatever is asked is answered like this."""
    return vendor.route().mock(**answer)


def sent(route: respx.Route, number: int = 0) -> Any:
    return json.loads(route.calls[number].request.content)


def shown(error: BaseException) -> str:
    return f"{error} {error!r} {error.__dict__} " + "".join(traceback.format_exception(error))


async def refusal(call: Awaitable[Any]) -> AircallRefused:
    with pytest.raises(AircallRefused) as raised:
        await call
    assert "c4n4ry" not in shown(raised.value)
    return raised.value


async def unavailable(call: Awaitable[Any]) -> AircallUnavailable:
    with pytest.raises(AircallUnavailable) as raised:
        await call
    assert "c4n4ry" not in shown(raised.value)
    return raised.value


async def test_an_exchange_sends_the_five_fields_as_json(aircall: Aircall, vendor: respx.MockRouter) -> None:
    route = vendor.post("/oauth/token").respond(json=ANSWERED)

    token = await aircall.exchange_code(CODE)

    assert token.get_secret_value() == "a-new-token"
    request = route.calls.last.request
    assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers
    assert sent(route) == {
        "grant_type": "authorization_code",
        "code": CODE.get_secret_value(),
        "redirect_uri": REDIRECT_URI,
        "client_id": "our-client-id",
        "client_secret": CLIENT_SECRET.get_secret_value(),
    }


async def test_an_exchange_with_pkce_sends_the_verifier_too(aircall: Aircall, vendor: respx.MockRouter) -> None:
    route = vendor.post("/oauth/token").respond(json=ANSWERED)
    await aircall.exchange_code(CODE)

    await aircall.exchange_code(CODE, verifier=VERIFIER)

    assert sent(route, 1) == {**sent(route, 0), "code_verifier": VERIFIER}


@pytest.mark.parametrize("token", ["", "x" * 4097, "two words", "two\r\nlines", "tökén", "\ud800", 12, None, ["x"]])
async def test_a_token_that_fits_no_header_is_no_answer(aircall: Aircall, vendor: respx.MockRouter, token: Any) -> None:
    vendor.post("/oauth/token").respond(content=json.dumps({"access_token": token}).encode())

    assert (await unavailable(exchange(aircall))).reason == "the answer lacks or garbles access_token"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [400, 401, 403, 405, 422])
async def test_a_refusal_is_final(aircall: Aircall, vendor: respx.MockRouter, call: Call, status: int) -> None:
    everything(vendor, return_value=httpx.Response(status, json={"error": "Bad Request"}))

    refused = await refusal(call(aircall))

    assert (refused.aircall_status, refused.reason) == (status, "Bad Request")
    assert vendor.calls.call_count == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": "invalid_grant", "error_description": "…"}, "invalid_grant"),
        ({"error": "Bad Request", "troubleshoot": "Webhook limit reached"}, "Bad Request"),
        ({"message": "Forbidden"}, "Forbidden"),
        ({"error": None, "message": "", "troubleshoot": "Look here"}, "Look here"),
        ({"error": {"code": 7}}, "no reason given"),
        ({"error": "bell\x07\n" + "x" * 500}, "bell" + "x" * 96),
        (["error"], "no reason given"),
    ],
)
async def test_a_refusal_has_aircalls_reason(
    aircall: Aircall, vendor: respx.MockRouter, body: Any, reason: str
) -> None:
    everything(vendor, return_value=httpx.Response(403, json=body))

    assert (await refusal(exchange(aircall))).reason == reason


async def test_a_refusal_that_is_html_has_no_reason(aircall: Aircall, vendor: respx.MockRouter) -> None:
    everything(vendor, return_value=httpx.Response(403, html="<h1>Blocked</h1>"))

    assert (await refusal(exchange(aircall))).reason == "no reason given"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("field", ["error", "message", "troubleshoot"])
async def test_a_refusal_that_quotes_what_was_sent_loses_the_secrets(
    aircall: Aircall, vendor: respx.MockRouter, call: Call, field: str
) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        # What the test hopes not to see is what was really sent.
        assert b"c4n4ry" in request.content + request.headers.get("authorization", "").encode()
        what = request.content.decode() + request.headers.get("authorization", "")
        return httpx.Response(400, json={field: f"Did not like {what}"})

    everything(vendor, side_effect=echo)

    assert (await refusal(call(aircall))).reason.startswith("Did not like ")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(200, html="<h1>Sign in</h1>"), "the answer is not JSON"),
        (httpx.Response(200, content=b'{"access_token": "c4n4ry'), "the answer is not JSON"),
        (httpx.Response(200, content=b"\xff\xfe{}"), "the answer is not JSON"),
        (httpx.Response(200, content=b"[" * 100_000), "the answer is not JSON"),
        (httpx.Response(200, content=b'{"x": ' + b"9" * 10_000 + b"}"), "the answer is not JSON"),
        (httpx.Response(200, content=b"x" * (MAX_ANSWER_BYTES + 1)), "the answer is too large"),
        (httpx.Response(403, content=b"x" * (MAX_ANSWER_BYTES + 1)), "the answer is too large"),
        (httpx.Response(301, headers={"location": "https://evil.example.com"}), "status 301"),
        (httpx.Response(307, headers={"location": f"{API}/other"}), "status 307"),
        (httpx.Response(408), "status 408"),
        (httpx.Response(429, json={"error": "Too Many Requests"}), "status 429"),
        (httpx.Response(500, json={"access_token": "c4n4ry"}), "status 500"),
        (httpx.Response(503, html="c4n4ry"), "status 503"),
        (httpx.ConnectError("c4n4ry"), "no connection"),
        (httpx.ConnectTimeout("c4n4ry"), "no connection"),
        (httpx.PoolTimeout("c4n4ry"), "no connection"),
        (httpx.ReadTimeout("c4n4ry"), "timeout"),
        (httpx.WriteTimeout("c4n4ry"), "timeout"),
        (httpx.ReadError("c4n4ry"), "ReadError"),
        (httpx.RemoteProtocolError("c4n4ry"), "RemoteProtocolError"),
    ],
)
async def test_whatever_is_no_answer_is_unavailable(
    aircall: Aircall, vendor: respx.MockRouter, call: Call, answer: Any, reason: str
) -> None:
    mocked = {"return_value": answer} if isinstance(answer, httpx.Response) else {"side_effect": answer}
    everything(vendor, **mocked)

    assert (await unavailable(call(aircall))).reason == reason


@pytest.mark.parametrize("answer", ["{}", "[]", '"text"', "1", '{"integration": 7}', '{"webhook": []}', ""])
@pytest.mark.parametrize("call", [exchange, create_webhook, update_webhook, identify])
async def test_an_answer_that_lacks_what_we_read_is_unavailable(
    aircall: Aircall, vendor: respx.MockRouter, call: Call, answer: str
) -> None:
    everything(vendor, return_value=httpx.Response(200, content=answer.encode()))

    assert (await unavailable(call(aircall))).reason.startswith("the answer lacks or garbles")


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("soon", None), ("-1", None), ("", None)])
async def test_too_many_requests_tells_when_to_come_back(
    aircall: Aircall, vendor: respx.MockRouter, header: str, seconds: float | None
) -> None:
    everything(vendor, return_value=httpx.Response(429, headers={"retry-after": header}))

    assert (await unavailable(exchange(aircall))).retry_after_seconds == seconds


@pytest.mark.parametrize("thousand", [1, 1000], ids=["seconds", "milliseconds"])
async def test_too_many_requests_tells_when_aircalls_minute_begins_anew(
    aircall: Aircall, vendor: respx.MockRouter, thousand: int
) -> None:
    reset_at = int((time.time() + 60) * thousand)
    everything(vendor, return_value=httpx.Response(429, headers={"x-aircallapi-reset": str(reset_at)}))

    seconds = (await unavailable(exchange(aircall))).retry_after_seconds

    assert seconds is not None
    assert 50 < seconds <= 60


@pytest.mark.parametrize("call", REPEATED)
async def test_who_is_told_when_to_come_back_is_not_back_at_once(
    aircall: Aircall, vendor: respx.MockRouter, call: Call
) -> None:
    everything(vendor, return_value=httpx.Response(429, headers={"retry-after": "7"}))

    await unavailable(call(aircall))

    assert vendor.calls.call_count == 1


async def test_an_endless_answer_is_read_to_its_bound_only(aircall: Aircall, vendor: respx.MockRouter) -> None:
    chunk, given = b"x" * 65536, 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(800):
            given += len(chunk)
            yield chunk

    everything(vendor, return_value=httpx.Response(200, content=endless()))

    assert (await unavailable(exchange(aircall))).reason == "the answer is too large"
    assert given <= MAX_ANSWER_BYTES + len(chunk)


@pytest.mark.parametrize("call", REPEATED)
@pytest.mark.parametrize("trouble", [httpx.ReadTimeout("x"), httpx.ConnectError("x"), httpx.Response(502)])
async def test_what_changes_nothing_is_repeated(
    aircall: Aircall, vendor: respx.MockRouter, call: Call, trouble: Any
) -> None:
    everything(vendor, side_effect=[trouble, trouble, httpx.Response(200, json=HOOK)])

    await call(aircall)

    assert vendor.calls.call_count == 3


@pytest.mark.parametrize("call", REPEATED)
async def test_nothing_is_repeated_for_ever(aircall: Aircall, vendor: respx.MockRouter, call: Call) -> None:
    everything(vendor, return_value=httpx.Response(500))

    await unavailable(call(aircall))

    assert vendor.calls.call_count == 3


@pytest.mark.parametrize("call", NOT_REPEATED)
@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ReadTimeout("x"),
        httpx.WriteTimeout("x"),
        httpx.ReadError("x"),
        httpx.WriteError("x"),
        httpx.RemoteProtocolError("x"),
        httpx.Response(500),
        httpx.Response(502),
        httpx.Response(429, headers={"retry-after": "0"}),
        httpx.Response(200, content=b"{"),
    ],
)
async def test_what_may_have_reached_aircall_is_never_repeated(
    aircall: Aircall, vendor: respx.MockRouter, call: Call, trouble: Any
) -> None:
    everything(vendor, side_effect=[trouble, httpx.Response(200, json=ANSWERED | HOOK)])

    await unavailable(call(aircall))

    assert vendor.calls.call_count == 1


@pytest.mark.parametrize("trouble", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.PoolTimeout("x")])
async def test_an_exchange_that_never_left_is_repeated(
    aircall: Aircall, vendor: respx.MockRouter, trouble: Exception
) -> None:
    everything(vendor, side_effect=[trouble, trouble, httpx.Response(200, json=ANSWERED)])

    token = await aircall.exchange_code(CODE)

    assert token.get_secret_value() == "a-new-token"
    assert sent_codes(vendor) == [CODE.get_secret_value()] * 3


def sent_codes(vendor: respx.MockRouter) -> list[str]:
    return [json.loads(call.request.content)["code"] for call in vendor.calls]


async def test_an_exchange_that_left_the_second_time_is_not_sent_a_third(
    aircall: Aircall, vendor: respx.MockRouter
) -> None:
    everything(
        vendor, side_effect=[httpx.ConnectError("x"), httpx.ReadTimeout("x"), httpx.Response(200, json=ANSWERED)]
    )

    assert (await unavailable(exchange(aircall))).reason == "timeout"
    assert vendor.calls.call_count == 2


async def test_identify_tells_whose_token_it_is(aircall: Aircall, vendor: respx.MockRouter) -> None:
    me = vendor.get("/integrations/me").respond(json=INTEGRATION)
    vendor.get("/company").respond(json={"company": {"name": "Northwind"}})

    identity = await aircall.identify(TOKEN)

    assert identity == Identity(
        company_id=70077, integration_id=400123, company_name="Northwind", number_ids=[55010], active=True
    )
    assert me.calls.last.request.headers["authorization"] == "Bearer c4n4ry-token"


async def test_identify_works_without_the_integrations_id(aircall: Aircall, vendor: respx.MockRouter) -> None:
    vendor.get("/integrations/me").respond(json={"integration": {"company_id": 70077, "number_ids": None}})
    vendor.get("/company").respond(json={"company": {"name": "Northwind"}})

    identity = await aircall.identify(TOKEN)

    assert identity == Identity(company_id=70077, integration_id=None, company_name="Northwind", number_ids=[])


@pytest.mark.parametrize(
    "company",
    [
        httpx.Response(500),
        httpx.Response(403, json={"message": "Forbidden"}),
        httpx.Response(404),
        httpx.Response(429),
        httpx.Response(200, html="<p>"),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"company": {"name": 7}}),
        httpx.ReadTimeout("x"),
    ],
)
async def test_identify_works_without_the_companys_name(
    aircall: Aircall, vendor: respx.MockRouter, company: Any
) -> None:
    vendor.get("/integrations/me").respond(json=INTEGRATION)
    route = vendor.get("/company")
    route.mock(**({"return_value": company} if isinstance(company, httpx.Response) else {"side_effect": company}))

    identity = await aircall.identify(TOKEN)

    assert (identity.company_id, identity.company_name) == (70077, None)


async def test_a_companys_name_that_no_database_keeps_is_mended(aircall: Aircall, vendor: respx.MockRouter) -> None:
    vendor.get("/integrations/me").respond(json=INTEGRATION)
    vendor.get("/company").respond(content=rb'{"company": {"name": "North\u0000wind \ud800 \u00fc"}}')

    assert (await aircall.identify(TOKEN)).company_name == "Northwind ? ü"


@pytest.mark.parametrize("company_id", [None, "70077", 1.5, -1, 2**63, True, {}])
async def test_identify_does_not_guess_a_companys_id(
    aircall: Aircall, vendor: respx.MockRouter, company_id: Any
) -> None:
    vendor.get("/integrations/me").respond(json={"integration": {"company_id": company_id}})

    assert "integration.company_id" in (await unavailable(aircall.identify(TOKEN))).reason


async def test_creating_a_webhook_for_all_events_leaves_them_out(aircall: Aircall, vendor: respx.MockRouter) -> None:
    route = vendor.post("/webhooks").respond(201, json=HOOK)

    await aircall.create_webhook(TOKEN, url=HOOK_URL, name="ours", events=[])
    webhook = await aircall.create_webhook(TOKEN, url=HOOK_URL, name="ours", events=EVENTS)

    assert sent(route, 0) == {"custom_name": "ours", "url": HOOK_URL}
    assert sent(route, 1) == {"custom_name": "ours", "url": HOOK_URL, "events": EVENTS}
    assert webhook.token is not None
    assert webhook.token.get_secret_value() == "wh7k"
    assert "wh7k" not in f"{webhook!r} {webhook}"


async def test_a_put_on_a_webhook_always_carries_the_events(aircall: Aircall, vendor: respx.MockRouter) -> None:
    route = vendor.put("/webhooks/6f1d2c3b").respond(json=HOOK)

    await update_webhook(aircall)
    with pytest.raises(ValueError, match="events"):
        await aircall.update_webhook(TOKEN, "6f1d2c3b", url=HOOK_URL, name="ours", events=[])

    assert route.call_count == 1
    assert sent(route) == {"custom_name": "ours", "url": HOOK_URL, "events": EVENTS, "active": True}


async def test_deleting_a_webhook_that_is_gone_is_no_error(aircall: Aircall, vendor: respx.MockRouter) -> None:
    route = vendor.delete("/webhooks/6f1d2c3b").mock(
        side_effect=[httpx.Response(204), httpx.Response(404, json={"message": "Not Found"})]
    )

    await delete_webhook(aircall)
    await delete_webhook(aircall)

    assert route.calls.last.request.headers["content-type"] == "application/json"


def page_of(ids: list[int], *, more: bool) -> dict[str, Any]:
    webhooks = [{"webhook_id": f"w{number}", "url": HOOK_URL, "token": "wh7k"} for number in ids]
    return {"meta": {"next_page_link": f"{API}/webhooks?page=2" if more else None}, "webhooks": webhooks}


async def test_webhooks_are_listed_page_by_page(aircall: Aircall, vendor: respx.MockRouter) -> None:
    pages = [page_of([1, 2], more=True), page_of([3], more=True), page_of([4], more=False)]
    route = vendor.get("/webhooks").mock(side_effect=[httpx.Response(200, json=page) for page in pages])

    assert [webhook.webhook_id for webhook in await listed(aircall)] == ["w1", "w2", "w3", "w4"]
    asked = [call.request.url.params for call in route.calls]
    assert [(query["page"], query["per_page"]) for query in asked] == [("1", "50"), ("2", "50"), ("3", "50")]


async def test_a_list_of_webhooks_ends_with_an_empty_page(aircall: Aircall, vendor: respx.MockRouter) -> None:
    pages = [page_of([1], more=True), page_of([], more=True)]
    vendor.get("/webhooks").mock(side_effect=[httpx.Response(200, json=page) for page in pages])

    assert len(await listed(aircall)) == 1


async def test_a_list_of_webhooks_that_never_ends_is_bounded(aircall: Aircall, vendor: respx.MockRouter) -> None:
    route = vendor.get("/webhooks").respond(json=page_of([1], more=True))

    assert len(await listed(aircall)) == MAX_PAGES
    assert route.call_count == MAX_PAGES


@pytest.mark.parametrize("webhook_id", ["../company", "a/b", "a?b", "", "x" * 101, 26316, None])
async def test_a_webhooks_id_that_would_change_the_address_is_no_answer(
    aircall: Aircall, vendor: respx.MockRouter, webhook_id: Any
) -> None:
    vendor.post("/webhooks").respond(201, json={"webhook": {"webhook_id": webhook_id}})

    assert "webhook.webhook_id" in (await unavailable(create_webhook(aircall))).reason


async def test_every_sample_of_an_answer_is_understood(
    aircall: Aircall, vendor: respx.MockRouter, samples: Path
) -> None:
    def sample(name: str) -> httpx.Response:
        return httpx.Response(200, content=(samples / f"rest.{name}.json").read_bytes())

    vendor.post("/oauth/token").mock(return_value=sample("oauth-token.200"))
    vendor.get("/integrations/me").mock(
        side_effect=[sample("integrations-me.200"), sample("integrations-me.200.without-id")]
    )
    vendor.get("/company").mock(return_value=sample("company.200"))
    vendor.get("/ping").mock(return_value=sample("ping.200"))
    vendor.post("/integrations/disable").mock(return_value=sample("integrations-disable.200"))
    vendor.post("/webhooks").mock(return_value=sample("webhooks.create.201"))
    vendor.get("/webhooks").mock(return_value=sample("webhooks.list.200"))
    vendor.get("/webhooks/x").mock(side_effect=[sample("webhooks.get.200"), sample("webhooks.get.200.auto-disabled")])
    vendor.put("/webhooks/x").mock(return_value=sample("webhooks.update.200"))
    hook: dict[str, Any] = {"url": HOOK_URL, "name": "ours", "events": EVENTS}

    token = await aircall.exchange_code(CODE)
    identities = [await aircall.identify(token) for _ in range(2)]
    webhooks = [
        await aircall.create_webhook(token, **hook),
        *[webhook async for webhook in aircall.list_webhooks(token)],
        *[await aircall.get_webhook(token, "x") for _ in range(2)],
        await aircall.update_webhook(token, "x", **hook),
    ]
    await aircall._get(token, "/ping")
    await aircall.disable_integration(token)

    assert len(token.get_secret_value()) == 40
    assert [identity.integration_id for identity in identities] == [400123, None]
    assert {(identity.company_id, identity.company_name) for identity in identities} == {(70077, "Northwind Demo Ltd")}
    assert [webhook.active for webhook in webhooks] == [True, True, True, False, True]
    assert {webhook.webhook_id for webhook in webhooks} == {"6f1d2c3b-0000-4000-8000-0000000000d1"}
    assert {len(webhook.token.get_secret_value()) for webhook in webhooks if webhook.token} == {20}


@pytest.mark.parametrize(
    ("name", "status", "outcome"),
    [
        ("oauth-token.400-invalid-grant.inferred", 400, "invalid_grant"),
        ("oauth-token.401-invalid-client.inferred", 401, "invalid_client"),
        ("error.400-app", 400, "Bad Request"),
        ("error.401-edge", 401, "Unauthorized"),
        ("error.403-edge", 403, "Forbidden"),
        ("error.404-edge", 404, "Not Found"),
        ("error.405-state", 405, "Method Not Allowed"),
        ("error.422-app", 422, "Unprocessable Entity"),
        ("webhooks.create.400-limit.inferred", 400, "Bad Request"),
    ],
)
async def test_every_sample_of_a_refusal_is_understood(
    aircall: Aircall, vendor: respx.MockRouter, samples: Path, name: str, status: int, outcome: str
) -> None:
    everything(vendor, return_value=httpx.Response(status, content=(samples / f"rest.{name}.json").read_bytes()))

    assert (await refusal(create_webhook(aircall))).reason == outcome


Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(conversation: Conversation) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A real server on loopback: its address, and the head of each request that came."""
    heads: list[bytes] = []
    tasks: set[asyncio.Task[Any]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await conversation(reader, writer)
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answer_pong(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{"ping":"pong"}')
    await writer.drain()


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_an_answer_that_drips_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read succeeds at once, so only the deadline of the whole call ends this."""
    monkeypatch.setattr(client_module, "TOTAL_SECONDS", 0.2)
    async with listening(drip) as (address, heads), opened(f"{address}/v1") as aircall, asyncio.timeout(5):
        assert (await unavailable(exchange(aircall))).reason == "timeout"

    assert len(heads) == 1


async def test_a_connection_dropped_before_the_answer_is_not_asked_again_for_a_token() -> None:
    async with listening(hang_up) as (address, heads), opened(f"{address}/v1") as aircall:
        await unavailable(exchange(aircall))
        assert len(heads) == 1

        await unavailable(ping(aircall))
        assert len(heads) == 1 + 3


async def test_a_port_that_nobody_listens_on_is_unavailable() -> None:
    async with listening(answer_pong) as (address, _):
        pass

    async with opened(f"{address}/v1") as aircall:
        assert (await unavailable(exchange(aircall))).reason == "no connection"


async def test_no_proxy_and_no_password_file_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login c4n4ry password c4n4ry\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with listening(answer_pong) as (address, heads), listening(answer_pong) as (proxy, asked_of_proxy):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        async with opened(f"{address}/v1") as aircall:
            await ping(aircall)

    assert asked_of_proxy == []
    (head,) = heads
    assert head.startswith(b"GET /v1/ping HTTP/1.1\r\n")
    assert b"authorization: Bearer c4n4ry-token\r\n" in head.lower().replace(b"bearer", b"Bearer")
    assert b"accept-encoding: identity\r\n" in head.lower()
