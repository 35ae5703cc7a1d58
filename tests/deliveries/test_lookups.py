"""Names without an answer slow only the subscriptions that ask for them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from aircall_oauth.deliveries.reader.supervisor import reading
from tests.support.receivers import LOOPBACK, Receiver, receiver, subscription_body, tell
from tests.support.service import run_service, settings_for, until

MANY = 80


@dataclass
class Names:
    """What is asked of the resolver; below `silent.example` it does not answer while the test lasts."""

    silent: bool = True
    asked: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def look_up(self, host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        if not host.endswith("silent.example"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        if self.silent:
            self.asked.append(host)
            self.over.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    it = Names()
    with monkeypatch.context() as changes:
        changes.setattr(socket, "getaddrinfo", it.look_up)
        yield it
        it.over.set()


async def create(partner: Any, url: str) -> Any:
    return await partner.post("/v1/subscriptions", json=subscription_body(url, name="x"), timeout=60)


def by_name(to: Receiver) -> str:
    return f"http://good.example:{to.port}/hook"


@pytest.mark.slow
async def test_names_without_an_answer_keep_no_other_destination_from_being_made(
    database_url: str, names: Names
) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service, receiver() as to:
        mallory, acme = await service.partner(owner="mallory"), await service.partner(owner="acme")
        urls = [f"https://n{number}.silent.example/" for number in range(MANY)]
        hostile = [asyncio.create_task(create(mallory, url)) for url in urls]
        await until(lambda: len(names.asked) >= 8)

        made = await create(acme, by_name(to))
        tried = await acme.post(f"/v1/subscriptions/{made.json()['id']}/test")

        assert made.status_code == 201, made.text
        assert tried.json()["outcome"] == "delivered"
        # A name that can't be looked up now is no mistake yet; that so many come at once may be one.
        assert {answer.status_code for answer in await asyncio.gather(*hostile)} <= {201, 503}


@pytest.mark.slow
async def test_names_without_an_answer_keep_no_other_destination_from_being_served(
    database_url: str, names: Names
) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as service, receiver() as to:
        await service.installed()
        partner, names.silent = await service.partner(), False
        for number in range(MANY):
            assert (await create(partner, f"https://n{number}.silent.example/")).status_code == 201
        names.silent = True

        async with reading(service.resources):
            await tell(service, 1)
            await until(lambda: len(set(names.asked)) >= 60, 30)
            # Looked up only now, behind all of them.
            assert (await create(partner, by_name(to))).status_code == 201
            await tell(service, 1, first=1)
            await until(lambda: to.numbers == [1], 10)
            names.over.set()
