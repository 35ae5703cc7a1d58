"""What a form makes is made once, however often it is sent; and the answer that was lost is given again."""

import asyncio
import re
import time
from dataclasses import dataclass

import httpx
import pytest

from aircall_oauth.console import once
from tests.support.consoles import FORM_TOKEN, Console, words
from tests.support.receivers import subscribe, tell
from tests.support.service import Service

AWAY = "https://203.0.114.7/hook"
WINDOW = {"since": "2020-01-01T00:00", "until": "2999-01-01T00:00"}


@pytest.fixture
def service(delivering: Service) -> Service:
    return delivering


@dataclass(frozen=True)
class Making:
    """An act that makes something: its address, what is filled in, what it makes, what is shown this once."""

    address: str
    form: dict[str, str]
    otherwise: dict[str, str]
    count: str
    action: str
    shown: str


async def makings(service: Service) -> list[Making]:
    await tell(service, 2)
    partner = await subscribe(service, AWAY, name="crm")
    (row,) = await service.sql(
        "SELECT id, to_char(now() - interval '2 h', 'YYYY-MM-DD\"T\"HH24:MI') AS since,"
        " to_char(now() - interval '1 h', 'YYYY-MM-DD\"T\"HH24:MI') AS until FROM installation"
    )
    customer, since, until = f"/customers/{row['id']}", row["since"], row["until"]
    rotated = "SELECT 1 FROM audit WHERE action = 'subscription.secret_rotated'"
    return [
        Making(
            f"/destinations/{partner.id}/replay",
            *(WINDOW, WINDOW | {"types": "call.*"}, "SELECT 1 FROM replay", "replay.started", r"/replays/rpl_\w+"),
        ),
        Making(
            "/keys/new",
            *({"name": "crm", "scopes": "events:read"}, {"name": "crm", "scopes": "audit:read"}),
            *("SELECT 1 FROM api_key", "api_key.created", r"aok_[\w-]+"),
        ),
        Making(
            "/links/new",
            *({"owner": "acme"}, {"owner": "beta"}, "SELECT 1 FROM install_attempt WHERE made_at IS NOT NULL"),
            *("install_link.made", r"Its attempt is \w+"),
        ),
        Making(
            f"{customer}/link",
            *({"owner": "acme"}, {"owner": "beta"}, "SELECT 1 FROM install_attempt WHERE made_at IS NOT NULL"),
            *("install_link.made", r"Its attempt is \w+"),
        ),
        Making(
            f"{customer}/backfill",
            *({"since": since}, {"since": since, "until": until}),
            *("SELECT 1 FROM gap WHERE reason = 'by_hand'", "backfill.asked", r"The worker asks Aircall"),
        ),
        Making(
            f"/destinations/{partner.id}/rotate-secret",
            *({}, {"now": "now"}, rotated, "subscription.secret_rotated", r"whsec_[\w+/=]+"),
        ),
    ]


async def token_of(browser: httpx.AsyncClient, making: Making) -> str:
    """The token of the form, as its page has it."""
    page = await browser.get(making.address, params=WINDOW if "replay" in making.address else {})
    (found,) = re.findall(r'name="form_token" value="([0-9a-f.]+)"', page.text)
    return str(found)


def shown(making: Making, answer: httpx.Response) -> str:
    found = re.search(making.shown, answer.headers.get("location", "") + answer.text)
    assert found, answer.text
    return found[0]


@pytest.mark.parametrize("which", range(6), ids=["replay", "key", "link", "customer's link", "back-fill", "secret"])
async def test_a_form_that_is_sent_twice_makes_one_thing_and_shows_it_again(console: Console, which: int) -> None:
    service = console.service
    making = (await makings(service))[which]
    anna, ben = await console.visitor("anna"), await console.visitor("ben")
    before = len(await service.sql(making.count))
    form = making.form | {"form_token": await token_of(anna, making)}
    audited = f"SELECT 1 FROM audit WHERE action = '{making.action}'"

    first = await anna.post(making.address, data=form)
    again = await anna.post(making.address, data=form)
    stolen = await ben.post(making.address, data=form)
    assert (first.status_code, again.status_code, stolen.status_code) in {(200, 200, 422), (303, 303, 422)}
    assert shown(making, first) == shown(making, again)
    assert len(await service.sql(making.count)) == before + 1
    assert len(await service.sql(audited)) == 1
    assert "check it, and send it again" in words(stolen)

    other = await anna.post(making.address, data=making.otherwise | {"form_token": form["form_token"]})
    assert other.status_code == first.status_code
    assert len(await service.sql(making.count)) == before + 2, "filled in otherwise, it makes something else"


@pytest.mark.parametrize("which", range(4), ids=["replay", "key", "link", "customer's link"])
async def test_of_a_double_click_both_get_the_same_answer(console: Console, which: int) -> None:
    service = console.service
    making = (await makings(service))[which]
    anna = await console.visitor()
    before = len(await service.sql(making.count))
    form = making.form | {"form_token": await token_of(anna, making)}

    answers = await asyncio.gather(*(anna.post(making.address, data=form) for _ in range(6)))

    assert len({shown(making, answer) for answer in answers}) == 1
    assert len(await service.sql(making.count)) == before + 1


async def test_the_key_that_is_shown_twice_works_and_no_other_is_known(console: Console) -> None:
    making = (await makings(console.service))[1]
    anna = await console.visitor()
    form = making.form | {"form_token": await token_of(anna, making)}
    secrets = [shown(making, await anna.post(making.address, data=form)) for _ in range(2)]
    partner = console.service.new_browser()
    partner.headers["authorization"] = f"Bearer {secrets[1]}"

    assert (await partner.get("/v1/events")).status_code == 200
    assert len(secrets[0]) == len("aok_") + 43


async def test_a_form_that_is_older_than_an_hour_is_asked_for_again(console: Console) -> None:
    making = (await makings(console.service))[2]
    anna = await console.visitor()
    new = await token_of(anna, making)
    number = f"{int((time.time() - once.WORKS_SECONDS - 1) * 1000):012x}{'0' * 20}"
    old = once.token(console.service.resources.vault, "person:anna", making.address, number=number)

    for given, said in (
        (old, "This form is older than an hour: check it, and send it again."),
        (f"{number}.{new.partition('.')[2]}", "This form is not one of this page: check it, and send it again."),
        ("", "This did not come from a page that asks for it: check it, and send it again."),
        ("x", "This form is not one of this page"),
        ("☎.", "This form is not one of this page"),
    ):
        answer = await anna.post(making.address, data=making.form | {"form_token": given})
        assert answer.status_code == 422, given
        assert said in words(answer)
        assert 'value="acme"' in answer.text, "what was filled in is there, to be sent"
        assert f'href="{making.address}">Do nothing, go back' in answer.text
    assert await console.service.sql(making.count) == []
    (anew,) = FORM_TOKEN.findall(answer.text)
    assert (await anna.post(making.address, data=making.form | {"form_token": anew})).status_code == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("status = 'paused'", "The destination is paused: nothing is sent, this replay neither, until it is resumed."),
        ("status = 'disabled'", "The destination answered that it wants no more"),
        ("health = 'down'", "The destination is down: the replay waits until it answers again."),
    ],
)
async def test_a_replay_that_would_wait_says_so_before_it_is_started(console: Console, change: str, said: str) -> None:
    making = (await makings(console.service))[0]
    anna = await console.visitor()
    before = words(await anna.get(making.address, params=WINDOW))
    await console.service.sql(f"UPDATE subscription SET {change}")

    page = words(await anna.get(making.address, params=WINDOW))

    assert said not in before
    assert said in page
    assert said in words(await anna.get(making.address))
