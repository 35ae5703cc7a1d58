"""No person's number, name or address is in what is told of the samples' events: logs, metrics, traces, error texts."""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from aiohttp import web

from aircall_oauth.sandbox.ports import free_port
from tests.support.processes import World, a_client, collector, eventually, world
from tests.support.service import run_command
from tests.telemetry.test_canary import dump

SAMPLES = Path(__file__).parents[2] / "src/aircall_oauth/sandbox/samples"
# The fields of Aircall's in which the samples name a person, or say what was said.
OF_PEOPLE = {"raw_digits", "phone_number", "external_number", "external_caller_number", "external_transferred_to"}
OF_PEOPLE |= {"first_name", "last_name", "email", "body", "text"}
# Lists of `{"value": …}`, people with a `name`, and texts under `content`.
VALUES, NAMED, CONTENTS = (
    {"phone_numbers", "emails"},
    {"user", "posted_by", "assigned_to", "participants"},
    {"comments"},
)
SCOPES = "installations:read,installations:write,events:read,aircall:call,privacy:erase,privacy:export"
SCOPES += ",subscriptions:read,subscriptions:write,audit:read"
SHORT = 8  # in base64 a shorter word could be there by chance
NOT_SPACE = str.maketrans("", "", " ()-.")
MARA, ADDRESS = "+44 20 7946 0123", "mara.ellison@example.org"
SOME = (MARA, ADDRESS, "Tomas Lindqvist", "Hi, is my order on its way?")
MAKE_KEY = ("keys", "create", "--name", "test", "--scopes", SCOPES)
# What makes the database refuse an event, and what mends it.
SPOILED = (
    (
        ["ALTER TABLE event ADD CONSTRAINT spoiled CHECK (data = '') NOT VALID"],
        ["ALTER TABLE event DROP CONSTRAINT spoiled"],
    ),
    (["ALTER TABLE event_fingerprint RENAME TO gone"], ["ALTER TABLE gone RENAME TO event_fingerprint"]),
    (
        [
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'it was %', NEW.data; END $$",
            "CREATE TRIGGER spoil BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION spoil()",
        ],
        ["DROP FUNCTION spoil CASCADE"],
    ),
)
DOORS = ("/v1/events", "/v1/installations", "/v1/erasures", "/v1/subscriptions", "/v1/audit", "/v1/nothing-there")


def told_in(value: Any, name: str = "", within: str = "") -> Iterator[str]:
    """Every text of a sample that is a person's."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from told_in(each, key, name or within)
    elif isinstance(value, list):
        for each in value:
            yield from told_in(each, "", name)
    elif isinstance(value, str) and value != "anonymous":
        of_a_list = (name, within) in {("value", each) for each in VALUES} | {("content", each) for each in CONTENTS}
        if name in OF_PEOPLE or of_a_list or (name == "name" and within in NAMED):
            yield value


def spellings(text: str) -> Iterator[str]:
    """A text as it may be found inside something else; a number without what stands between its digits too."""
    for clear in {text, text.translate(NOT_SPACE).lstrip("+") if text[0] in "+0123456789" else text}:
        yield from (clear, quote(clear, safe=""), json.dumps(clear)[1:-1], clear.encode().hex())
        if len(clear) >= SHORT:
            for offset in range(3):
                inner = base64.b64encode(b"\0" * offset + clear.encode())[(4 if offset else 0) : -4].decode()
                yield from (inner, inner.replace("+", "-").replace("/", "_"))


def found(people: set[str], haystack: str) -> set[str]:
    return {text for text in people if any(spelling in haystack for spelling in spellings(text))}


def sampled() -> tuple[dict[str, dict[str, Any]], set[str]]:
    """The samples of events by name, and whom they tell of."""
    samples = {path.name: json.loads(path.read_text()) for path in sorted(SAMPLES.glob("event.*.json"))}
    return samples, {text for sample in samples.values() for text in told_in(sample["data"])}


def test_the_samples_tell_of_numbers_names_addresses_and_words() -> None:
    _, people = sampled()

    assert {"+44 20 7946 0123", "+442079460123", "442079460123", "+33 1 99 00 55 66"} <= people
    assert {"Mara", "Ellison", "Ines Okafor", "Tomas Lindqvist"} <= people
    assert {"mara.ellison@example.org", "ines.okafor@example.com", "Hi, is my order on its way?"} <= people


@pytest.mark.parametrize(
    "write",
    [
        str,
        lambda text: text.replace(" ", ""),
        lambda text: quote(text, safe=""),
        lambda text: f"x{base64.b64encode(f'xy{text}, and more'.encode()).decode()}",
        lambda text: json.dumps(json.dumps({"": text})),
    ],
)
def test_the_search_finds_a_person_however_it_is_written(write: Callable[[str], str]) -> None:
    assert found({"+44 20 7946 0123", "Tomas Lindqvist"}, f"<<{write('+44 20 7946 0123')}>>") == {"+44 20 7946 0123"}


class Canary:
    """Lets events of people go wherever events go, and fail there; it remembers what is answered to whom fails."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.samples, self.people = sampled()
        self.refusals: list[str] = []

    async def post(self, content: bytes | str, **headers: str) -> int:
        answer = await self.it.browser.post("/aircall/webhook", content=content, headers=headers)
        self.refusals.append(answer.text + str(answer.headers))
        return answer.status_code

    async def events(self, token: str) -> None:
        """Each sample as Aircall sends it, and then spoiled in every way that is refused."""
        for n, sample in enumerate(self.samples.values()):
            body = json.dumps(sample | {"token": token})
            assert await self.post(body) == 200
            spoiled = (
                *(body[:-1], f"[{body}]", body.replace("{", '{"token": 1,', 1), body * 2, body.replace(token, "x")),
                *(body.replace('"data": {', '"data": {"x": NaN,', 1), body.replace('"event"', '"Event"', 1)),
            )
            answers = [await self.post(each) for each in (spoiled if n % 16 == 0 else spoiled[:1])]
            assert all(400 <= answer < 500 for answer in answers), answers
        assert await self.post(body + " " * 2**20) == 413
        assert await self.post(body, **{"content-encoding": "gzip"}) == 415

    async def a_database_that_refuses(self, token: str) -> None:
        """PostgreSQL's errors may quote the row, or what a statement was given."""
        for n, (spoil, mend) in enumerate(SPOILED):
            body = json.dumps(self.samples["event.call.ended.json"] | {"token": token, "timestamp": 1767261600 + n})
            for statement in spoil:
                await self.it.sql(statement)
            assert await self.post(body) in (400, 503)
            for statement in mend:
                await self.it.sql(statement)

    async def partners(self, key: str, installation_id: str, receiver: str) -> None:
        """People in every place of a request: at doors that refuse it, that are broken, and that work."""
        async with a_client(self.it.service_url, headers={"authorization": f"Bearer {key}"}) as partner:
            for path in (receiver, f"{receiver}/refused"):
                body = {"name": "crm", "kind": "http", "url": path, "from": "beginning"}
                assert (await partner.post("/v1/subscriptions", json=body)).status_code == 201
            for told in SOME:
                for door in DOORS:
                    await self._ask(
                        partner, "GET", door, params={"subject": told, "owner": told, told: told, "cursor": told}
                    )
                    await self._ask(partner, "GET", f"{door}/{quote(told, safe='')}")
                    await self._ask(partner, "POST", door, json={"name": told, told: told, "url": told, "kind": told})
                await self._ask(partner, "POST", "/v1/erasures", json={"phone": told, "email": told, told: told})
                await self._ask(partner, "POST", "/v1/erasures", json={"phone": f"x{told}"})
                await self._ask(partner, "POST", "/v1/erasures", content=f'{{"phone": "{told}"')
            proxied = f"/v1/installations/{installation_id}/aircall/contacts"
            await partner.get(f"{proxied}/search", params={"phone_number": MARA, "email": ADDRESS})
            await partner.post(
                proxied, json={"first_name": "Mara", "last_name": "Ellison", "emails": [{"value": ADDRESS}]}
            )
            await self.it.sql("ALTER TABLE erasure RENAME TO gone")
            answer = await self._ask(partner, "POST", "/v1/erasures", json={"phone": MARA})
            assert answer.status_code == 500
            await self.it.sql("ALTER TABLE gone RENAME TO erasure")
            assert (await partner.get(f"/v1/installations/{installation_id}/export")).status_code == 200

    async def erase(self, key: str) -> None:
        async with a_client(self.it.service_url, headers={"authorization": f"Bearer {key}"}) as partner:
            for asked in ({"phone": MARA}, {"email": ADDRESS}):
                assert (await partner.post("/v1/erasures", json=asked)).status_code == 202
        commands = (("erasures", "create", "--phone", "Mara Ellison"), ("erasures", "create", "--email", MARA, "--yes"))
        for ended in await asyncio.gather(*(run_command(*c, environment=self.it.environment) for c in commands)):
            assert ended.exit_code != 0
            self.refusals.append(ended.stdout + ended.stderr)
        await eventually(lambda: self.it.sql("SELECT 1 FROM erasure WHERE erased > 0"))

    async def _ask(self, partner: httpx.AsyncClient, method: str, path: str, **asked: Any) -> httpx.Response:
        answer = await partner.request(method, path, **asked)
        if answer.status_code >= 400:
            self.refusals.append(answer.text + str(answer.headers))
        return answer


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """A destination that says in its refusal what it was sent."""

    async def answer(request: web.Request) -> web.Response:
        told = await request.read()
        return web.Response(status=422 if request.path.endswith("refused") else 500, body=told, reason="Ines Okafor")

    app = web.Application()
    app.router.add_post("/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.slow
async def test_nothing_of_a_person_is_in_logs_metrics_traces_or_error_texts(tmp_path: Path, database_url: str) -> None:
    metrics_port = free_port()
    places = {"METRICS_PORT": str(metrics_port), "ALLOWED_PRIVATE_RANGES": "127.0.0.0/8"}
    async with (
        collector() as (collector_url, exported),
        echoing() as receiver,
        world(tmp_path, database_url, more_companies=0, LOG_LEVEL="debug", TRACES="true", **places) as it,
    ):
        it.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector_url
        service = await it.start_service("--with-worker")
        await it.browser.get(await it.consent())
        created = await run_command(*MAKE_KEY, environment=it.environment)
        key, token = created.stdout.split()[-1], await it.webhook_token()
        (installation,) = await it.sql("SELECT id FROM installation")
        canary = Canary(it)
        await canary.events(token)
        await canary.a_database_that_refuses(token)
        await canary.partners(key, installation["id"], receiver)
        await eventually(lambda: it.sql("SELECT 1 FROM subscription WHERE health = 'down'"))
        await eventually(lambda: it.sql("SELECT 1 FROM attempt OFFSET 5"))
        kept = await dump(it)
        await canary.erase(key)
        async with a_client(f"http://127.0.0.1:{metrics_port}") as scraper:
            metrics = (await scraper.get("/metrics")).text
        service.tell(signal.SIGTERM)
        await service.ended()

    left = {
        "log": service.said(),
        "metrics": metrics,
        "traces": "\n".join(body.decode("latin-1") for body in exported),
        "error texts": "\n".join(canary.refusals),
    }
    assert {where: found(canary.people, text) for where, text in left.items()} == {where: set() for where in left}
    assert found(canary.people, kept) == canary.people
    assert "Traceback" in left["log"]
    assert '"event": "event refused by the database"' in left["log"]
    assert "aircall_oauth_acks_total" in left["metrics"]
    assert "POST /v1/erasures" in left["traces"]
    assert "application/problem+json" in left["error texts"]
