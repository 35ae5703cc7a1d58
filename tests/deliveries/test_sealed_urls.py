"""Secrets in an HTTP destination's URL are sealed where they are kept and masked where they are shown."""

from typing import Any

import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.deliveries import sealing
from aircall_oauth.deliveries.destinations.addresses import Guard
from aircall_oauth.deliveries.destinations.http import HttpDestination
from aircall_oauth.deliveries.destinations.outcomes import Message, TryAgain
from aircall_oauth.server.worker import CHORES
from aircall_oauth.storage.stamps import new_id
from tests.support.receivers import LOOPBACK, receiver, subscription_body
from tests.support.service import Service, run_service, settings_for

AT = "https://203.0.114.7/hook"
SHOWN = {
    "?token=c4n4ry": "?token=***",
    "?c4n4ry": "?***",
    "?a=c4n4ry&b=c4n4ry&c4n4ry==": "?a=***&b=***&***",
    "?a=c4n4ry?c4n4ry=c4n4ry": "?a=***",
    "?a=c4n4ry;b=c4n4ry&&": "?a=***&&",
    "": "",
    "?": "?",
}


async def create(service: Service, url: str) -> Any:
    partner = await service.partner()
    made = await partner.post("/v1/subscriptions", json=subscription_body(url))
    assert made.status_code == 201, made.text
    return made.json()


async def everything(service: Service) -> str:
    rows = await service.sql("SELECT s::text AS text FROM subscription s")
    return " ".join(row["text"] for row in rows)


@pytest.mark.parametrize(("query", "shown"), SHOWN.items())
async def test_what_a_query_says_is_sealed_and_shown_to_nobody(service: Service, query: str, shown: str) -> None:
    made = await create(service, AT + query)
    reader = await service.partner(Scope.SUBSCRIPTIONS_READ)

    one = (await reader.get(f"/v1/subscriptions/{made['id']}")).json()
    listed = (await reader.get("/v1/subscriptions")).json()["items"]

    assert made["url"] == one["url"] == listed[0]["url"] == AT + shown
    assert "c4n4ry" not in await everything(service)


async def test_deliveries_go_to_the_whole_address_and_a_change_seals_too(database_url: str) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service, receiver() as to:
        made, partner = await create(service, f"{to.url}?token=c4n4ry-1"), await service.partner()
        door = f"/v1/subscriptions/{made['id']}"

        first = await partner.post(f"{door}/test")
        changed = await partner.patch(door, json={"url": f"{to.url}?token=c4n4ry-2"})
        second = await partner.post(f"{door}/test")

        assert (first.json()["delivered"], second.json()["delivered"]) == (True, True)
        assert to.targets == ["/hook?token=c4n4ry-1", "/hook?token=c4n4ry-2"]
        assert changed.json()["url"] == f"{to.url}?token=***"
        assert "c4n4ry" not in await everything(service)


async def test_an_address_sent_back_as_it_was_shown_stays(database_url: str) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service, receiver() as to:
        made, partner = await create(service, f"{to.url}?token=c4n4ry"), await service.partner()
        door = f"/v1/subscriptions/{made['id']}"

        changed = await partner.patch(door, json={"name": "erp", "url": made["url"]})
        await partner.post(f"{door}/test")

        assert (changed.json()["name"], changed.json()["url"]) == ("erp", made["url"])
        assert to.targets == ["/hook?token=c4n4ry"]


async def an_earlier_version_made(service: Service, url: str) -> str:
    made = await create(service, url)
    await service.sql("UPDATE subscription SET url = $1, url_sealed = NULL WHERE id = $2", url, made["id"])
    return str(made["id"])


async def test_what_an_earlier_version_left_in_clear_is_masked_and_then_sealed(database_url: str) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service, receiver() as to:
        old = [await an_earlier_version_made(service, f"{to.url}?token=c4n4ry-{n}") for n in range(3)]
        partner = await service.partner()
        before = (await partner.get("/v1/subscriptions")).json()["items"]
        assert (await partner.post(f"/v1/subscriptions/{old[0]}/test")).json()["delivered"]

        await next(chore.work for chore in CHORES if chore.work == sealing.seal_urls)(service.resources)

        after = (await partner.get("/v1/subscriptions")).json()["items"]
        assert {item["url"] for item in before + after} == {f"{to.url}?token=***"}
        assert "c4n4ry" not in await everything(service)
        assert (await partner.post(f"/v1/subscriptions/{old[1]}/test")).json()["delivered"]
        assert to.targets == ["/hook?token=c4n4ry-0", "/hook?token=c4n4ry-1"]


async def test_an_earlier_version_sends_nothing_to_an_address_that_is_masked(database_url: str) -> None:
    settings = settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)
    async with run_service(settings) as service, receiver() as to:
        await create(service, f"{to.url}?tenant=acme")
        (row,) = await service.sql("SELECT url FROM subscription")

        # This is all that it looked at.
        destination = HttpDestination(row["url"], lambda: [b"k" * 32], Guard(settings), at_once=1)
        outcome = await destination.deliver(Message(new_id("evt"), new_id("ins"), "call.ended", b"{}"))
        await destination.close()

        assert isinstance(outcome, TryAgain)
        assert to.received == []
