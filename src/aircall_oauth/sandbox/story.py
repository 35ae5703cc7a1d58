"""One install and one phone call through the real service, shown step by step."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.console import sessions
from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.children import DevError
from aircall_oauth.settings import Settings

CALL_SECONDS = 15.0
EVENTS_OF_A_CALL = 5
KEY_NAME = "dev"
SUBSCRIPTION_NAME = "sample receiver"


@dataclass(frozen=True)
class Addresses:
    """The URLs of the three processes."""

    service: str
    aircall: str
    receiver: str


class Story:
    """The demonstration, with a running service, pretend Aircall and sample receiver."""

    def __init__(
        self, addresses: Addresses, environment: Mapping[str, str], colour: bool, key_file: Path | None = None
    ) -> None:
        self._key_file = key_file
        self._service_url = addresses.service
        self._aircall_url = addresses.aircall
        self._receiver_url = addresses.receiver
        self._settings = _settings(environment)
        self._out = Console(force_terminal=colour or None, highlight=False, soft_wrap=True)
        self.api_key = ""

    def tell(self, *, seconds: float) -> None:
        """Go through all steps and print them; raises `DevError` where one fails."""
        self._out.print(f"\n[bold]Everything is up[/] ({seconds:.1f} s). Now one install and one phone call.")
        with httpx.Client(timeout=30.0, trust_env=False) as browser:
            company_id = self._connect(browser)
            installation = self._look_back(browser, company_id)
            self._subscribe(browser)
            self._call(browser, installation)
        self._out.print("\n[bold green]It works.[/]")

    def show_around(self, folder: Path) -> None:
        """Print where to look while everything stays up."""
        console = asyncio.run(self._console_link())
        curl = f'curl -H "Authorization: Bearer {self.api_key}" {self._service_url}'
        self._out.print(
            f"""
[bold]The console[/], already signed in (the link works once, for a minute; later, with the API key below)
  {console}

[bold]Where to look[/]
  {self._aircall_url + "/":<46} the pretend Aircall: place calls, send events, uninstall, break things
  {self._service_url + "/aircall/oauth/install":<46} install once more, as an admin's browser does
  {self._receiver_url + "/":<46} the sample receiver: what was delivered to it
  {self._service_url + "/docs":<46} the API
  {folder / "service.log"}: what the service logs

[bold]Ask as one of the partner's systems[/]
  {curl}/v1/installations
  {curl}/v1/events
  {curl}/v1/subscriptions

[bold]In another terminal[/]
  . {folder / "env"}
  which sets $SERVICE and $API_KEY, and finds the command line: aircall-oauth doctor,
  or aircall-oauth console open, which prints a new link to the console
  Next: an app of your own, in 25 lines: docs/your-app.md

Ctrl-C stops everything. The data stays in {folder} (delete it to start afresh).
"""
        )

    def _connect(self, browser: httpx.Client) -> int:
        """Install into the first of the pretend companies; returns its id."""
        self._heading("An Aircall admin installs the app")
        company_id: int = browser.get(f"{self._aircall_url}/control/state").json()["companies"][0]["id"]
        before = len(self._ledger(browser))
        install = browser.get(f"{self._service_url}/aircall/oauth/install")
        consent_url = _location(install, "the install URL")
        self._line("browser → service", "GET /aircall/oauth/install", "a sealed state, a cookie, and off to Aircall")
        action = re.search(r'<form[^>]+action="([^"]+)"', browser.get(consent_url).text)
        target = httpx.URL(consent_url).join(action[1].replace("&amp;", "&") if action else "")
        authorized = browser.post(target, data={"decision": "authorize", "company": company_id})
        self._line("browser → Aircall", "clicks Authorize", "Aircall sends the browser back with a code")
        ended = browser.get(_location(authorized, "the consent page"))
        self._line("browser → service", "GET /aircall/oauth/callback", "state judged and used up, then:")
        # Meanwhile the worker may look after other companies.
        ours = [asked for asked in self._ledger(browser)[before:] if asked["company_id"] in {company_id, None}]
        for asked in ours:
            self._line("  service → Aircall", f"{asked['method']} {asked['path']}", str(asked["status"]))
        final = _location(ended, "the callback")
        self._line("browser", f"ends on {final}", "")
        return company_id

    def _look_back(self, browser: httpx.Client, company_id: int) -> dict[str, Any]:
        self._heading("What was stored")
        self.api_key = self._kept_key(browser) or asyncio.run(self._new_key())
        browser.headers["authorization"] = f"Bearer {self.api_key}"
        installation = self._installation_of(browser, company_id)
        if installation["webhook"]["status"] != "active":
            raise DevError("the installation has no active webhook; look at the service's log")
        sealed = asyncio.run(self._sealed_token(installation["id"]))
        self._line("installation", installation["id"], f"{installation['company_name']}, {installation['status']}")
        self._line("its token", f"{sealed[:24]}…", "sealed with AES-256-GCM; in clear nowhere")
        self._line("its webhook", installation["webhook"]["webhook_id"], "registered at Aircall, once")
        return installation

    def _installation_of(self, browser: httpx.Client, company_id: int) -> dict[str, Any]:
        url, cursor = f"{self._service_url}/v1/installations", dict[str, str]()
        while True:
            page = browser.get(url, params={"status": "active", **cursor}).json()
            for installation in page["items"]:
                if installation["company_id"] == company_id:
                    found: dict[str, Any] = installation
                    return found
            if page["next"] is None:
                raise DevError("the company that was connected has no installation; look at the service's log")
            cursor = {"cursor": page["next"]}

    def _call(self, browser: httpx.Client, installation: Mapping[str, Any]) -> None:
        self._heading("A phone call comes in")
        after = self._last_position(browser)
        order = {"company": installation["company_id"], "pause": 0.05}
        browser.post(f"{self._aircall_url}/control/place-call", json=order).raise_for_status()
        events = self._wait_for_events(browser, after, installation["id"])
        for event in events:
            self._line("Aircall → service", event["type"], f"kept at position {event['position']}, then answered 200")
        self._line("partner → service", f"GET /v1/events?after={after}", f"{len(events)} events, in order")
        for event in self._wait_for_deliveries(browser, {event["id"] for event in events}):
            self._line("service → receiver", event["type"], "delivered; its signature is genuine")

    def _subscribe(self, browser: httpx.Client) -> None:
        """Create a new subscription each time: its secret is shown only once, and the receiver has forgotten it."""
        self._heading("The partner subscribes its own system")
        url = f"{self._service_url}/v1/subscriptions"
        for known in browser.get(url).json()["items"]:
            if known["name"] == SUBSCRIPTION_NAME:
                browser.delete(f"{url}/{known['id']}").raise_for_status()
        wanted = {"name": SUBSCRIPTION_NAME, "kind": "http", "url": f"{self._receiver_url}/hook", "types": ["call.*"]}
        made = browser.post(url, json=wanted)
        made.raise_for_status()
        browser.put(f"{self._receiver_url}/secret", json={"secret": made.json()["secret"]}).raise_for_status()
        self._line("partner → service", "POST /v1/subscriptions", f"{made.json()['id']}, call.* from now on")
        tried = browser.post(f"{url}/{made.json()['id']}/test").json()
        self._line("service → receiver", "a sample event", f"{tried['outcome']} in {tried['milliseconds']} ms")

    def _wait_for_deliveries(self, browser: httpx.Client, event_ids: set[str]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + CALL_SECONDS
        while time.monotonic() < deadline:
            came = browser.get(f"{self._receiver_url}/events").json()["events"]
            delivered: list[dict[str, Any]] = [event for event in reversed(came) if event["id"] in event_ids]
            if len(delivered) == len(event_ids):
                return delivered
            time.sleep(0.05)
        raise DevError("the call's events were not delivered; look at the service's log")

    def _wait_for_events(self, browser: httpx.Client, after: int, installation_id: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + CALL_SECONDS
        asked = {"after": str(after), "installation": installation_id, "type": "call.*"}
        while time.monotonic() < deadline:
            page = browser.get(f"{self._service_url}/v1/events", params=asked).json()
            if len(page["events"]) >= EVENTS_OF_A_CALL:
                events: list[dict[str, Any]] = page["events"]
                return events
            time.sleep(0.05)
        raise DevError("the call's events did not arrive; look at the service's log")

    def _last_position(self, browser: httpx.Client) -> int:
        after, more = 0, True
        while more:
            page = browser.get(f"{self._service_url}/v1/events", params={"after": after, "limit": 1000}).json()
            after, more = page["next"], page["more"]
        return int(after)

    def _ledger(self, browser: httpx.Client) -> list[dict[str, Any]]:
        answer: Any = browser.get(f"{self._aircall_url}/control/ledger").json()
        rows: list[dict[str, Any]] = answer["requests"] if isinstance(answer, dict) else answer
        return rows

    def _kept_key(self, browser: httpx.Client) -> str | None:
        """Return the API key of the last run, if the service still knows it."""
        if self._key_file is None or not self._key_file.exists():
            return None
        kept = self._key_file.read_text().strip()
        headers = {"authorization": f"Bearer {kept}"}
        known = browser.get(f"{self._service_url}/v1/installations", params={"limit": 1}, headers=headers).is_success
        return kept if known else None

    async def _new_key(self) -> str:
        async with open_resources(self._settings) as resources:
            await keys.revoke(resources, KEY_NAME)
            made = await keys.create(resources, name=KEY_NAME, scopes=list(Scope))
        if self._key_file is not None:
            self._key_file.touch(mode=0o600)
            self._key_file.write_text(made)
        return made

    async def _console_link(self) -> str:
        scopes = [Scope.CONSOLE_READ, Scope.CONSOLE_ACT, Scope.PAYLOADS_READ]
        async with open_resources(self._settings) as resources:
            secret = await sessions.make_link(resources, person="developer", scopes=scopes)
        return f"{self._settings.console_address}/sign-in/link/{secret}"

    async def _sealed_token(self, installation_id: str) -> str:
        async with (
            open_resources(self._settings) as resources,
            resources.database.driver_connection() as connection,
        ):
            query = "SELECT token_sealed FROM installation WHERE id = $1"
            sealed: str = await connection.fetchval(query, installation_id)
            return sealed

    def _heading(self, text: str) -> None:
        self._out.print(f"\n[bold]{text}[/]")

    def _line(self, who: str, what: str, outcome: str) -> None:
        self._out.print(f"  {who:<19} {what:<44} [dim]{outcome}[/]")


def _settings(environment: Mapping[str, str]) -> Settings:
    prefix = "AIRCALL_OAUTH_"
    names = {name: value for name, value in environment.items() if name.startswith(prefix)}
    return Settings.model_validate({name.removeprefix(prefix).lower(): value for name, value in names.items()})


def _location(answer: httpx.Response, what: str) -> str:
    if answer.status_code != 303:
        raise DevError(f"{what} answered {answer.status_code}, not a redirect")
    return str(answer.url.join(answer.headers["location"]))
