"""How the clients ask: repeated where that is safe, patient as told, paged, and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from aircall_oauth_client import (
    AircallError,
    AsyncClient,
    ClaimNotFound,
    Client,
    ConnectionLost,
    PositionGone,
    ServiceError,
    SubscriptionDiffers,
    Unavailable,
    way_home,
)
from aircall_oauth_client._sync import client as blocking
from aircall_oauth_client._sync import events as blocking_events

Answer = Callable[[httpx.Request], httpx.Response]
INSTALLATION = {"id": "ins_1", "company_name": "Northwind"}


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(blocking, "sleep", waited.append)
    monkeypatch.setattr(blocking_events, "sleep", waited.append)
    return waited


class Script:
    """Answers one request after another; an exception is raised in place of an answer."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.asked = list(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(script: Script, **options: Any) -> Client:
    return Client("https://service.example.com/base/", "aok_key", transport=httpx.MockTransport(script), **options)


def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    body = {"code": code, "status": status, "detail": "…", "request_id": "req_1", **more}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json", **(headers or {})})


def test_the_key_and_the_address_are_sent() -> None:
    script = Script(httpx.Response(200, json=INSTALLATION))

    assert client(script).installations.get("ins_1")["company_name"] == "Northwind"
    assert str(script.asked[0].url) == "https://service.example.com/base/v1/installations/ins_1"
    assert script.asked[0].headers["authorization"] == "Bearer aok_key"


def test_a_claim_is_repeated_where_the_connection_broke(pauses: list[float]) -> None:
    script = Script(httpx.ReadError("gone"), problem(503, "database_away", {"retry-after": "2"}))
    script.answers.append(httpx.Response(200, json=INSTALLATION))

    assert client(script).claims.claim("c", "acme")["id"] == "ins_1"
    assert [request.content for request in script.asked] == [b'{"claim":"c","owner":"acme"}'] * 3
    assert pauses[1] == 2


def test_what_may_change_something_twice_is_not_repeated() -> None:
    for answer, error in ((httpx.ReadError("gone"), ConnectionLost), (problem(503, "database_away"), Unavailable)):
        script = Script(answer)
        with pytest.raises(error):
            client(script).events.resend("evt_1", "sub_1")
        assert len(script.asked) == 1


def test_making_a_subscription_is_repeated_with_the_same_key() -> None:
    script = Script(httpx.ReadError("gone"), httpx.Response(200, json=CRM))

    client(script).subscriptions.create("crm", "https://crm.example.com/")

    first, again = (request.headers["idempotency-key"] for request in script.asked)
    assert first == again
    assert len(first) == 36


def test_what_aircall_was_not_asked_for_is_asked_again(pauses: list[float]) -> None:
    script = Script(problem(429, "budget_spent", {"retry-after": "13"}), httpx.Response(201, json={"contact": {}}))

    assert client(script).aircall("ins_1").post("contacts", {"first_name": "Ada"}) == {"contact": {}}
    assert (len(script.asked), pauses) == (2, [13])


def test_patience_ends(pauses: list[float]) -> None:
    script = Script(*[problem(429, "budget_spent", {"retry-after": "25"}) for _ in range(4)])

    with pytest.raises(Exception, match="budget_spent"):
        client(script, patience=60).aircall("ins_1").get("calls")
    assert pauses == [25, 25]


def test_aircalls_own_error_is_no_error_of_the_service() -> None:
    script = Script(httpx.Response(404, json={"error": "Not found", "code": "x"}))

    with pytest.raises(AircallError) as refused:
        client(script).aircall("ins_1").get("calls/1")

    assert (refused.value.status, refused.value.data["error"]) == (404, "Not found")


def test_the_pages_of_a_list_are_followed() -> None:
    def page(number: int, more: bool) -> httpx.Response:
        link = f"https://api.aircall.io/v1/calls?page={number + 1}&per_page=2" if more else None
        return httpx.Response(200, json={"meta": {"next_page_link": link}, "calls": [{"id": number}]})

    script = Script(page(1, True), problem(429, "budget_spent", {"retry-after": "1"}), page(2, True), page(3, False))

    calls = list(client(script).aircall("ins_1").get("calls", per_page=2, order="desc"))

    assert [call["id"] for call in calls] == [1, 2, 3]
    assert [dict(request.url.params).get("page") for request in script.asked] == [None, "2", "2", "3"]
    assert all(request.url.params["order"] == "desc" for request in script.asked)
    assert {request.url.path for request in script.asked} == {"/base/v1/installations/ins_1/aircall/calls"}


def test_a_path_is_encoded_but_for_its_slashes() -> None:
    script = Script(httpx.Response(200, json={}))

    client(script).aircall("ins_1").get("users/a b?/é")

    assert script.asked[0].url.raw_path == b"/base/v1/installations/ins_1/aircall/users/a%20b%3F/%C3%A9"


def events(*positions: int, following: int, more: bool = False) -> httpx.Response:
    told = [{"id": f"evt_{n}", "position": n, "type": "call.ended"} for n in positions]
    return httpx.Response(200, json={"events": told, "next": following, "more": more, "epoch": "log_1"})


def test_the_log_is_followed_over_dropped_connections_and_saved_behind_each_event(pauses: list[float]) -> None:
    script = Script(
        events(1, 2, following=5),
        httpx.ReadError("gone"),
        problem(503, "database_away", {"retry-after": "1"}),
        *[httpx.ConnectError("away")] * 12,
        events(7, following=7),
    )
    saved: list[tuple[int, str]] = []
    seen = []

    following = client(script, patience=0.0).events.follow(save=lambda position, epoch: saved.append((position, epoch)))
    for event in following:
        seen.append((event["position"], list(saved)))
        if event["position"] == 7:
            break

    assert seen == [(1, []), (2, [(1, "log_1")]), (7, [(1, "log_1"), (2, "log_1"), (5, "log_1")])]
    assert [request.url.params.get("after") for request in script.asked] == [None, *["5"] * 15]
    assert script.asked[-1].url.params["epoch"] == "log_1"
    assert max(pauses) <= 30


def test_a_position_that_is_gone_is_an_error_that_names_the_oldest() -> None:
    script = Script(problem(410, "position_gone", oldest=4000))

    with pytest.raises(PositionGone) as gone:
        next(client(script).events.follow(7))

    assert gone.value.oldest == 4000


def test_a_search_goes_back_to_the_end() -> None:
    script = Script(events(9, 8, following=8, more=True), events(following=4, more=True), events(3, following=3))

    found = client(script).events.search(type=["call.*", "user.*"], call_id=7)

    assert [event["position"] for event in found] == [9, 8, 3]
    assert [request.url.params.get("before") for request in script.asked] == [None, "8", "4"]
    assert script.asked[0].url.params.get_list("type") == ["call.*", "user.*"]


def listed(*subscriptions: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"items": list(subscriptions), "next": None})


CRM = {
    "id": "sub_1",
    "name": "crm",
    "kind": "http",
    "url": "https://crm.example.com/",
    "types": ["call.*"],
    "owners": [],
}
ANOTHER = {**CRM, "id": "sub_2", "owners": ["acme"]}


def test_a_subscription_that_is_as_wanted_or_new_is_one_request() -> None:
    script = Script(httpx.Response(201, json={**CRM, "secret": "whsec_x"}))

    made = client(script).subscriptions.ensure("crm", "https://crm.example.com/", types=["call.*"], from_="beginning")

    assert dict(made) == {**CRM, "secret": "whsec_x"}
    assert b'"ensure":true' in script.asked[0].content
    assert b'"from":"beginning"' in script.asked[0].content


def test_a_subscription_that_differs_is_changed_where_it_does() -> None:
    script = Script(problem(409, "subscription_differs"), listed(CRM, ANOTHER), httpx.Response(200, json=CRM))

    client(script).subscriptions.ensure("crm", "https://new.example.com/", types=["call.*"], owners=["acme"])

    assert [request.method for request in script.asked] == ["POST", "GET", "PATCH"]
    assert script.asked[2].url.path.endswith("/sub_2")
    assert script.asked[2].content == b'{"url":"https://new.example.com/"}'


def test_a_subscription_of_another_kind_is_an_error() -> None:
    script = Script(problem(409, "subscription_differs"), listed({**CRM, "kind": "nats"}))

    with pytest.raises(SubscriptionDiffers):
        client(script).subscriptions.ensure("crm", "https://crm.example.com/")


async def test_the_asynchronous_client_is_the_same() -> None:
    script = Script(problem(404, "claim_not_found"), events(1, following=1))
    async with AsyncClient("https://s.example.com", "aok_key", transport=httpx.MockTransport(script)) as service:
        with pytest.raises(ClaimNotFound):
            await service.claims.claim("c", "acme")
        saved: list[int] = []

        async def save(position: int, _epoch: str) -> None:
            saved.append(position)

        async for event in service.events.follow(save=save):
            assert event["position"] == 1
            break

    assert saved == []


def subscription(**more: Any) -> httpx.Response:
    return httpx.Response(201 if "secret" in more else 200, json={"id": "sub_1", "name": "crm", **more})


def test_the_secret_of_a_new_subscription_is_kept_for_the_next_start(tmp_path: Path) -> None:
    file = str(tmp_path / "secret.json")
    script = Script(subscription(secret="whsec_one"), subscription())

    first, again = [client(script).subscriptions.secret("crm", "https://a.example.com", file=file) for _ in range(2)]

    assert (first, again) == ("whsec_one", "whsec_one")
    assert Path(file).stat().st_mode & 0o077 == 0
    assert len(script.asked) == 2


@pytest.mark.parametrize("kept", [None, "{", "[]", '{"sub_2": "whsec_other"}', '{"sub_1": 1}'])
def test_a_secret_that_was_not_kept_is_made_anew(
    tmp_path: Path, kept: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret.json"
    if kept is not None:
        file.write_text(kept)
    script = Script(subscription(), httpx.Response(200, json={"secret": "whsec_new"}), subscription())

    first, again = [
        client(script).subscriptions.secret("crm", "https://a.example.com", file=str(file)) for _ in range(2)
    ]

    assert (first, again) == ("whsec_new", "whsec_new")
    assert script.asked[1].url.path.endswith("/sub_1/rotate-secret")
    assert "lacked the secret of crm" in caplog.text


@pytest.mark.parametrize(
    ("address", "key", "said"),
    [("", "aok_k", "address"), ("service.example.com", "aok_k", "address"), ("https://a.example.com", "", "API key")],
)
def test_a_variable_that_is_not_set_is_told_at_once(address: str, key: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Client(address, key)


def test_a_service_that_is_not_there_is_told_while_it_is_waited_for_and_in_the_end(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConnectionLost, match=r"Is http://127\.0\.0\.1:1 the service's address, and is it running\?"):
        Client("http://user:hidden@127.0.0.1:1", "aok_key", patience=2).install_links.create("acme")

    assert len(pauses) > 1
    assert [record.levelname for record in caplog.records if "Trying again" in record.message] == ["WARNING"]
    assert "hidden" not in caplog.text


def test_a_key_that_is_not_good_says_what_to_do() -> None:
    for code, status, said in (("unauthenticated", 401, "keys list"), ("scope_missing", 403, "keys create")):
        with pytest.raises(ServiceError, match=said):
            client(Script(problem(status, code))).installations.get("ins_1")


def test_an_owner_of_two_companies_comes_home_to_the_one_that_was_connected_last() -> None:
    old, new = (
        {"company_name": name, "connected_at": f"2026-01-0{day}T10:00:00Z"} for day, name in ((1, "A"), (2, "B"))
    )
    pages = [httpx.Response(200, json={"items": [one], "next": more}) for one, more in ((new, "more"), (old, None))]

    home = way_home(client(Script(*pages)), "acme")

    assert home.text == "B is connected to Aircall."
