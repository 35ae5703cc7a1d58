"""Breaking the pretend Aircall on purpose, and its control page and API."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from aircall_oauth.sandbox.aircall import PretendAircall, create_app, read

REDIRECT_URI = "https://partner.example.com/aircall/oauth/callback"
HOOK_URL = "https://partner.example.com/aircall/webhooks"


@pytest.fixture
def aircall() -> PretendAircall:
    return PretendAircall(
        client_id="demo-client",
        client_secret="demo-secret",
        redirect_uris=[REDIRECT_URI],
        webhook_attempt_pause=0,
        transport=httpx.MockTransport(lambda _: httpx.Response(200)),
    )


@pytest.fixture
def token(aircall: PretendAircall) -> str:
    request = {
        "client_id": "demo-client",
        "client_secret": "demo-secret",
        "redirect_uri": REDIRECT_URI,
        "grant_type": "authorization_code",
        "code": aircall.grant(),
    }
    return aircall.exchange(request).access_token


@pytest.fixture
async def client(aircall: PretendAircall, token: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(aircall))
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://aircall.test", headers=headers) as client:
        yield client
    await aircall.close()


async def test_a_door_is_broken_for_so_many_requests(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    aircall.break_next("ping", "error_500", times=2)

    answers = [(await client.get("/v1/ping")).status_code for _ in range(3)]
    company = await client.get("/v1/company")

    assert (answers, company.status_code) == ([500, 500, 200], 200)
    assert [row.broken for row in aircall.requests] == ["error_500", "error_500", None, None]


async def test_html_and_429_come_instead_of_the_answer(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    aircall.break_next("all", "html")
    aircall.break_next("all", "status_429")

    html, limited = await client.get("/v1/ping"), await client.get("/v1/ping")

    assert (html.status_code, html.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (limited.status_code, limited.headers["x-aircallapi-remaining"]) == (429, "0")


async def test_a_huge_answer_is_as_huge_as_asked(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    aircall.break_next("ping", "huge", size=200_000)

    answer = (await client.get("/v1/ping")).json()

    assert len(answer["access_token"]) == 200_000


async def test_a_slow_door_answers_in_the_end(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    aircall.break_next("ping", "slow", seconds=0)

    answer = await client.get("/v1/ping")

    assert (answer.json(), aircall.requests[0].broken) == (read("rest.ping.200"), "slow")


async def test_a_dropped_reply_comes_after_the_work_and_a_dropped_request_before_it(
    client: httpx.AsyncClient, aircall: PretendAircall
) -> None:
    aircall.break_next("POST webhooks", "drop_reply")
    aircall.break_next("POST webhooks", "drop_request")

    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/v1/webhooks", json={"url": HOOK_URL})

    listed = await client.get("/v1/webhooks")
    assert len(listed.json()["webhooks"]) == 1
    assert [row.status for row in aircall.requests] == [None, None, 200]


async def test_healing_mends_everything(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    aircall.break_next("all", "error_500", times=100)

    await client.post("/control/heal")

    assert (await client.get("/v1/ping")).status_code == 200


@pytest.mark.parametrize(("how", "times"), [("explode", 1), ("html", 0)])
def test_breaking_refuses_what_it_cannot_do(aircall: PretendAircall, how: str, times: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        aircall.break_next("ping", how, times)  # type: ignore[arg-type]


async def test_control_places_a_call_and_tells_of_its_deliveries(
    client: httpx.AsyncClient, aircall: PretendAircall, token: str
) -> None:
    webhook = (await client.post("/v1/webhooks", json={"url": HOOK_URL})).json()["webhook"]

    placed = (await client.post("/control/place-call", json={"company": 70077})).json()
    await aircall.settle()
    told = await client.get("/control/deliveries")

    assert list(aircall.companies[0].calls) == [placed["call_id"]]
    assert [row["status"] for row in told.json()["deliveries"]] == ["delivered"] * 5
    assert webhook["token"] not in told.text


async def test_control_sends_an_event_with_other_data_more_than_once(
    client: httpx.AsyncClient, aircall: PretendAircall
) -> None:
    await client.post("/v1/webhooks", json={"url": HOOK_URL})

    order = {"name": "contact.created", "data": {"id": 7}, "repeat": 2}
    sent = (await client.post("/control/send-event", json=order)).json()
    await aircall.settle()

    assert [delivery.number for delivery in aircall.deliveries] == sent["deliveries"]
    assert {delivery.body.endswith(b'"data":{"id":7}}') for delivery in aircall.deliveries} == {True}


@pytest.mark.parametrize("manner", ["burst", "late_repeat", "out_of_order"])
async def test_control_sends_as_a_hard_day_would(
    client: httpx.AsyncClient, aircall: PretendAircall, manner: str
) -> None:
    await client.post("/v1/webhooks", json={"url": HOOK_URL})
    aircall.late_seconds = 0.01

    await client.post("/control/send-event", data={"name": "contact.created", "manner": manner})
    await aircall.settle()

    bodies = [json.loads(delivery.body) for delivery in aircall.deliveries]
    ids = [body["data"]["id"] for body in bodies]
    moments = [body["timestamp"] for body in bodies]
    assert len(bodies) == (50 if manner == "burst" else 2)
    assert len(set(ids)) == (1 if manner == "late_repeat" else len(bodies))
    assert manner != "late_repeat" or bodies[0] == bodies[1]
    assert manner != "out_of_order" or moments[0] == moments[1] + 60


async def test_control_uninstalls(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    await client.post("/control/uninstall", json={"keep_integration_id": False})

    assert (await client.get("/v1/ping")).status_code == 403
    assert aircall.companies[0].integration.id == 401123


async def test_control_gives_consent_breaks_doors_and_changes_habits(
    client: httpx.AsyncClient, aircall: PretendAircall
) -> None:
    code = (await client.post("/control/grant", json={"company": 70079})).json()["code"]
    broken = await client.post("/control/break", json={"door": "oauth/token", "how": "html", "times": 2})
    habits = await client.post("/control/settings", json={"rate_per_minute": 5, "hide_integration_id": True})

    assert aircall.grants.codes[code].company_id == 70079
    assert (broken.json()["broken"][0]["door"], broken.json()["broken"][0]["times"]) == ("oauth/token", 2)
    assert (habits.json()["rate_per_minute"], aircall.habits.hide_integration_id) == (5, True)


@pytest.mark.parametrize(
    ("path", "order"),
    [
        ("place-call", {"company": 1}),
        ("send-event", {}),
        ("send-event", {"name": "../../secret"}),
        ("send-event", {"name": "call.ended", "company": 1}),
        ("break", {"how": "explode"}),
        ("break", {"how": "html", "times": 0}),
        ("uninstall", {"company": "x"}),
        ("settings", {"speed": 1}),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_with_a_reason(
    client: httpx.AsyncClient, path: str, order: dict[str, object]
) -> None:
    response = await client.post(f"/control/{path}", json=order)

    assert (response.status_code, list(response.json())) == (400, ["error"])


async def test_state_and_ledger_show_no_whole_secret(client: httpx.AsyncClient, token: str) -> None:
    webhook = (await client.post("/v1/webhooks", json={"url": HOOK_URL})).json()["webhook"]

    shown = [(await client.get(path)).text for path in ("/", "/control/state", "/control/ledger")]

    assert all(secret not in text for text in shown for secret in (token, webhook["token"], "demo-secret"))
    assert f"{token[:4]}…{token[-4:]}" in shown[0]
    assert webhook["webhook_id"] in shown[1]
    assert "/v1/webhooks" in shown[2]


async def test_the_page_works_with_plain_forms(client: httpx.AsyncClient, aircall: PretendAircall) -> None:
    await client.post("/v1/webhooks", json={"url": "https://partner.example.com/<b>"})

    called = await client.post("/control/place-call", data={"company": "70077", "pause": "0"})
    broken = await client.post("/control/break", data={"door": "ping", "how": "html", "times": "1"})
    wrong = await client.post("/control/send-event", data={"name": ""})
    await aircall.settle()
    page = await client.get("/")

    assert (called.status_code, called.headers["location"], broken.status_code) == (303, "/", 303)
    assert (wrong.status_code, wrong.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert "call.ended" in page.text
    assert "<code>ping</code>: html" in page.text
    assert "<b>" not in page.text


async def test_an_unknown_page_is_a_page(client: httpx.AsyncClient) -> None:
    response = await client.get("/nothing")

    assert (response.status_code, response.headers["content-type"]) == (404, "text/html; charset=utf-8")
