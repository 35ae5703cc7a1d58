"""Each page answers its question from what the service really has, and each act does what it says, once, audited."""

import csv
import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aircall_oauth.access import audit, keys
from aircall_oauth.access.audit import SERVICE, Action
from aircall_oauth.access.scopes import Scope
from aircall_oauth.console import masks
from aircall_oauth.storage.stamps import new_id
from tests.support.consoles import LOOKING, Console, words
from tests.support.receivers import subscription_body
from tests.support.service import Service

COMPANY = 70077
GONE = "UPDATE installation SET status = 'removed', token_sealed = NULL, token_fingerprint = NULL"


async def audited(service: Service, action: str) -> list[Any]:
    return await service.sql("SELECT * FROM audit WHERE action = $1 ORDER BY at", action)


async def link_to(page: httpx.Response, text: str) -> str:
    found = re.search(rf'<a[^>]*href="([^"]+)"[^>]*>{re.escape(text)}', page.text)
    assert found, f"no link {text!r}"
    return html.unescape(found[1])


async def test_all_is_well_where_it_is(console: Console) -> None:
    await console.service.installed()
    anna = await console.visitor()

    page = await anna.get("/")

    assert "All well" in words(page)
    assert "Customers silent 0 of 1 connected" in words(page)
    assert page.text.count("<svg viewBox") == 3 + 1, "three plots, and the mark"
    assert "times in UTC" in words(page)


async def test_what_needs_a_person_is_named_with_its_customer_and_one_button(console: Console) -> None:
    service = console.service
    first, second = await service.installed(), await service.install(service.aircall.companies[1])
    await service.sql("UPDATE installation SET status = 'unauthorized' WHERE id = $1", first)
    await service.sql("UPDATE webhook SET status = 'disabled' WHERE installation_id = $1", second)
    anna = await console.visitor()

    page = await anna.get("/")

    assert "2 things need you" in words(page)
    assert "Aircall no longer accepts the token of Northwind Demo Ltd" in words(page)
    assert "The webhook at Aircall is off or gone of Küstenlicht Demo GmbH" in words(page)
    assert f"/customers/{first}/link" == await link_to(page, "Make an install link")
    assert f"/customers/{second}/check" == await link_to(page, "Check Küstenlicht Demo GmbH now")


async def test_a_destination_that_is_down_is_named_and_its_button_leads_somewhere(console: Console) -> None:
    service = console.service
    partner = await service.partner()
    made = await partner.post(
        "/v1/subscriptions", json=subscription_body("https://203.0.114.7/hook", name=HOSTILE[:60])
    )
    assert made.status_code == 201, made.text
    await service.sql(
        "UPDATE subscription SET health = 'down', last_error = $1, last_error_at = now() - interval '2 hours'", HOSTILE
    )
    anna = await console.visitor()

    page = await anna.get("/")

    assert "One thing needs you" in words(page)
    assert "The destination is down" in words(page)
    assert "2 h ago" in words(page)
    assert "<img" not in page.text
    (address,) = set(re.findall(rf'href="([^"]*{made.json()["id"]}[^"]*)"', page.text))
    assert (await anna.get(address)).status_code == 200


async def test_who_may_only_look_is_offered_to_look(console: Console) -> None:
    installation = await console.service.installed()
    await console.service.sql("UPDATE installation SET status = 'unauthorized'")
    anna = await console.visitor("anna", LOOKING)

    page = await anna.get("/")

    assert f"/customers/{installation}" == await link_to(page, "Open Northwind Demo Ltd")


async def test_customers_are_found_by_company_owner_id_and_status(console: Console) -> None:
    service = console.service
    first, second = await service.installed(), await service.install(service.aircall.companies[1])
    await service.sql("UPDATE installation SET owner = 'acme' WHERE id = $1", first)
    anna = await console.visitor()

    for query, found in (
        ({"q": "northwind"}, first),
        ({"q": "acme"}, first),
        ({"q": "70078"}, second),
        ({"q": second}, second),
        ({"owner": "acme"}, first),
    ):
        page = await anna.get("/customers", params=query)
        assert re.findall(r'href="/customers/(ins_\w+)"', page.text) == [found], query
    assert "No customer is like that" in words(await anna.get("/customers", params={"q": "100%"}))
    assert "No customer is like that" in words(await anna.get("/customers", params={"status": "silent"}))
    assert (await anna.get("/customers", params={"status": "nonsense"})).status_code == 422


async def test_a_customer_without_numbers_is_told_in_words(console: Console) -> None:
    installation = await console.service.installed()
    await console.service.sql("UPDATE installation SET number_ids = '{}'")
    anna = await console.visitor()

    page = words(await anna.get(f"/customers/{installation}"))

    assert "Connected, but no number is linked to the app in Aircall: nothing will come." in page


async def test_a_customers_page_shows_what_happened_to_it(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    partner = await service.partner(Scope.TOKENS_READ)
    for _ in range(3):
        assert (await partner.get(f"/v1/installations/{installation}/token")).status_code == 200
    anna = await console.visitor()

    page = words(await anna.get(f"/customers/{installation}"))

    assert "The access token was read × 3 — by the API key test" in page
    assert re.search(r"Install attempt \w+ — connected", page)
    assert "installation.connected" in page
    assert "of 120 requests of the last minute are spent" in page


async def test_a_check_finds_and_mends_and_the_audit_names_the_person(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    (webhook,) = service.aircall.webhooks.of(COMPANY)
    webhook.active = False
    anna = await console.visitor()

    asked = await anna.get(f"/customers/{installation}/check")
    assert f"/v1/installations/{installation}/check" in asked.text
    done = words(await anna.post(f"/customers/{installation}/check"))

    assert "Aircall had switched the webhook off. It is mended." in done
    assert webhook.active
    (line,) = await audited(service, "installation.checked")
    assert line["actor"] == "person:anna"


@pytest.mark.parametrize(
    ("status", "refused", "said"),
    [
        ("unclaimed", {"check", "rotate", "backfill"}, "no owner has claimed this installation"),
        ("unauthorized", {"rotate", "backfill"}, "Aircall no longer accepts its token"),
        ("removed", {"check", "rotate", "backfill", "disconnect"}, "this installation has ended"),
        ("active", set(), ""),
    ],
)
async def test_an_act_that_makes_no_sense_now_says_why_instead_of_asking(
    console: Console, status: str, refused: set[str], said: str
) -> None:
    installation = await console.service.installed()
    await console.service.sql(GONE if status == "removed" else f"UPDATE installation SET status = '{status}'")
    anna = await console.visitor()

    for act in ("check", "rotate", "backfill", "disconnect"):
        page = await anna.get(f"/customers/{installation}/{act}")
        assert page.status_code == 200
        assert (f'action="/customers/{installation}/{act}"' not in page.text) == (act in refused), act
        assert (said in words(page)) == (act in refused or not said), act


async def test_an_install_link_that_the_console_makes_works(console: Console) -> None:
    anna = await console.visitor()

    refused = await anna.post("/links/new", data={"owner": ""})
    done = await anna.post("/links/new", data={"owner": "acme"})

    assert refused.status_code == 422
    url = html.unescape(re.findall(r"<code>(http[^<]+)</code>", done.text)[0])
    assert (await console.service.new_browser().get(url)).status_code == 303
    reference = re.findall(r"Its attempt is (\w+)", words(done))[0]
    page = words(await anna.get(f"/attempts/{reference}"))
    assert "Link opened, sent to Aircall" in page
    (line,) = await audited(console.service, "install_link.made")
    assert (line["actor"], line["owner"]) == ("person:anna", "acme")


async def test_a_webhook_is_rotated(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    before = service.webhook_token()
    anna = await console.visitor()

    done = words(await anna.post(f"/customers/{installation}/rotate"))

    assert "The webhook is a new one." in done
    assert before not in [hook.token for hook in service.aircall.webhooks.of(COMPANY)][-1:]
    (line,) = await audited(service, "webhook.rotated")
    assert line["actor"] == "person:anna"


async def test_a_window_is_left_to_the_worker_to_fill(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    anna = await console.visitor()
    path = f"/customers/{installation}/backfill"

    for wrong in ({}, {"since": "yesterday"}, {"since": "2001-01-01T00:00"}, {"since": "2999-01-01T00:00"}):
        refused = await anna.post(path, data=wrong)
        assert refused.status_code == 422
        assert "Not done:" in words(refused)
    (now,) = await service.sql("SELECT now() - interval '2 hours' AS since")
    done = await anna.post(path, data={"since": f"{now['since']:%Y-%m-%dT%H:%M}"})

    assert done.status_code == 200
    (gap,) = await service.sql("SELECT reason, due_at, done_at FROM gap")
    assert gap["reason"] == "by_hand"
    assert gap["due_at"] is not None
    (line,) = await audited(service, "backfill.asked")
    assert (line["actor"], line["installation_id"]) == ("person:anna", installation)
    assert "Back-fill of a window ordered" in words(await anna.get(f"/customers/{installation}"))


async def test_a_customer_is_disconnected_only_when_it_is_asked_for_by_a_form(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    anna = await console.visitor()

    asked = words(await anna.get(f"/customers/{installation}/disconnect"))
    assert f"aircall-oauth installations disconnect {installation}" in asked
    assert (await service.sql("SELECT status FROM installation"))[0]["status"] == "active"
    await anna.post(f"/customers/{installation}/disconnect")

    assert (await service.sql("SELECT status FROM installation"))[0]["status"] == "removed"
    assert service.aircall.webhooks.of(COMPANY) == []
    (line,) = await audited(service, "installation.disconnected")
    assert line["actor"] == "person:anna"


async def test_acts_on_what_is_not_there_have_pages(console: Console) -> None:
    anna, nothing = await console.visitor(), new_id("ins")

    for act in ("check", "rotate", "disconnect"):
        answer = await anna.post(f"/customers/{nothing}/{act}")
        assert answer.status_code == 404, act
        assert "<nav" in answer.text


@pytest.mark.slow
async def test_attempts_say_where_installs_stop_and_what_to_tell_the_admin(console: Console) -> None:
    service = console.service
    state = await service.begin()
    await service.return_with(state=state, error="access_denied")
    await service.install()
    anna = await console.visitor()

    page = await anna.get("/attempts")
    assert "1 of 2 attempts within a week ended with a connection; of the others 1 ended as “declined”." in words(page)
    declined = await anna.get("/attempts", params={"ending": "declined"})
    (reference,) = re.findall(r'href="/attempts/(\w+)"', declined.text)
    one = words(await anna.get(f"/attempts/{reference}"))

    assert "The admin chose Deny" in one or "the admin chose Deny" in one
    assert "Open a fresh link and choose Authorize" in one
    assert "Installation saved — not reached" in one


async def test_the_audit_is_filtered_and_comes_as_csv(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    anna, ben = await console.visitor("anna"), await console.visitor("ben")
    await ben.post(f"/customers/{installation}/check")
    (line,) = await audited(service, "installation.checked")

    for query in (
        {"actor": "ben", "action": "installation.*"},
        {"request_id": line["request_id"]},
        {"installation_id": installation},
    ):
        page = await anna.get("/audit", params=query)
        assert "installation.checked" in page.text.partition("<tbody")[2]
        assert "console.link_made" not in page.text.partition("<tbody")[2]
    table = await anna.get("/audit.csv", params={"actor": "ben"})
    assert table.headers["content-type"].startswith("text/csv")
    assert table.text.count("person:ben") == 2
    assert (await anna.get("/audit", params={"action": "nonsense"})).status_code == 422
    before = await anna.get("/audit", params={"until": "2001-01-01T00:00"})
    assert "Nothing like that was done" in words(before)


async def test_the_audit_says_what_kind_each_actor_is(console: Console) -> None:
    service = console.service
    anna, named_alike = await console.visitor("anna"), console.stranger()
    secret = await keys.create(service.resources, name="anna", scopes=[Scope.CONSOLE_ACT])
    await named_alike.post("/sign-in", data={"api_key": secret})
    await named_alike.post("/links/new", data={"owner": "acme"})
    await anna.post("/links/new", data={"owner": "beta"})
    async with service.resources.database.session() as session:
        await audit.record(session, SERVICE, Action.SUBSCRIPTION_CHANGED)

    page = await anna.get("/audit")
    rows = list(csv.DictReader((await anna.get("/audit.csv")).text.splitlines()))

    shown = re.findall(r'<span class="badge ">([\w ]+)</span>(?: (\w+))?', page.text.partition("<tbody")[2])
    assert set(shown) == {("API key", "anna"), ("person", "anna"), ("command line", ""), ("service", "")}
    assert {(row["actor"][:4], row["actor_kind"]) for row in rows} == {
        *(("key_", "API key"), ("pers", "person"), ("oper", "command line"), ("serv", "service")),
    }
    assert "API key anna" in words(await anna.get("/sessions"))


async def test_the_audit_has_pages(console: Console) -> None:
    anna = await console.visitor()
    await console.service.sql("""
        INSERT INTO audit (id, actor, action, at)
        SELECT 'aud_' || md5(n::text), 'operator', 'token.read', now() - n * interval '1 s'
        FROM generate_series(1, 120) AS n
    """)
    seen, path = 0, "/audit?action=token.read"
    while path:
        page = await anna.get(path)
        seen += page.text.count('data-label="Action">token.read')
        found = re.search(r'rel="next" href="([^"]+)"', page.text)
        path = html.unescape(found[1]) if found else ""

    assert seen == 120


async def test_a_key_is_made_shown_once_and_revoked(console: Console) -> None:
    anna = await console.visitor()
    form = {"name": "crm", "scopes": ["events:read", "aircall:call"], "expires": "90d", "aircall": "GET /calls/*"}

    made = await anna.post("/keys/new", data=form)

    (secret,) = re.findall(r"aok_[\w-]+", made.text)
    partner = console.service.new_browser()
    partner.headers["authorization"] = f"Bearer {secret}"
    assert (await partner.get("/v1/events")).status_code == 200
    page = await anna.get("/keys")
    assert secret not in page.text
    assert "1 API key can be used" in words(page)
    (key,) = re.findall(r'href="/keys/(key_\w+)/revoke"', page.text)
    asked = words(await anna.get(f"/keys/{key}/revoke"))
    assert "events:read" in asked
    await anna.post(f"/keys/{key}/revoke")
    assert (await partner.get("/v1/events")).status_code == 401
    assert (await audited(console.service, "api_key.created"))[0]["actor"] == "person:anna"
    assert (await audited(console.service, "api_key.revoked"))[0]["actor"] == "person:anna"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "", "scopes": "events:read"},
        {"name": "x"},
        {"name": "x", "scopes": "nonsense"},
        {"name": "x", "scopes": "tokens:read"},
        {"name": "x", "scopes": "events:read", "expires": "soon"},
        {"name": "x", "scopes": "events:read", "aircall": "GET /calls"},
        {"name": "x", "scopes": "aircall:call", "aircall": "nonsense"},
        {"name": "x", "scopes": "console:read", "owner": "acme"},
    ],
)
async def test_a_wrong_key_is_asked_for_again_and_not_made(shared_console: Console, wrong: dict[str, str]) -> None:
    anna = await shared_console.visitor()

    answer = await anna.post("/keys/new", data=wrong)

    assert answer.status_code == 422
    assert "Not done:" in words(answer)
    assert await shared_console.service.sql("SELECT id FROM api_key") == []


async def test_nobody_gives_a_key_more_than_they_have(shared_console: Console) -> None:
    ben = await shared_console.visitor("ben", (Scope.CONSOLE_READ, Scope.CONSOLE_ACT))

    answer = await ben.post("/keys/new", data={"name": "x", "scopes": "payloads:read"})

    assert answer.status_code == 422
    assert await shared_console.service.sql("SELECT id FROM api_key") == []


async def test_the_vault_counts_secrets_by_key(console: Console) -> None:
    await console.service.installed()
    anna = await console.visitor()

    page = words(await anna.get("/vault"))

    assert "Every secret is sealed under the key k1." in page
    assert "k1 seals 1" in page


async def test_everything_is_found_from_one_box(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    await service.sql("UPDATE installation SET owner = 'acme'")
    anna = await console.visitor()
    (attempt,) = await service.sql("SELECT id, reference FROM install_attempt")
    (line,) = await service.sql("SELECT request_id FROM audit WHERE action = 'console.signed_in'")

    for wanted, place in (
        (installation, f"/customers/{installation}"),
        (f" {installation} ", f"/customers/{installation}"),
        ("acme", f"/customers/{installation}"),
        ("northwind", f"/customers/{installation}"),
        (attempt["id"], f"/attempts/{attempt['id']}"),
        (attempt["reference"].lower(), f"/attempts/{attempt['reference']}"),
        (line["request_id"], f"/audit?request_id={line['request_id']}"),
    ):
        answer = await anna.get("/search", params={"q": wanted})
        assert answer.headers.get("location") == place, wanted
        assert (await anna.get(place)).status_code == 200
    nothing = await anna.get("/search", params={"q": "<b>nothing\x1b</b>"})
    assert "Nothing is called “<b>nothing\\x1b</b>”" in words(nothing) or "&lt;b&gt;nothing" in nothing.text
    assert (await anna.get("/search")).status_code == 303


HOSTILE = "<img src=x onerror=alert(1)>\"'&\x1b]0;x\x07\u202e{{7*7}}"


async def test_what_others_can_fill_in_is_shown_escaped_on_every_page(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    await service.sql("UPDATE installation SET company_name = $1, owner = $1", HOSTILE)
    await service.sql("UPDATE install_attempt SET company_name = $1, owner = $1, shown = 'page:' || $1", HOSTILE)
    await service.sql("UPDATE installation SET status = 'unauthorized'")
    await service.sql(
        "INSERT INTO gap (id, installation_id, reason, since, until, due_at, last_error)"
        " VALUES ('gap_1', $1, 'by_hand', now() - interval '1 hour', now(), now(), $2)",
        installation,
        HOSTILE,
    )
    await service.sql(
        "INSERT INTO audit (id, actor, action, installation_id, owner, details)"
        " VALUES ('aud_x', 'operator', 'token.read', $1, $2, jsonb_build_object('why', $2::text))",
        installation,
        HOSTILE,
    )
    (attempt,) = await service.sql("SELECT reference FROM install_attempt")
    anna = await console.visitor()

    shown = 0
    for path in (
        "/",
        "/customers",
        f"/customers/{installation}",
        f"/customers/{installation}/disconnect",
        f"/customers/{installation}/link",
        "/attempts",
        f"/attempts/{attempt['reference']}",
        "/audit",
        "/search?q=onerror",
    ):
        page = (await anna.get(path, follow_redirects=True)).text
        assert "<img" not in page, path
        assert not set(page) & {"\x1b", "\x07", "\u202e"}, path
        shown += "&lt;img src=x onerror=alert(1)&gt;" in page
    assert shown >= 8


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("+33 6 12 34 56 12", "+33 6 •• •• •• 12"),
        ("+33612345612", "+33 6 •• •• •• 12"),
        ("0612345612", "06 •• •• •• 12"),
        ("12345", "••••"),
        ("jane.doe@example.com", "j••••@e••••.com"),
        ("Jane", "J••••"),
        ("Jane Doe", "••••"),
        ("She said that she is ill", "••••"),
        ("", ""),
    ],
)
def test_personal_data_are_masked(text: str, shown: str) -> None:
    assert masks.text(text) == shown


def test_a_payload_keeps_its_shape_and_shows_no_one() -> None:
    payload = {
        "id": 9007199254740993,
        "direction": "inbound",
        "status": "done",
        "started_at": 1764300000,
        "raw_digits": "+33 6 12 34 56 12",
        "number": {"name": "Sales", "digits": "+33 1 76 36 06 95", "country": "FR"},
        "user": {"name": "Jane Doe", "email": "jane@example.com", "available": True},
        "comments": [{"content": "call her back, she is ill"}],
        "brand_new_field": "Jane Doe again",
        "asset": "https://assets.example.com/recording?signature=x",
        "external_number": 33612345612,
        "nothing": None,
    }

    shown = masks.masked(payload)

    assert shown.keys() == payload.keys()
    assert shown["id"] == 9007199254740993
    assert shown["direction"] == "inbound"
    assert shown["number"]["country"] == "FR"
    assert shown["user"]["available"] is True
    text = str(shown)
    for personal in ("Jane", "jane@", "34 56", "ill", "Sales", "signature", "33612345612"):
        assert personal not in text, personal


async def test_a_back_fill_by_hand_is_no_outage_and_says_how_long_a_window_it_is(
    service: Service, console: Console
) -> None:
    customer = f"/customers/{await service.installed()}"
    anna = await console.visitor()
    until = datetime.now(UTC) - timedelta(hours=1)
    window = {"since": f"{until - timedelta(minutes=87):%Y-%m-%dT%H:%M}", "until": f"{until:%Y-%m-%dT%H:%M}"}
    assert (await anna.post(f"{customer}/backfill", data=window)).is_success

    said = words(await anna.get(customer))

    assert "Calls looked for again by hand, for 87 min" in said
    assert "Nothing could be received" not in said


async def test_a_link_that_was_never_opened_is_told_from_one_that_stopped_halfway(console: Console) -> None:
    await console.service.link("acme")
    anna = await console.visitor()
    (row,) = await console.service.sql("SELECT reference FROM install_attempt")

    page = await anna.get(f"/attempts/{row['reference']}")

    assert "The link was made and never opened; it works for thirty minutes." in words(page)
    assert "Ask whether the link has arrived, and send a fresh one." in words(page)
    assert 'href="/links/new?owner=acme"' in page.text
    assert 'value="acme"' in (await anna.get("/links/new?owner=acme")).text
