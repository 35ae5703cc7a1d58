"""The pretend Aircall's REST doors: shapes, refusals, webhooks and their trap, calls, the rate limit."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aircall_oauth.sandbox.aircall import EVENT_NAMES, PretendAircall, create_app, read

REDIRECT_URI = "https://partner.example.com/aircall/oauth/callback"
HOOK_URL = "https://partner.example.com/aircall/webhooks"
AS_JSON = {"content-type": "application/json"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def aircall(clock: Clock) -> PretendAircall:
    return PretendAircall(
        client_id="demo-client",
        client_secret="demo-secret",
        redirect_uris=[REDIRECT_URI],
        rate_per_minute=1000,
        clock=clock,
    )


@pytest.fixture
async def visitor(aircall: PretendAircall) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(aircall))
    async with httpx.AsyncClient(transport=transport, base_url="http://aircall.test") as client:
        yield client
    await aircall.close()


@pytest.fixture
def client(visitor: httpx.AsyncClient, aircall: PretendAircall) -> httpx.AsyncClient:
    visitor.headers["authorization"] = f"Bearer {new_token(aircall)}"
    return visitor


def new_token(aircall: PretendAircall, company: int | None = None) -> str:
    request = {
        "client_id": "demo-client",
        "client_secret": "demo-secret",
        "redirect_uri": REDIRECT_URI,
        "grant_type": "authorization_code",
        "code": aircall.grant(company),
    }
    return aircall.exchange(request).access_token


async def create(client: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    response = await client.post("/v1/webhooks", json={"url": HOOK_URL, **wanted})
    assert response.status_code == 201
    webhook: dict[str, Any] = response.json()["webhook"]
    return webhook


@pytest.mark.parametrize(
    ("path", "sample"),
    [
        ("/v1/ping", "rest.ping.200"),
        ("/v1/company", "rest.company.200"),
        ("/v1/integrations/me", "rest.integrations-me.200"),
    ],
)
async def test_the_first_company_answers_exactly_as_the_sample(
    client: httpx.AsyncClient, path: str, sample: str
) -> None:
    assert read(sample) == (await client.get(path)).json()


async def test_integration_may_come_without_its_id(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    aircall.habits.hide_integration_id = True

    response = await client.get("/v1/integrations/me")

    assert read("rest.integrations-me.200.without-id") == response.json()


async def test_integration_is_switched_off_and_on(client: httpx.AsyncClient) -> None:
    off = await client.post("/v1/integrations/disable", headers=AS_JSON)
    on = await client.post("/v1/integrations/enable", headers=AS_JSON)

    assert read("rest.integrations-disable.200") == off.json()
    assert read("rest.integrations-enable.200") == on.json()


async def test_edge_answers_no_header_a_bad_token_and_an_unknown_path_each_its_own_way(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    good = dict(client.headers)
    del client.headers["authorization"]
    no_header = await client.get("/v1/ping")
    bad_token = await client.get("/v1/ping", headers={"authorization": "Bearer 00"})
    basic = await client.get("/v1/ping", headers={"authorization": "Basic eDp5"})
    no_path = await client.get("/v1/me", headers={"authorization": good["authorization"]})
    no_method = await client.patch("/v1/ping", headers={"authorization": good["authorization"]})

    assert (no_header.status_code, no_header.json()) == (401, read("rest.error.401-edge"))
    assert (bad_token.status_code, bad_token.json()) == (403, read("rest.error.403-edge"))
    assert (basic.status_code, basic.json()) == (403, read("rest.error.403-edge"))
    assert (no_path.status_code, no_path.json()) == (404, read("rest.error.404-edge"))
    assert (no_method.status_code, no_method.json()) == (404, read("rest.error.404-edge"))
    assert "apigw-requestid" in no_header.headers


async def test_a_company_has_so_many_requests_a_minute_whatever_token_asks(
    visitor: httpx.AsyncClient, aircall: PretendAircall, clock: Clock
) -> None:
    aircall.habits.rate_per_minute = 2
    first, second, other = new_token(aircall), new_token(aircall), new_token(aircall, 70078)

    async def ping(token: str) -> httpx.Response:
        return await visitor.get("/v1/ping", headers={"authorization": f"Bearer {token}"})

    answers = [await ping(first), await ping(second), await ping(first), await ping(other)]
    clock.now += 60
    later = await ping(first)

    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert read("rest.error.429")["body"] == answers[2].json()
    assert (answers[2].headers["x-aircallapi-limit"], answers[2].headers["x-aircallapi-remaining"]) == (
        "2",
        "0",
    )
    assert float(answers[2].headers["x-aircallapi-reset"]) > 1_800_000_000
    assert "x-aircallapi-limit" not in answers[0].headers
    assert later.status_code == 200


async def test_a_new_webhook_has_the_documented_fields_and_a_token_that_can_be_read_again(
    client: httpx.AsyncClient,
) -> None:
    webhook = await create(client, events=["call.created", "integration.deleted"], custom_name="Demo")

    shown = (await client.get(f"/v1/webhooks/{webhook['webhook_id']}")).json()["webhook"]

    assert webhook.keys() == read("rest.webhooks.create.201")["webhook"].keys()
    assert shown.keys() == read("rest.webhooks.get.200")["webhook"].keys()
    assert {**webhook, "custom_name": "Demo"} == shown


async def test_a_webhook_is_found_by_its_old_numeric_id_too(client: httpx.AsyncClient) -> None:
    webhook = await create(client)
    number = webhook["direct_link"].rpartition("/")[2]

    assert (await client.get(f"/v1/webhooks/{number}")).status_code == 200


@pytest.mark.parametrize("events", [{}, {"events": []}, {"events": None}])
async def test_no_events_means_all_of_them(client: httpx.AsyncClient, events: dict[str, Any]) -> None:
    webhook = await create(client, **events)

    assert list(EVENT_NAMES) == webhook["events"]


async def test_updating_without_events_subscribes_to_all_of_them(client: httpx.AsyncClient) -> None:
    webhook = await create(client, events=["call.ended"])

    updated = await client.put(f"/v1/webhooks/{webhook['webhook_id']}", json={"active": True})

    assert len(EVENT_NAMES) == len(updated.json()["webhook"]["events"])


@pytest.mark.parametrize(
    ("action", "given", "expected"),
    [
        ("add", ["call.tagged", "call.ended"], ["call.created", "call.ended", "call.tagged"]),
        ("remove", ["call.created"], ["call.ended"]),
        ("add", [], ["call.created", "call.ended"]),
    ],
)
async def test_events_action_changes_the_list_by_a_delta(
    client: httpx.AsyncClient, action: str, given: list[str], expected: list[str]
) -> None:
    webhook = await create(client, events=["call.created", "call.ended"])

    updated = await client.put(
        f"/v1/webhooks/{webhook['webhook_id']}", params={"events_action": action}, json={"events": given}
    )

    assert expected == updated.json()["webhook"]["events"]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"url": "http://partner.example.com/"},
        {"url": "https://"},
        {"url": 5},
        {"url": "https://[oops"},
        {"url": HOOK_URL, "events": ["call.imagined"]},
        {"url": HOOK_URL, "events": "call.ended"},
        {"url": HOOK_URL, "events": [["call.ended"]]},
        {"url": HOOK_URL, "custom_name": 5},
    ],
)
async def test_a_webhook_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, aircall: PretendAircall, wanted: dict[str, Any]
) -> None:
    response = await client.post("/v1/webhooks", json=wanted)

    assert (response.status_code, response.json().keys()) == (400, read("rest.error.400-app").keys())
    assert aircall.webhooks.all == []


async def test_plain_http_is_for_localhost_only(client: httpx.AsyncClient) -> None:
    webhook = await create(client, url="http://127.0.0.1:8000/aircall/webhook")

    assert webhook["active"]


async def test_the_same_url_may_be_registered_twice(client: httpx.AsyncClient) -> None:
    first, second = await create(client), await create(client)

    assert first["webhook_id"] != second["webhook_id"]
    assert first["token"] != second["token"]


async def test_a_company_has_a_hundred_webhooks_at_most(client: httpx.AsyncClient) -> None:
    for _ in range(100):
        await create(client)

    response = await client.post("/v1/webhooks", json={"url": HOOK_URL})

    assert (response.status_code, response.json()) == (400, read("rest.webhooks.create.400-limit.inferred"))


async def test_webhooks_are_listed_page_by_page(client: httpx.AsyncClient) -> None:
    created = [(await create(client))["webhook_id"] for _ in range(5)]

    first = (await client.get("/v1/webhooks", params={"per_page": 3, "order": "desc"})).json()
    second = (await client.get(first["meta"]["next_page_link"])).json()

    assert created[::-1] == [row["webhook_id"] for row in first["webhooks"] + second["webhooks"]]
    assert read("rest.webhooks.list.200")["meta"].keys() == first["meta"].keys()
    assert (first["meta"]["total"], first["meta"]["count"], second["meta"]["count"]) == (5, 3, 2)
    assert second["meta"]["next_page_link"] is None


async def test_deleting_twice_is_204_then_404(client: httpx.AsyncClient) -> None:
    path = f"/v1/webhooks/{(await create(client))['webhook_id']}"

    first = await client.delete(path, headers=AS_JSON)
    second = await client.delete(path, headers=AS_JSON)

    assert (first.status_code, first.content, second.status_code) == (204, b"", 404)


async def test_a_token_sees_only_its_own_webhooks(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    webhook = await create(client)
    stranger = {"authorization": f"Bearer {new_token(aircall, 70078)}"}

    listed = await client.get("/v1/webhooks", headers=stranger)
    shown = await client.get(f"/v1/webhooks/{webhook['webhook_id']}", headers=stranger)

    assert (listed.json()["webhooks"], shown.status_code) == ([], 404)


async def test_changing_something_takes_the_json_content_type(client: httpx.AsyncClient) -> None:
    path = f"/v1/webhooks/{(await create(client))['webhook_id']}"

    assert (await client.delete(path)).status_code == 400
    assert (await client.post("/v1/integrations/disable")).status_code == 400


async def test_a_placed_call_is_listed_and_found(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    call_id = await aircall.place_call()

    listed = (await client.get("/v1/calls")).json()
    shown = (await client.get(f"/v1/calls/{call_id}")).json()["call"]

    assert [shown] == listed["calls"]
    assert (shown["status"], shown["sid"]) == ("done", f"CA{call_id:032d}")
    assert set(read("rest.calls.get.200")["call"]) <= set(shown)
    assert (await client.get("/v1/calls/1")).status_code == 404


async def test_calls_are_narrowed_by_when_they_started(
    client: httpx.AsyncClient, aircall: PretendAircall, clock: Clock
) -> None:
    early = await aircall.place_call()
    clock.now += 3600
    late = await aircall.place_call()

    recent = (await client.get("/v1/calls", params={"from": int(clock.now) - 600})).json()["calls"]
    older = (await client.get("/v1/calls", params={"to": int(clock.now) - 600})).json()["calls"]

    assert ([late], [early]) == ([call["id"] for call in recent], [call["id"] for call in older])


async def test_pages_are_bounded_and_so_is_the_list_of_calls(
    client: httpx.AsyncClient, aircall: PretendAircall
) -> None:
    template = aircall.companies[0].calls[await aircall.place_call()]
    aircall.companies[0].calls = {number: {**template, "id": number} for number in range(1, 10_003)}

    first = (await client.get("/v1/calls", params={"per_page": 500})).json()
    last = (await client.get("/v1/calls", params={"per_page": 50, "page": 200})).json()

    beyond = await client.get("/v1/calls", params={"per_page": 50, "page": 201})

    assert (len(first["calls"]), first["meta"]["total"]) == (50, 10_002)
    assert last["calls"][-1]["id"] == 10_000
    assert last["meta"]["next_page_link"], "the page that is refused is linked"
    assert beyond.status_code == 400


@pytest.mark.parametrize("query", ["page=x", "per_page=-1", "page=²", "from=1.5", "order=up", "page=" + "9" * 99])
async def test_a_garbled_query_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/v1/calls?{query}")).status_code == 400


async def test_numbers_and_users_are_listed(client: httpx.AsyncClient) -> None:
    numbers = (await client.get("/v1/numbers")).json()
    users = (await client.get("/v2/users")).json()

    assert [number["id"] for number in numbers["numbers"]] == [55010, 55011, 55012]
    assert read("rest.numbers.list.200")["numbers"][0] == numbers["numbers"][0]
    assert read("rest.users-v2.list.200") == users


async def test_ledger_tells_every_request_and_no_secret(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    await client.get("/v1/webhooks", params={"page": 1})
    await client.get("/v1/nothing")

    seen = [(row.method, row.path, row.query, row.status, row.company_id) for row in aircall.requests]
    assert seen == [
        ("GET", "/v1/webhooks", "page=1", 200, 70077),
        ("GET", "/v1/nothing", "", 404, 70077),
    ]
    assert client.headers["authorization"][-40:] not in repr(aircall.requests)
