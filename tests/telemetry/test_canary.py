"""No secret is where it does not belong: everything is done once, at debug level, and what is left is searched."""

import asyncio
import base64
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from aircall_oauth.storage.vault import Vault
from tests.support.processes import World, a_client, collector, eventually, world
from tests.support.service import CLIENT_SECRET, FINGERPRINT_KEY, SECRET_KEY, run_command

FAULTS = {
    "oauth/token": ("drop_request", "drop_reply", "error_500", "html", "huge", "status_429"),
    "integrations/me": ("error_500", "html"),
    "company": ("huge",),
    "GET webhooks": ("drop_reply",),
    "POST webhooks": ("drop_request", "drop_reply", "error_500", "html", "huge", "status_429"),
}
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
HOME = "https://app.example.com/connected"
CLAIM = "claim="
# What custody keeps; in the end each holds a row, and none of them a secret.
KEEPING = ("installation", "webhook", "flow", "claim", "uninstall", "farewell", "log_reader", "audit", "budget")
STRANGER = "canary-nobodys-"


def spellings(secret: str | bytes) -> Iterator[bytes]:
    """A secret as it might be found inside something else: in clear, for a URL, in hex, in base64 at any offset."""
    clear = secret.encode() if isinstance(secret, str) else secret
    yield from (clear, quote(clear, safe="").encode(), clear.hex().encode(), clear.hex().upper().encode())
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + clear)
        # What shares a letter with its neighbours is left out: they would change it.
        inner = whole[(4 if offset else 0) : -4]
        yield from (inner, inner.replace(b"+", b"-").replace(b"/", b"_"))


def found(secrets: dict[str, str | bytes], haystack: str) -> list[str]:
    searched = haystack.encode()
    return [name for name, secret in secrets.items() if any(spelling in searched for spelling in spellings(secret))]


@pytest.mark.parametrize("before", ["", "x", "xy"])
def test_the_search_finds_a_secret_however_it_is_written(before: str) -> None:
    secret = "s3cret?of>some/length+0123456789"
    hidden = f"{before}{secret}, and more".encode()

    for haystack in (
        hidden.decode(),
        hidden.hex(),
        hidden.hex().upper(),
        base64.b64encode(hidden).decode(),
        base64.urlsafe_b64encode(hidden).decode(),
        quote(hidden, safe=""),
    ):
        assert found({"it": secret, "another": "quite-another-secret"}, f"<<{haystack}>>") == ["it"]


class Canary:
    """Does everything there is to do, and remembers every secret it meets and every answer it gets."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.answers: list[str] = []
        self.secrets: dict[str, str | bytes] = {
            "client secret": CLIENT_SECRET,
            "sealing key": base64.b64decode(SECRET_KEY),
            "sealing key as configured": SECRET_KEY,
            "fingerprint key": base64.b64decode(FINGERPRINT_KEY),
            "fingerprint key as configured": FINGERPRINT_KEY,
        }
        it.browser.event_hooks = {"response": [self._remember]}

    async def _remember(self, answer: httpx.Response) -> None:
        await answer.aread()
        path = answer.request.url.path
        told = answer.text
        if answer.status_code >= 400 or path.endswith("/callback"):
            told += str(answer.headers)
        if CLAIM in answer.headers.get("location", ""):
            # The one place where a claim belongs: on its way home.
            told = told.replace(self.note("claim", answer.headers["location"].partition(CLAIM)[2]), "")
        if path.endswith("/install-links") and answer.status_code == 201:
            self.note("link", answer.json()["url"].partition("link=")[2])
            return
        if not (path.endswith("/token") and answer.status_code == 200) and not path.startswith("/oauth/"):
            self.answers.append(told)

    def note(self, name: str, secret: str) -> str:
        self.secrets[f"{name} {len(self.secrets)}"] = secret
        return secret

    async def consent(self, decision: str = "authorize") -> str:
        """The way back from Aircall; its code and state, and the browser's cookie, are noted."""
        back = await self.it.consent(decision)
        for name, (value,) in parse_qs(urlsplit(back).query).items():
            if name in {"code", "state"}:
                self.note(name, value)
        for cookie in self.it.browser.cookies.jar:
            self.note("cookie", cookie.value or "")
            vault = Vault({"k1": b"k" * 32}, b"f" * 32)
            proof = vault.fingerprint(cookie.name.removeprefix("aircall_oauth_"), "pkce")
            self.note("PKCE verifier", base64.urlsafe_b64encode(proof).decode().rstrip("="))
        return back

    async def flows(self) -> None:
        door = f"{self.it.service_url}/aircall/oauth/callback"
        back, denied = await self.consent(), await self.consent("deny")
        code, error = self.note("code", f"{STRANGER}code-1"), self.note("error", f"{STRANGER}error")
        state = parse_qs(urlsplit(await self.consent()).query)["state"][0]
        async with a_client(self.it.service_url, event_hooks={"response": [self._remember]}) as stranger:
            await stranger.get(back)
        for url in (f"{back}&code=again", f"{back[:-5]}", f"{door}?code={code}", f"{back}%01", back, back, denied):
            await self.it.browser.get(url)
        await self.it.browser.get(door, params={"state": state, "code": code, "x": error})
        await self.it.browser.get(door, params={"state": state, "error": error})
        await self.it.browser.post(back, data={"code": code})
        await self.it.browser.get(await self.consent(), headers={"sec-purpose": "prefetch"})
        await self.it.browser.get(f"{self.it.service_url}/aircall/oauth/install", params={"return_to": error})
        await self.it.browser.get(f"{self.it.service_url}/aircall/oauth/{code}")

    async def flows_with_aircall_breaking(self) -> None:
        for door, faults in FAULTS.items():
            for how in faults:
                await self.it.control("break", door=door, how=how, size=2**21)
                await self.it.browser.get(await self.consent())
                await self.it.control("heal")
        await self.it.sql("UPDATE webhook SET due_at = now()")
        await eventually(lambda: self.it.sql("SELECT 1 FROM webhook WHERE status = 'active'"))

    async def partners(self) -> None:
        scopes = ("installations:read,installations:write,events:read,tokens:read", "events:read")
        key, poor = [self.note("API key", made) for made in await asyncio.gather(*map(self._key, scopes))]
        wrong = self.note("API key", f"aok_{STRANGER}key")
        (row,) = await self.it.sql("SELECT id FROM installation")
        door = f"/v1/installations/{row['id']}/token"
        answer = await self._get(door, key)
        self.token = self.note("access token", answer.json()["access_token"])
        for asked in (door, "/v1/installations", "/v1/events", f"/v1/installations/{self.token}", f"/v1/{key}"):
            for shown in (key, poor, wrong, f"{key}x"):
                await self._get(asked, shown)
        for name in ("cursor", "limit", "status", "owner", "after", "access_token", "api_key"):
            await self._get(f"/v1/installations?{name}={key}", key)
            await self._get(f"/v1/events?{name}={key}", key)
        await self.it.browser.get("/v1/events", headers={"authorization": f"Basic {key}"})
        await self.it.browser.post(door, headers={"authorization": f"Bearer {key}"}, content=key)
        commands = (("keys", "list"), ("keys", "revoke", poor), ("keys", "revoke", "none-like-this"))
        for ended in await asyncio.gather(*(run_command(*c, environment=self.it.environment) for c in commands)):
            self.answers.append(ended.stdout + ended.stderr)
        self.key = key

    async def events(self) -> None:
        headers = {"authorization": f"Bearer {self.token}"}
        webhooks = (await self.it.aircall.get("/v1/webhooks", headers=headers)).json()["webhooks"]
        known, unknown = self.note("webhook token", webhooks[0]["token"]), self.note("webhook token", f"{STRANGER}hook")
        for token in (known, unknown):
            good = {"resource": "call", "event": "call.ended", "timestamp": 1, "token": token, "data": {"id": 1}}
            body = json.dumps(good)
            for content in (body, body, body[:-1], f"[{body}]", body.replace("{", '{"token": 1,', 1), body * 2, token):
                await self.it.browser.post("/aircall/webhook", content=content)
            await self.it.browser.post("/aircall/webhook", content=body + " " * 2**20)
            await self.it.browser.post("/aircall/webhook", content=body, headers={"content-encoding": "gzip"})
            await self.it.browser.put("/aircall/webhook", content=body)
            await self.it.browser.post(f"/aircall/webhook/{token}?token={token}", content=body)
        await self.it.control("place-call")
        await eventually(lambda: self.it.sql("SELECT 1 FROM event WHERE type = 'call.created'"))

    async def faults_of_our_own(self) -> None:
        """What ends in a traceback: tables that are not there."""
        body = json.dumps({"event": "call.ended", "token": self.note("webhook token", f"{STRANGER}2"), "data": {}})
        claim = self.note("claim", f"{STRANGER}claim")
        for table in ("flow", "installation", "event_fingerprint", "webhook", "api_key", "claim", "audit"):
            await self.it.sql(f"ALTER TABLE {table} RENAME TO gone")
            await self.it.browser.get(await self.consent())
            await self.it.browser.post("/aircall/webhook", content=body)
            await self._get("/v1/installations", self.key)
            await self._post("/v1/claims", {"claim": claim, "owner": "acme"})
            await self._post("/v1/install-links", {"owner": "acme"})
            await self.it.sql(f"ALTER TABLE gone RENAME TO {table}")

    async def custody(self) -> None:
        """Links, claims, and leaving; in the end a claim waits, an uninstall is looked at, a farewell is put off."""
        await self.it.control("settings", same_token_again=True)
        first = await self._home_by_link("acme", 70078)
        wrong = self.note("claim", f"{STRANGER}claim")
        for claim, owner in ((wrong, "acme"), (first, "globex"), (first, "acme"), (first, "acme"), (first, self.key)):
            await self._post("/v1/claims", {"claim": claim, "owner": owner})
        await self._post("/v1/claims", {"claim": [first], "owner": first})
        await self._post("/v1/install-links", {"owner": "acme", "return_to": first})
        await self._home_by_link("globex", 70078)
        (row,) = await self.it.sql("SELECT id FROM installation WHERE company_id = 70078")
        token = (await self._get(f"/v1/installations/{row['id']}/token", self.key)).json()["access_token"]
        headers = {"authorization": f"Bearer {self.note('access token', token)}"}
        (webhook,) = (await self.it.aircall.get("/v1/webhooks", headers=headers)).json()["webhooks"]
        told = {"event": "integration.deleted", "token": self.note("webhook token", webhook["token"]), "data": {}}
        await self.it.browser.post("/aircall/webhook", content=json.dumps(told))
        await eventually(lambda: self.it.sql("SELECT 1 FROM uninstall WHERE looks > 0"))
        await self.it.control("break", door="all", how="error_500", times=1000)
        (row,) = await self.it.sql("SELECT id FROM installation WHERE company_id = 70077")
        authorization = {"authorization": f"Bearer {self.key}"}
        await self.it.browser.delete(f"/v1/installations/{row['id']}", headers=authorization)
        commands = (("audit",), ("audit", "--json"), ("installations", "list"), ("installations", "show", row["id"]))
        for ended in await asyncio.gather(*(run_command(*c, environment=self.it.environment) for c in commands)):
            assert ended.exit_code == 0, ended.stderr
            self.answers.append(ended.stdout + ended.stderr)

    async def _home_by_link(self, owner: str, company: int) -> str:
        """A whole flow that began with a link; the claim it brings home."""
        url = (await self._post("/v1/install-links", {"owner": owner})).json()["url"]
        departure = await self.it.browser.get(url)
        asked = {name: values[0] for name, values in parse_qs(urlsplit(departure.headers["location"]).query).items()}
        state = self.note("state", asked["state"])
        granted = await self.it.control("grant", company=company, challenge=asked["code_challenge"])
        code = self.note("code", granted["code"])
        answer = await self.it.browser.get("/aircall/oauth/callback", params={"state": state, "code": code})
        return str(answer.headers["location"].partition(CLAIM)[2])

    async def _post(self, asked: str, body: object) -> httpx.Response:
        return await self.it.browser.post(asked, json=body, headers={"authorization": f"Bearer {self.key}"})

    async def _key(self, scopes: str) -> str:
        arguments = ("keys", "create", "--name", "test", "--scopes", scopes)
        return (await run_command(*arguments, environment=self.it.environment)).stdout.split()[-1]

    async def _get(self, asked: str, key: str) -> httpx.Response:
        return await self.it.browser.get(asked, headers={"authorization": f"Bearer {key}"})


async def dump(it: World) -> str:
    """Every row of every table, as text."""
    tables = [row["tablename"] for row in await it.sql(TABLES)]
    rows = [row[0] for table in tables for row in await it.sql(f"SELECT t::text FROM {table} t")]
    return "\n".join(rows)


@pytest.mark.slow
async def test_no_secret_is_left_anywhere(tmp_path: Path, database_url: str) -> None:
    async with (
        collector() as (collector_url, exported),
        world(tmp_path, database_url, LOG_LEVEL="debug", PKCE="true", RETURN_URLS=HOME, TRACES="true") as it,
    ):
        it.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector_url
        service = await it.start_service("--with-worker")
        await it.control("settings", rate_per_minute=10_000)
        canary = Canary(it)
        await canary.flows()
        await canary.flows_with_aircall_breaking()
        await canary.partners()
        await canary.events()
        await canary.faults_of_our_own()
        await canary.custody()
        kept = {table: len(await it.sql(f"SELECT 1 FROM {table}")) for table in KEEPING}
        back = await canary.consent()
        await it.processes[0].kill()
        await it.browser.get(back)
        service.tell(signal.SIGTERM)
        await service.ended()

        left = {
            "log": service.said(),
            "answers": "\n".join(canary.answers),
            "tables": await dump(it),
            "traces": "\n".join(body.decode("latin-1") for body in exported),
        }

    assert {where: found(canary.secrets, text) for where, text in left.items()} == {where: [] for where in left}
    met = {re.sub(r" \d+$", "", name) for name in canary.secrets}
    assert {
        "code",
        "state",
        "cookie",
        "PKCE verifier",
        "access token",
        "webhook token",
        "API key",
        "claim",
        "link",
    } <= met
    assert all(kept.values()), kept
    assert '"event": "install ended"' in left["log"]
    assert "Traceback" in left["log"]
    assert "Northwind Demo Ltd" in left["tables"]
    assert "GET /aircall/oauth/callback" in left["traces"]
    assert STRANGER not in "".join(left.values())
    assert all(json.loads(line) for line in left["log"].splitlines())
