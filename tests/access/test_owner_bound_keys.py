"""A key bound to an owner, at every door that the document has: nothing of another owner is seen, told or changed."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from aircall_oauth.server import openapi
from tests.support.receivers import subscription_body
from tests.support.service import Service, run_service, settings_for

OWN, FOREIGN = "acme", "globex"
RETURN_TO = "https://app.example.com/aircall/connected"
LOOPBACK = "127.0.0.0/8"
CURSORS = {
    "list_installations": "ins_",
    "list_subscriptions": "sub_",
    "list_replays": "rpl_",
    "list_install_attempts": "att_",
    "list_audit": "1_aud_",
    "list_erasures": "era_",
    "list_retention": "",
}
READING = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True)
class Of:
    """What there is of one owner, as the doors name it."""

    installation_id: str
    event_id: str
    owner: str
    claim: str
    subscription_id: str
    replay_id: str
    attempt_id: str
    erasure_id: str


@dataclass(frozen=True)
class House:
    """Two owners in one service; the key is bound to the first."""

    service: Service
    partner: httpx.AsyncClient
    own: Of
    foreign: Of
    # What an answer would show if it showed anything of the foreign owner.
    marks: set[str]


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    async with run_service(
        settings_for(database_url, RETURN_URLS=RETURN_TO, ALLOWED_PRIVATE_RANGES=LOOPBACK)
    ) as service:
        own, foreign = [await _of(service, n, owner) for n, owner in enumerate((OWN, FOREIGN))]
        tokens = service.aircall.tokens_of(service.aircall.companies[1])
        webhook_ids = await service.sql(
            "SELECT webhook_id FROM webhook WHERE installation_id = $1", foreign.installation_id
        )
        marks = {
            *(
                foreign.installation_id,
                foreign.event_id,
                foreign.claim,
                foreign.subscription_id,
                foreign.replay_id,
                foreign.attempt_id,
                foreign.erasure_id,
                f"secret of {FOREIGN}",
                f"secret_of_{FOREIGN}",
                *tokens,
            ),
            *(service.aircall.companies[1].name, str(webhook_ids[0]["webhook_id"])),
        }
        yield House(service, await service.partner(owner=OWN), own, foreign, marks)


async def _of(service: Service, number: int, owner: str) -> Of:
    company = service.aircall.companies[number]
    installation_id = await service.install(company)
    await service.sql("UPDATE installation SET owner = $2 WHERE id = $1", installation_id, owner)
    (webhook,) = service.aircall.webhooks.of(company.id)
    body = f'{{"event": "call.ended", "token": "{webhook.token}", "data": {{"note": "secret of {owner}"}}}}'
    assert (await service.post_event(body.encode())).status_code == 200
    (event,) = await service.sql(
        "SELECT id FROM event WHERE installation_id = $1 AND type = 'call.ended'", installation_id
    )
    claim = await service.install_by_link(owner, company)
    (attempt,) = await service.sql("SELECT id FROM install_attempt WHERE owner = $1", owner)
    subscription_id = await _subscribed(service, owner)
    replay_id = await _replayed(service, subscription_id)
    erasure_id = await _erased(service, owner)
    kept = {"rules": {f"secret_of_{owner}": "3d"}}
    assert (await (await service.partner()).put(f"/v1/retention/{owner}", json=kept)).status_code == 200
    return Of(installation_id, event["id"], owner, claim, subscription_id, replay_id, attempt["id"], erasure_id)


async def _subscribed(service: Service, owner: str) -> str:
    wanted = {"name": f"secret of {owner}", "kind": "http", "url": "http://127.0.0.1:9/", "owners": [owner]}
    answer = await (await service.partner()).post("/v1/subscriptions", json=wanted)
    assert answer.status_code == 201, answer.text
    subscription_id: str = answer.json()["id"]
    return subscription_id


async def _replayed(service: Service, subscription_id: str) -> str:
    window = {"from": 1, "to": 100, "everything": True}
    answer = await (await service.partner()).post(f"/v1/subscriptions/{subscription_id}/replay", json=window)
    assert answer.status_code == 202, answer.text
    replay_id: str = answer.json()["id"]
    return replay_id


async def _erased(service: Service, owner: str) -> str:
    body = {"email": "mara@example.org", "owner": owner}
    answer = await (await service.partner()).post("/v1/erasures", json=body)
    assert answer.status_code == 202, answer.text
    erasure_id: str = answer.json()["id"]
    return erasure_id


def _doors() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every door of the partner's systems."""
    for path, operations in openapi.document()["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                yield method.upper(), path, operation


def _address(path: str, of: Of) -> str:
    """Return an endpoint's address with an owner's ids. A new kind of id needs a name in `Of`."""
    return path.format(
        installation_id=of.installation_id,
        event_id=of.event_id,
        subscription_id=of.subscription_id,
        replay_id=of.replay_id,
        attempt_id=of.attempt_id,
        erasure_id=of.erasure_id,
        owner=of.owner,
        path="calls",
    )


def _bodies(operation: dict[str, Any], of: Of) -> Sequence[dict[str, Any] | None]:
    """Return what is sent to an endpoint. A new endpoint with a body needs an attack here."""
    if "requestBody" not in operation or operation["operationId"].startswith("ask_aircall_"):
        return [None]
    attacks: dict[str, Sequence[dict[str, Any]]] = {
        "make_install_link": [{"owner": of.owner}],
        "claim_installation": [{"claim": of.claim, "owner": owner} for owner in (of.owner, OWN)],
        "create_subscription": [subscription_body("http://127.0.0.1:9/", name="x", owners=[of.owner])],
        "change_subscription": [{"name": "taken"}, {"owners": [OWN]}],
        "replay_subscription": [{"position": 0}, {"from": 1, "to": 100, "everything": True}],
        "resend_event": [{"subscription_id": of.subscription_id}],
        "erase_person": [
            {"phone": "+44 20 7946 0123", "owner": of.owner},
            {"email": "mara@example.org", "installation_id": of.installation_id},
        ],
        "set_retention": [{"rules": {"*": "1d"}}],
        "rotate_subscription_secret": [{"now": True}],
        "retry_dead_events": [{}, {"event_ids": [of.event_id]}],
    }
    return attacks[operation["operationId"]]


def _queries(operation: dict[str, Any], of: Of) -> list[dict[str, str]]:
    """Return no filter, and each filter set to what belongs to an owner."""
    names = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"}
    filters = {
        "owner": of.owner,
        "installation": of.installation_id,
        "installation_id": of.installation_id,
        "subscription_id": of.subscription_id,
        "event_id": of.event_id,
        "after": "0",
        "order": "desc",
        "subject": f"installation:{of.installation_id}",
        "call_id": "1",
        "since": "2020-01-01T00:00:00Z",
        "events": "erase",
    }
    if operation["operationId"] in CURSORS:
        filters["cursor"] = CURSORS[operation["operationId"]] + "0" * 32
    return [{}, *({name: value} for name, value in filters.items() if name in names)]


async def _ask(house: House, method: str, path: str, operation: dict[str, Any], of: Of) -> list[httpx.Response]:
    return [
        await house.partner.request(method, _address(path, of), params=query, json=body)
        for query in _queries(operation, of)
        for body in _bodies(operation, of)
    ]


@pytest.mark.slow
async def test_no_door_shows_or_changes_anything_of_another_owner(house: House) -> None:
    house.service.app.state.notifier.stop()  # so that the stream ends with what is there
    before, asked = await _state(house), len(house.service.aircall.requests)

    doors = list(_doors())
    for method, path, operation in doors:
        for answer in await _ask(house, method, path, operation, house.foreign):
            door = f"{method} {answer.request.url}"
            assert answer.status_code < 500, door
            assert not [mark for mark in house.marks if mark in answer.text + str(answer.headers)], door
            if "{" in path:
                assert answer.status_code == 404, door
            elif method not in READING:
                assert answer.status_code in {403, 404}, door

    assert len(doors) >= 30
    assert await _state(house) == before
    assert len(house.service.aircall.requests) == asked


@pytest.mark.slow
async def test_each_reading_door_shows_what_is_ones_own(house: House) -> None:
    """The same requests are answered for the key's own owner, so the refusals above are about the owner."""
    house.service.app.state.notifier.stop()

    for method, path, operation in _doors():
        if method == "GET":
            for answer in await _ask(house, method, path, operation, house.own):
                assert answer.status_code == 200, f"{method} {answer.request.url}"


@pytest.mark.slow
async def test_what_is_foreign_looks_like_what_is_not_there(house: House) -> None:
    nowhere = Of(
        "ins_" + "0" * 32,
        "evt_" + "0" * 32,
        "nobody",
        "none",
        "sub_" + "0" * 32,
        "rpl_" + "0" * 32,
        "att_" + "0" * 32,
        "era_" + "0" * 32,
    )

    for method, path, operation in _doors():
        if "{" in path:
            foreign, missing = [(await _ask(house, method, path, operation, of))[0] for of in (house.foreign, nowhere)]
            assert foreign.status_code == missing.status_code == 404, path
            assert _said(foreign) == _said(missing), path


def _said(answer: httpx.Response) -> Any:
    if not answer.content:
        return None
    return {name: value for name, value in answer.json().items() if name != "request_id"}


async def _state(house: House) -> list[Any]:
    """All that is kept of the foreign owner (but for what the audit tells of attempts), and what Aircall has of it."""
    of = house.foreign.installation_id
    tables = {"installation": "id", "webhook": "installation_id", "claim": "installation_id"}
    rows = [await house.service.sql(f"SELECT * FROM {table} WHERE {key} = $1", of) for table, key in tables.items()]
    rows.append(await house.service.sql("SELECT * FROM subscription WHERE id = $1", house.foreign.subscription_id))
    rows.append(await house.service.sql("SELECT * FROM erasure WHERE owner = $1", FOREIGN))
    rows.append(await house.service.sql("SELECT * FROM owner_retention WHERE owner = $1", FOREIGN))
    rows.append(await house.service.sql("SELECT * FROM replay WHERE id = $1", house.foreign.replay_id))
    company = house.service.aircall.companies[1]
    return [
        *map(list, rows),
        house.service.aircall.tokens_of(company),
        len(house.service.aircall.webhooks.of(company.id)),
    ]
