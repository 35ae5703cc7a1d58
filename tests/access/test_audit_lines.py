"""The audit as the API and the command line show it: by action, actor, installation, owner and time; as CSV too."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aircall_oauth.access import audit
from aircall_oauth.access.audit import OPERATOR, Action
from aircall_oauth.access.scopes import Scope
from tests.support.service import Service, command_environment, run_command, run_service, settings_for

MANY = """
    INSERT INTO audit (id, at, actor, action)
    SELECT 'aud_' || lpad(to_hex(n), 32, '0'), $1::timestamptz + (n / 3) * interval '1 second', 'operator',
        'all.revoked'
    FROM generate_series(1, $2::int) AS n
"""


async def lines(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def acts(found: list[dict[str, Any]]) -> list[str]:
    return [line["action"] for line in found]


async def owned(service: Service, number: int, owner: str) -> str:
    """An installation that belongs to an owner."""
    installation_id = await service.install(service.aircall.companies[number])
    await service.sql("UPDATE installation SET owner = $2 WHERE id = $1", installation_id, owner)
    return installation_id


async def test_token_reads_and_proxied_calls_are_told_apart(service: Service) -> None:
    ours, partner = await owned(service, 0, "acme"), await service.partner()
    await partner.get(f"/v1/installations/{ours}/token", headers={"x-request-id": "trace-me"})
    await partner.get(f"/v1/installations/{ours}/aircall/calls")
    await partner.post(f"/v1/installations/{ours}/aircall/contacts", json={"first_name": "A"})

    (read,) = await lines(partner, action="token.read")
    proxied = await lines(partner, action="aircall.*")
    both = await lines(partner, action=["token.read", "aircall.write"])

    key_id = (await service.sql("SELECT id FROM api_key"))[0]["id"]
    assert (
        read.items()
        >= {
            "actor": key_id,
            "actor_name": "test",
            "outcome": "done",
            "installation_id": ours,
            "owner": "acme",
            "address": "127.0.0.1",
            "request_id": "trace-me",
        }.items()
    )
    assert acts(proxied) == ["aircall.write", "aircall.read"]
    assert {line["owner"] for line in proxied} == {"acme"}
    assert acts(both) == ["aircall.write", "token.read"]


async def test_each_filter_leaves_the_others_lines_out(service: Service) -> None:
    first, second = await owned(service, 0, "acme"), await owned(service, 1, "globex")
    one, other = await service.partner(), await service.partner()
    await service.sql("UPDATE api_key SET name = 'crm' WHERE id = (SELECT max(id) FROM api_key)")
    await one.get(f"/v1/installations/{first}/token")
    await other.get(f"/v1/installations/{second}/token")
    half = datetime.now(UTC)
    await one.post("/v1/install-links", json={"owner": "acme"})
    async with service.resources.database.session() as session:
        await audit.record(session, OPERATOR, Action.SECRETS_ROTATED)

    by_name = await lines(one, actor="crm")
    newer, older = await lines(one, since=half.isoformat()), await lines(one, until=half.isoformat())

    assert [line["installation_id"] for line in by_name] == [second]
    assert by_name == await lines(one, actor=by_name[0]["actor"]) == await lines(one, installation_id=second)
    assert acts(await lines(one, owner="acme")) == ["install_link.made", "token.read"]
    assert acts(await lines(one, owner="acme", action="token.*")) == ["token.read"]
    assert acts(await lines(one, actor="operator")) == ["secrets.rotated"]
    assert acts(newer) == ["secrets.rotated", "install_link.made"]
    assert acts(older) == ["token.read", "token.read"]
    assert await lines(one, actor="nobody-of-this-name") == []


async def test_pages_skip_no_line_and_repeat_none_though_many_are_of_one_moment(service: Service) -> None:
    partner = await service.partner()
    await service.sql(MANY, datetime(2026, 1, 1, tzinfo=UTC), 100)

    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 7, "actor": "operator"}
    while True:
        page = (await partner.get("/v1/audit", params=query)).json()
        seen += page["items"]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]

    assert [int(line["id"][4:], 16) for line in seen] == list(range(100, 0, -1))
    assert len(page["items"]) == 2


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"action": "token.reed"}, "query.action: there is no such action; did you mean `token.read`?"),
        ({"action": "zzz"}, "query.action: there is no such action; there is token.read, "),
        ({"since": "yesterday"}, "query.since"),
        ({"since": "1767225600"}, "query.since"),
        ({"until": "2026-01-01"}, "query.until"),
        ({"cursor": "aud_1"}, "query.cursor"),
        ({"cursor": "99999999999999999_aud_" + "0" * 32}, "query.cursor"),
        ({"installation": "ins_" + "0" * 32}, "did you mean `installation_id`?"),
        ({"limit": "0"}, "query.limit"),
        ({"format": "xml"}, "query.format"),
        ({"actor": "\0"}, "query.actor"),
    ],
)
async def test_what_no_filter_can_mean_is_refused(shared_service: Service, query: dict[str, str], why: str) -> None:
    answer = await (await shared_service.partner()).get("/v1/audit", params=query)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert why in answer.json()["detail"]


async def test_only_a_key_with_the_scope_reads_it(shared_service: Service) -> None:
    everything_else = await shared_service.partner(*(scope for scope in Scope if scope != Scope.AUDIT_READ))

    refused = await everything_else.get("/v1/audit")
    read = await (await shared_service.partner(Scope.AUDIT_READ)).get("/v1/audit")

    assert (refused.status_code, read.status_code) == (403, 200)
    assert "audit:read" in refused.json()["detail"]


async def test_a_key_bound_to_an_owner_sees_what_concerned_that_owner_and_nothing_of_others(service: Service) -> None:
    ours, theirs = await owned(service, 0, "acme"), await owned(service, 1, "globex")
    bound, unbound = await service.partner(owner="acme"), await service.partner()
    await service.sql("UPDATE api_key SET name = 'internal' WHERE owner IS NULL")
    await bound.get(f"/v1/installations/{ours}/token")
    await unbound.get(f"/v1/installations/{ours}/token")
    await unbound.get(f"/v1/installations/{theirs}/token")
    async with service.resources.database.session() as session:
        await audit.record(session, OPERATOR, Action.SECRETS_ROTATED)

    of_another, own = await lines(bound)

    assert (own["actor_name"], own["address"], own["installation_id"]) == ("test", "127.0.0.1", ours)
    assert (of_another["actor_name"], of_another["address"], of_another["installation_id"]) == (None, None, ours)
    assert await lines(bound, owner="globex") == await lines(bound, installation_id=theirs) == []
    assert await lines(bound, actor="internal") == []
    assert len(await lines(bound, actor=of_another["actor"])) == 1
    assert len(await lines(unbound)) == 4


@pytest.mark.slow
async def test_a_refused_claim_is_told_to_the_owner_it_was_about(database_url: str) -> None:
    async with run_service(settings_for(database_url, RETURN_URLS="https://app.example.com/")) as service:
        claim = await service.install_by_link("globex")
        thief, victim = await service.partner(owner="acme"), await service.partner(owner="globex")

        answer = await service.claim(claim, owner="acme", partner=thief)

        assert answer.status_code in {403, 404}
        assert await lines(thief, action="installation.claimed") == []
        (told,) = await lines(victim, action="installation.claimed")
        assert (told["outcome"], told["owner"], told["address"]) == ("refused", "globex", None)


async def test_csv_is_plain_data_whatever_a_cell_says(service: Service) -> None:
    evil = '=HYPERLINK("http://evil.example/","a")\n,x'
    partner = await service.partner()
    await service.sql("UPDATE api_key SET name = $1", "@SUM(1)")
    for owner in (evil, "-1+1", "plain"):
        assert (await partner.post("/v1/install-links", json={"owner": owner})).status_code == 201

    by_header = await partner.get("/v1/audit", headers={"accept": "text/csv"}, params={"limit": 2})
    by_format = await partner.get("/v1/audit?format=csv")
    json_all_the_same = await partner.get("/v1/audit?format=json", headers={"accept": "text/csv"})

    assert by_header.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(by_format.text)))
    assert [row["owner"] for row in rows] == ["plain", "'-1+1", f"'{evil}"]
    assert {row["actor_name"] for row in rows} == {"'@SUM(1)"}
    assert all(json.loads(row["details"])["link_id"] for row in rows)
    rest = await partner.get(
        f"/v1/audit{by_header.headers['link'].partition('>')[0][1:]}", headers={"accept": "text/csv"}
    )
    assert list(csv.DictReader(io.StringIO(by_header.text + rest.text.partition("\r\n")[2]))) == rows
    assert "link" not in rest.headers
    assert json_all_the_same.json()["items"][0]["owner"] == "plain"


@pytest.mark.slow
async def test_an_operator_filters_it_at_the_command_line(service: Service) -> None:
    ours, partner = await owned(service, 0, "acme"), await service.partner()
    await partner.get(f"/v1/installations/{ours}/token")
    await partner.post("/v1/install-links", json={"owner": "globex"})
    environment = command_environment(service.settings.database_url.get_secret_value())
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%MZ}"

    narrow, as_csv, none, unknown, both = await asyncio.gather(
        run_command(
            *("audit", "--action", "token.*", "--actor", "test", "--owner", "acme", "--installation", ours),
            *("--since", "2026-01-01", "--until", tomorrow, "--json"),
            environment=environment,
        ),
        run_command("audit", "--csv", "--owner", "globex", environment=environment),
        run_command("audit", "--since", tomorrow, environment=environment),
        run_command("audit", "--action", "token.reed", environment=environment),
        run_command("audit", "--csv", "--json", environment=environment),
    )

    (line,) = json.loads(narrow.stdout)
    assert (line["action"], line["actor_name"], line["owner"]) == ("token.read", "test", "acme")
    (row,) = csv.DictReader(io.StringIO(as_csv.stdout))
    assert (row["action"], row["owner"]) == ("install_link.made", "globex")
    assert (none.exit_code, len(none.stdout.splitlines())) == (0, 1)
    assert (unknown.exit_code, "token.read" in unknown.stderr) == (2, True)
    assert both.exit_code == 2


@pytest.mark.slow
async def test_a_key_that_is_made_or_revoked_is_named(service: Service) -> None:
    environment = command_environment(service.settings.database_url.get_secret_value())
    made = await run_command(
        *("keys", "create", "--name", "crm", "--scopes", "audit:read", "--owner", "acme"), environment=environment
    )
    await run_command("keys", "revoke", "crm", environment=environment)

    revoked, created = await lines(await service.partner(), action="api_key.*")

    assert (created["action"], revoked["action"]) == ("api_key.created", "api_key.revoked")
    assert created["owner"] == revoked["owner"] == "acme"
    assert created["details"] == revoked["details"]
    assert (created["details"]["name"], created["details"]["scopes"]) == ("crm", ["audit:read"])
    assert made.stdout.strip() not in json.dumps(created)
