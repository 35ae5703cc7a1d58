"""Every refusal has one form: `application/problem+json`, with the request's id and nothing that gives us away."""

import httpx
import pytest
from dirty_equals import IsStr

from aircall_oauth.access.problems import MEANINGS
from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import AircallError, ApiError, AppError, Unavailable
from aircall_oauth.storage.stamps import new_id
from tests.support.service import Service, run_service, settings_for

REQUEST_ID = IsStr(regex="req_[0-9a-f]{32}")
SECRET = "hunter2-in-a-message"


def _check(answer: httpx.Response, status: int, code: str) -> None:
    """The one form."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body == {
        "type": f"urn:aircall-oauth:problem:{code}",
        "title": IsStr(regex=r"[A-Z].*\."),
        "status": status,
        "detail": IsStr(min_length=10),
        "code": code,
        "request_id": answer.headers["x-request-id"],
    }


async def test_no_key_is_401(shared_service: Service) -> None:
    answer = await shared_service.browser.get("/v1/events")

    _check(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_scope_that_is_missing_is_403(shared_service: Service) -> None:
    answer = await (await shared_service.partner(Scope.EVENTS_READ)).get("/v1/installations")

    _check(answer, 403, "scope_missing")


async def test_an_installation_that_is_not_there_is_404(shared_service: Service) -> None:
    answer = await (await shared_service.partner()).get(f"/v1/installations/{new_id('ins')}")

    _check(answer, 404, "installation_not_found")


async def test_an_address_that_is_not_there_is_404(shared_service: Service) -> None:
    for path in (
        *("/", "/v1", "/v1/", "/v1/nothing", "/v1/events/", "/v1/installations/", "/v2/events", "/aircall/webhook/"),
        *("/robots.txt", "//", "/%00", "/v1/%2e%2e/events", "/docs/assets/", "/docs/assets/x", "/docs/assets/%00"),
        *("/docs/assets/..%2f..%2fsettings.py", "/docs/assets/%2fetc%2fpasswd", "/docs/assets/" + "x" * 300),
        "/" + "x" * 3000,
    ):
        _check(await shared_service.browser.get(path), 404, "not_found")


async def test_another_method_is_405_and_told_which_one_there_is(shared_service: Service) -> None:
    partner = await shared_service.partner()
    one = "/v1/installations/x"

    for path in ("/v1/installations", f"{one}/token", "/v1/events"):
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            answer = await partner.request(method, path)

            _check(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "GET"


async def test_an_address_of_several_doors_tells_the_methods_of_all(shared_service: Service) -> None:
    answer = await (await shared_service.partner()).put("/v1/installations/x")

    _check(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET"


async def test_another_method_on_the_documentation_is_405(shared_service: Service) -> None:
    for path in ("/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
        answer = await shared_service.browser.post(path)

        _check(answer, 405, "method_not_allowed")
        assert "GET" in answer.headers["allow"]


async def test_the_wrong_status_is_409(service: Service) -> None:
    installation_id = await service.installed()
    await service.sql("UPDATE installation SET status = 'unauthorized'")

    answer = await (await service.partner()).get(f"/v1/installations/{installation_id}/token")

    _check(answer, 409, "installation_not_active")


async def test_a_body_that_is_too_large_is_413_at_every_door(shared_service: Service) -> None:
    for path in ("/aircall/webhook", "/v1/events", "/nowhere"):
        answer = await shared_service.browser.post(path, content=b"x" * (1024 * 1024 + 1))

        _check(answer, 413, "body_too_large")


async def test_a_parameter_that_is_not_valid_is_422_and_is_not_repeated(shared_service: Service) -> None:
    answer = await (await shared_service.partner()).get("/v1/events", params={"limit": SECRET, "after": SECRET})

    _check(answer, 422, "invalid_request")
    assert "query.limit" in answer.json()["detail"]
    assert "query.after" in answer.json()["detail"]
    assert SECRET not in answer.text


@pytest.fixture
def crashing(service: Service) -> Service:
    """The service with doors that break."""

    async def crash() -> None:
        raise RuntimeError(SECRET)

    async def refuse() -> None:
        raise AppError

    service.app.get("/v1/crash")(crash)
    service.app.get("/v1/refuse")(refuse)
    return service


async def test_a_crash_is_500_and_says_nothing_of_its_cause(crashing: Service) -> None:
    for path in ("/v1/crash", "/v1/refuse"):
        answer = await crashing.browser.get(path)

        _check(answer, 500, "app_error")
        assert answer.json()["detail"] == "Something went wrong."
        assert SECRET not in answer.text
        assert "RuntimeError" not in answer.text


async def test_a_crash_is_logged_with_its_cause_and_the_request_id(
    crashing: Service, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await crashing.browser.get("/v1/crash")

    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert isinstance(record.msg, dict)
    assert record.msg["event"] == "request failed"
    assert record.msg["request_id"] == answer.headers["x-request-id"]
    assert record.exc_info


async def test_every_answer_has_an_id_of_its_own(shared_service: Service) -> None:
    answers = [
        await shared_service.browser.get(path) for path in ("/livez", "/livez", "/nowhere", "/aircall/oauth/callback")
    ]

    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == [REQUEST_ID] * 4
    assert len(set(ids)) == 4


async def test_an_id_that_was_given_is_kept_if_it_is_a_plain_word(shared_service: Service) -> None:
    for given in ("a", "trace-1.2_3", "A" * 64, "0198f7c6-6f5e-7b7b-8f3e-0a1b2c3d4e5f"):
        answer = await shared_service.browser.get("/v1/events", headers={"x-request-id": given})

        assert answer.headers["x-request-id"] == given
        assert answer.json()["request_id"] == given


async def test_an_id_that_is_no_plain_word_is_replaced(shared_service: Service) -> None:
    for given in ("", "A" * 65, "two words", "a,b", "<b>", "é", "a\tb", '"', "../x", "a\n"):
        answer = await shared_service.browser.get("/v1/events", headers={b"x-request-id": given.encode("latin-1")})

        assert answer.headers["x-request-id"] == REQUEST_ID, given
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_every_error_of_the_api_is_explained_in_the_document() -> None:
    statuses = {error.status for above in (ApiError, AircallError, Unavailable) for error in _below(above)}

    assert statuses == MEANINGS.keys()


def _below(error: type[AppError]) -> list[type[AppError]]:
    return [error, *(found for below in error.__subclasses__() for found in _below(below))]


async def test_a_browser_gets_a_page_and_no_problem(shared_service: Service) -> None:
    answer = await shared_service.browser.get("/aircall/oauth/callback")

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_probes_of_every_common_kind_are_answered(shared_service: Service) -> None:
    for path in ("/livez", "/healthz", "/readyz"):
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = await shared_service.browser.request(method, path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), (method, path)

        refused = await shared_service.browser.post(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_a_probe_by_another_method_sees_a_process_that_leaves(service: Service) -> None:
    service.resources.leaving = True

    assert [(await service.browser.request(method, "/readyz")).status_code for method in ("HEAD", "OPTIONS")] == [
        503
    ] * 2


async def test_a_page_that_says_start_again_has_the_button_for_it(shared_service: Service) -> None:
    nowhere = await shared_service.browser.get("/aircall/oauth/nowhere")
    by_link = await shared_service.browser.get("/aircall/oauth/nowhere?link=x")

    assert nowhere.status_code == by_link.status_code == 404
    assert f'href="{shared_service.settings.public_url}/aircall/oauth/install"' in nowhere.text
    assert "href=" not in by_link.text


@pytest.mark.parametrize(("hsts", "told"), [("true", "max-age=31536000"), ("false", None)])
async def test_browsers_are_told_to_come_by_https(database_url: str, hsts: str, told: str | None) -> None:
    settings = settings_for(database_url, PUBLIC_URL="https://connect.example.com", HSTS=hsts)
    async with run_service(settings) as secure:
        for path in ("/aircall/oauth/install", "/aircall/oauth/callback", "/aircall/oauth/nowhere"):
            answer = await secure.browser.get(path)
            assert answer.headers.get("strict-transport-security") == told, path


async def test_browsers_are_told_so_unless_a_setting_says_otherwise(database_url: str) -> None:
    async with run_service(settings_for(database_url, PUBLIC_URL="https://connect.example.com")) as secure:
        answer = await secure.browser.get("/aircall/oauth/install")

    assert answer.headers.get("strict-transport-security") == "max-age=31536000"


async def test_browsers_on_this_machine_are_not_told_to_come_by_https(shared_service: Service) -> None:
    assert "strict-transport-security" not in (await shared_service.browser.get("/aircall/oauth/install")).headers
