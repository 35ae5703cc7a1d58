"""Forms that are filled in wrongly: a plain sentence beside the field, and what was typed is there again."""

import html
import re

import httpx
import pytest

from aircall_oauth.storage.stamps import new_id
from tests.support.consoles import Console, words
from tests.support.receivers import receiver, subscribe
from tests.support.service import Service

AWAY = "https://203.0.114.7/hook"
NEW = {"name": "crm", "url": AWAY, "order": "subject", "from": "now"}
# What the API says, for programs.
API_SPEECH = re.compile(r"body\.|query\.|must match|\^\[|Field required|ValueError|POST |/v1/")


@pytest.fixture
def service(delivering: Service) -> Service:
    return delivering


@pytest.fixture(scope="module")
def shared_service(shared_delivering: Service) -> Service:
    return shared_delivering


def fault(page: httpx.Response, field: str) -> str:
    """What is said beside a field."""
    found = re.search(rf'<p class="fault" id="e-{field}">([^<]*)</p>', page.text)
    assert found, f"nothing is said beside {field}: {words(page)}"
    assert re.search(rf'aria-describedby="[^"]*e-{field}"', page.text)
    return html.unescape(found[1])


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"name": ""}, "name", "Give it a name"),
        ({"name": "x" * 101}, "name", "Give it a name"),
        ({"url": ""}, "url", "Write an address"),
        ({"url": "https://a b"}, "url", "Write an address"),
        ({"url": "crm.example.com"}, "url", "This is not an address."),
        ({"url": "https://user:word@203.0.114.7/"}, "url", "must not carry a user name"),
        ({"url": "http://203.0.114.7/"}, "url", "must be https://"),
        ({"url": "https://10.0.0.1/"}, "url", "deliveries may not go to"),
        ({"types": "call.*\ncall .ended é"}, "types", "“é” is not right. Write event types"),
        ({"installations": "ins_1"}, "installations", "“ins_1” is not right. Write ids"),
        ({"owners": "x" * 300}, "owners", "Write your own ids"),
        ({"order": "random"}, "order", "Choose one of these."),
        ({"from": "7"}, "from", "Choose one of these."),
    ],
)
async def test_a_new_destination_is_checked_as_the_api_checks_it(
    shared_console: Console, wrong: dict[str, str], field: str, said: str
) -> None:
    anna = await shared_console.visitor()

    page = await anna.post("/destinations/new", data=NEW | {"types": "user.*"} | wrong)

    assert page.status_code == 422
    assert said in fault(page, field)
    assert "correct what is marked below" in words(page)
    assert not API_SPEECH.search(words(page).partition("The same in a shell")[0])
    for name, value in (NEW | wrong).items():
        if name in {"name", "url"} and value:
            assert f'value="{value}"' in page.text, "what was typed is there again"
    assert await shared_console.service.sql("SELECT 1 FROM subscription") == []


async def test_a_destination_is_made_once_and_its_events_come(console: Console) -> None:
    service, anna = console.service, await console.visitor()
    page = await anna.get("/destinations/new")
    (token,) = re.findall(r'name="form_token" value="([0-9a-f.]+)"', page.text)
    async with receiver() as to:
        form = NEW | {"url": to.url, "types": "call.*\nuser.created", "owners": "acme, inc\nb", "order": "none"}
        made = [await anna.post("/destinations/new", data=form | {"form_token": token}) for _ in range(2)]
        (row,) = await service.sql("SELECT id, name, types, owners, ordering, kind FROM subscription")
        sample = await anna.post(f"/destinations/{row['id']}/test")

    secrets = {found for answer in made for found in re.findall(r"whsec_[\w+/=]+", answer.text)}
    assert [answer.status_code for answer in made] == [200, 200]
    assert len(secrets) == 1
    assert (row["name"], row["ordering"], row["kind"]) == ("crm", "none", "http")
    assert (row["types"], row["owners"]) == (["call.*", "user.created"], ["acme, inc", "b"])
    assert "It took the sample" in words(sample)
    (line,) = await service.sql("SELECT actor FROM audit WHERE action = 'subscription.created'")
    assert line["actor"] == "person:anna"
    assert "/destinations/new" in (await anna.get("/destinations")).text


async def test_an_edit_that_the_address_forbids_keeps_what_was_typed(console: Console) -> None:
    partner = await subscribe(console.service, AWAY, name="crm")
    anna = await console.visitor()
    form = {"name": "kept", "url": "https://10.0.0.1/", "order": "none", "types": "call.*"}

    page = await anna.post(f"/destinations/{partner.id}/edit", data=form)

    assert page.status_code == 422
    assert "deliveries may not go to" in fault(page, "url")
    assert 'value="kept"' in page.text
    assert (await partner.shown())["name"] == "crm"


async def test_an_event_or_destination_that_is_misspelt_is_said_beside_its_field(console: Console) -> None:
    partner = await subscribe(console.service, AWAY, name="crm")
    anna = await console.visitor()
    (event,) = await console.service.sql("SELECT id FROM event LIMIT 1")

    retried = await anna.post(f"/destinations/{partner.id}/retry", data={"event_id": "evt_1"})
    resent = await anna.post(f"/events/{event['id']}/resend", data={"subscription_id": "crm"})

    assert "Write an event's id" in fault(retried, "event_id")
    assert 'value="evt_1"' in retried.text
    assert "Choose a destination" in fault(resent, "subscription_id")
    assert (retried.status_code, resent.status_code) == (422, 422)


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"name": ""}, "name", "what the key is for"),
        ({"scopes": ""}, "scopes", "Choose what the key may do."),
        ({"expires": "soon"}, "expires", "Write a length such as 90d"),
        ({"scopes": "aircall:call", "aircall": "nonsense"}, "aircall", "“nonsense”: a rule must look like"),
        ({"aircall": "GET /calls"}, "aircall", "for a key with aircall:call only"),
        ({"scopes": "console:read", "owner": "acme"}, "owner", "can't open the console"),
    ],
)
async def test_what_is_wrong_with_a_key_is_said_beside_its_field(
    shared_console: Console, wrong: dict[str, str], field: str, said: str
) -> None:
    anna = await shared_console.visitor()

    page = await anna.post("/keys/new", data={"name": "crm", "scopes": "events:read"} | wrong)

    assert page.status_code == 422
    assert said in fault(page, field)


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({}, "since", "Say from when."),
        ({"since": "yesterday"}, "since", "Write a time such as"),
        ({"since": "2026-01-02T00:00", "until": "2026-01-01T00:00"}, "until", "after the beginning"),
    ],
)
async def test_what_is_wrong_with_a_window_to_fill_is_said_beside_its_field(
    shared_console: Console, wrong: dict[str, str], field: str, said: str
) -> None:
    (row,) = await shared_console.service.sql("SELECT id FROM installation")
    anna = await shared_console.visitor()

    page = await anna.post(f"/customers/{row['id']}/backfill", data=wrong)

    assert page.status_code == 422
    assert said in fault(page, field)


async def test_a_destination_that_does_not_exist_has_a_page_beside_the_one_to_make_one(shared_console: Console) -> None:
    anna = await shared_console.visitor()

    assert (await anna.get(f"/destinations/{new_id('sub')}")).status_code == 404
    assert (await anna.get("/destinations/old")).status_code == 404
