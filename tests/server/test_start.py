"""Starting: never with keys that do not fit what is stored, and never in need of a database that is there already."""

import asyncio
import base64
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from aircall_oauth.errors import KeysUnfit
from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.settings import Settings
from aircall_oauth.storage import migrations
from tests.support.service import (
    FINGERPRINT_KEY,
    SECRET_KEY,
    Service,
    command_environment,
    run_command,
    run_service,
    settings_for,
    tcp_door,
)

OTHER_KEY = base64.b64encode(b"o" * 32).decode()


def changed(service: Service, **changes: str) -> Settings:
    """The settings of the running service, with changes."""
    return settings_for(service.settings.database_url.get_secret_value(), **changes)


async def starts(settings: Settings) -> None:
    async with open_resources(settings) as resources:
        await resources.require_ready()


async def refusal(settings: Settings) -> str:
    with pytest.raises(KeysUnfit) as refused:
        await starts(settings)
    return refused.value.detail


async def readiness(service: Service) -> tuple[int, str]:
    answer = await service.browser.get("/readyz")
    body = answer.json()
    assert answer.status_code == 200 or answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, body.get("code", body["status"])


async def test_a_missing_key_stops_the_start_and_is_named(service: Service) -> None:
    await service.install()

    why = await refusal(changed(service, SECRET_KEYS=f"k2:{OTHER_KEY}"))

    assert "AIRCALL_OAUTH_SECRET_KEYS" in why
    assert "'k1'" in why
    assert OTHER_KEY not in why


@pytest.mark.parametrize("table", ["claim", "farewell"])
async def test_a_token_that_waits_needs_its_key_too(service: Service, table: str) -> None:
    await service.install()
    if table == "claim":
        departure = await service.browser.get(await service.link())
        state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
        await service.return_with(state=state, code=service.aircall.grant())
    else:
        installation_id = await service.install()
        service.aircall.break_next("all", "error_500", times=10)
        await (await service.partner()).delete(f"/v1/installations/{installation_id}")
    await service.sql("UPDATE installation SET status = 'removed', token_sealed = NULL, token_fingerprint = NULL")
    assert len(await service.sql(f"SELECT * FROM {table} WHERE token_sealed IS NOT NULL")) == 1

    assert "'k1'" in await refusal(changed(service, SECRET_KEYS=f"k2:{OTHER_KEY}"))


async def test_a_missing_key_is_found_behind_many_rows_of_another(service: Service) -> None:
    await service.install()
    await service.sql(
        """
        INSERT INTO installation SELECT 'ins_' || n, status, owner, n, n, company_name, number_ids,
            'v1.gone.' || split_part(token_sealed, '.', 3), token_fingerprint, connected_at
        FROM installation, generate_series(1, 3) AS n
        """
    )

    assert "'gone'" in await refusal(changed(service))


async def test_other_bytes_under_the_same_key_id_stop_the_start(service: Service) -> None:
    await service.install()

    why = await refusal(changed(service, SECRET_KEYS=f"k1:{OTHER_KEY}"))

    assert "AIRCALL_OAUTH_SECRET_KEYS cannot open what is stored" in why
    assert "'k1'" in why
    assert "another key" in why
    assert OTHER_KEY not in why


async def test_another_fingerprint_key_stops_the_start(service: Service) -> None:
    await service.install()

    why = await refusal(changed(service, FINGERPRINT_KEY=OTHER_KEY))

    assert "AIRCALL_OAUTH_FINGERPRINT_KEY" in why


async def test_a_new_first_key_beside_the_old_one_starts(service: Service) -> None:
    await service.install()

    await starts(changed(service, SECRET_KEYS=f"k2:{OTHER_KEY},k1:{SECRET_KEY}"))


async def test_a_removed_installation_needs_no_key(service: Service) -> None:
    await service.install()
    await service.sql("UPDATE installation SET status = 'removed', token_sealed = NULL, token_fingerprint = NULL")

    await starts(changed(service, SECRET_KEYS=f"k2:{OTHER_KEY}"))


async def test_a_process_with_the_wrong_keys_ends_with_one_line(service: Service) -> None:
    await service.install()
    environment = command_environment(service.settings.database_url.get_secret_value(), SECRET_KEYS=f"k2:{OTHER_KEY}")
    commands = [("serve", "--port", str(free_port())), ("work",)]

    all_ended = await asyncio.gather(*(run_command(*command, environment=environment) for command in commands))

    for ended in all_ended:
        assert (ended.exit_code, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert line.startswith("aircall-oauth: AIRCALL_OAUTH_SECRET_KEYS cannot open what is stored.")
        assert "'k1'" in line


async def test_the_service_starts_without_a_database_and_is_ready_once_it_is_there(database_url: str) -> None:
    port = free_port()
    url = f"postgresql://postgres@127.0.0.1:{port}/test?sslmode=disable"
    async with run_service(settings_for(url)) as service:
        assert await readiness(service) == (503, "database_away")
        assert (await service.browser.get("/livez")).status_code == 200

        async with tcp_door(database_url, port):
            assert await readiness(service) == (200, "ok")
            await service.install()

        assert await readiness(service) == (503, "database_away")
        assert (await service.browser.get("/livez")).status_code == 200
        async with tcp_door(database_url, port):
            assert await readiness(service) == (200, "ok")


async def test_a_database_that_does_not_exist_yet_is_waited_for(empty_database: str) -> None:
    elsewhere = empty_database.replace("/empty?", f"/{quote('not yet')}?")
    async with run_service(settings_for(elsewhere)) as service:
        assert await readiness(service) == (503, "database_away")


async def test_keys_that_turn_out_wrong_later_keep_the_service_from_being_ready(service: Service) -> None:
    await service.install()
    stored = service.settings.database_url.get_secret_value()
    port = free_port()
    url = f"postgresql://postgres@127.0.0.1:{port}/test?sslmode=disable"
    async with run_service(settings_for(url, SECRET_KEYS=f"k2:{OTHER_KEY}")) as unfit, tcp_door(stored, port):
        answer = await unfit.browser.get("/readyz")

        assert (answer.status_code, answer.json()["code"]) == (503, "keys_unfit")
        assert "'k1'" in answer.json()["detail"]
        assert FINGERPRINT_KEY not in answer.text


async def test_the_service_is_not_ready_before_the_schema_is(empty_database: str) -> None:
    async with run_service(settings_for(empty_database)) as service:
        assert await readiness(service) == (503, "not_ready")

        await migrations.migrate(empty_database)

        assert await readiness(service) == (200, "ok")


async def test_the_service_is_not_ready_while_the_schema_is_behind(database_url: str) -> None:
    async with run_service(settings_for(database_url)) as before:
        await before.sql("UPDATE alembic_version SET version_num = '0000'")

    async with run_service(settings_for(database_url)) as service:
        answer = await service.browser.get("/readyz")

        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "0000" in answer.json()["detail"]
        assert migrations.newest_schema_version() in answer.json()["detail"]
        assert answer.headers["retry-after"].isdecimal()


async def test_a_schema_ahead_of_the_service_is_ready(database_url: str) -> None:
    async with run_service(settings_for(database_url)) as before:
        await before.sql("UPDATE alembic_version SET version_num = '9999'")

    async with run_service(settings_for(database_url)) as service:
        assert await readiness(service) == (200, "ok")
        await service.install()
