"""What is answered 200 was waited for: by a disk, and by every standby that the database is configured to wait for."""

import asyncio
from pathlib import Path

import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.postgres import Postgres, find_binaries
from aircall_oauth.settings import Settings
from aircall_oauth.storage import migrations
from tests.support.processes import durable_postgres, eventually
from tests.support.service import Service, run_service, settings_for
from tests.support.standbys import sql, with_standby
from tests.support.tools import miss

DEBIANS = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(params=["newest", "oldest"])
def binaries(request: pytest.FixtureRequest) -> Path:
    """The newest PostgreSQL there is here, and the oldest that is promised."""
    if request.param == "oldest" and not DEBIANS.is_dir():
        miss("Debian's postgresql-15 is not installed")
    return DEBIANS if request.param == "oldest" else find_binaries()


@pytest.mark.slow
async def test_a_repeat_is_not_answered_200_while_the_event_waits_for_the_standby(
    binaries: Path, tmp_path: Path
) -> None:
    async with (
        with_standby(tmp_path, binaries=binaries) as (primary, standby),
        run_service(_settings(primary)) as service,
    ):
        await service.install()
        body = _event(service, 1)

        await asyncio.to_thread(standby.stop)
        away = [(await service.post_event(body)).status_code for _ in range(3)]
        await asyncio.to_thread(standby.restart)
        back = (await service.post_event(body)).status_code
        await asyncio.to_thread(primary.kill)
        await sql(standby, "SELECT pg_promote()")

        assert [503, 503, 503] == away
        assert back == 200
        assert await _events(standby) == 1


@pytest.mark.slow
async def test_a_repeated_disconnect_is_not_answered_while_the_first_waits_for_the_standby(tmp_path: Path) -> None:
    async with (
        with_standby(tmp_path) as (primary, standby),
        run_service(_settings(primary)) as service,
    ):
        installation_id = await service.install()
        partner = await service.partner(Scope.INSTALLATIONS_WRITE)

        await asyncio.to_thread(standby.stop)
        away = [
            (await partner.delete(f"/v1/installations/{installation_id}", timeout=60)).status_code for _ in range(2)
        ]
        await asyncio.to_thread(standby.restart)
        back = (await partner.delete(f"/v1/installations/{installation_id}", timeout=60)).status_code

    assert [503, 503] == away
    assert back == 204


@pytest.mark.slow
async def test_a_commit_that_an_operator_cancelled_is_not_answered_200(tmp_path: Path) -> None:
    async with (
        with_standby(tmp_path) as (primary, standby),
        run_service(_settings(primary)) as service,
    ):
        await service.install()
        await asyncio.to_thread(standby.stop)

        answer = asyncio.create_task(service.post_event(_event(service, 1)))
        waits = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await eventually(lambda: service.sql(waits))

        assert (await answer).status_code == 503
        await asyncio.to_thread(standby.restart)


@pytest.mark.slow
async def test_a_setting_switched_off_while_the_service_runs_takes_no_durability_away(tmp_path: Path) -> None:
    """Everything that is answered; a crash of the server is what shows it."""
    async with durable_postgres(tmp_path / "postgres") as postgres:
        await migrations.migrate(postgres.dsn())
        async with run_service(_settings(postgres)) as service:
            installation_id = await service.install()
            partner = await service.partner()
            first, last = _event(service, 0), [_event(service, number) for number in range(1, 20)]
            assert (await service.post_event(first)).status_code == 200

            # As slow as it goes: ten seconds between what is written and what is on the disk by itself.
            await service.sql("ALTER SYSTEM SET wal_writer_delay = '10s'")
            await service.sql("ALTER SYSTEM SET wal_writer_flush_after = '1GB'")
            await service.sql("ALTER SYSTEM SET synchronous_commit = off")
            await service.sql("SELECT pg_reload_conf()")
            await eventually(lambda: _is_off(service))
            answers = [(await service.post_event(event)).status_code for event in last]
            answers.append((await partner.delete(f"/v1/installations/{installation_id}")).status_code)
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.restart)

            assert [200] * 19 + [204] == answers
            assert await _events(postgres) == 20
            assert await sql(postgres, "SELECT FROM installation WHERE status = 'removed'")


async def _is_off(service: Service) -> bool:
    rows = await service.sql("SELECT current_setting('synchronous_commit') AS value")
    return bool(rows[0]["value"] == "off")


@pytest.mark.slow
async def test_a_stronger_setting_than_on_is_left_as_it_is(tmp_path: Path) -> None:
    """With `remote_apply` a commit waits until the standby shows it: one that replays nothing holds it up."""
    async with (
        with_standby(tmp_path) as (primary, standby),
        run_service(_settings(primary)) as service,
    ):
        await service.install()
        assert (await service.post_event(_event(service, 0))).status_code == 200
        await service.sql("ALTER SYSTEM SET synchronous_commit = remote_apply")
        await service.sql("SELECT pg_reload_conf()")
        await sql(standby, "SELECT pg_wal_replay_pause()")

        assert (await service.post_event(_event(service, 1))).status_code == 503
        await sql(standby, "SELECT pg_wal_replay_resume()")
        assert (await service.post_event(_event(service, 1))).status_code == 200


def _settings(postgres: Postgres) -> Settings:
    return settings_for(postgres.dsn())


def _event(service: Service, number: int) -> bytes:
    return (
        f'{{"resource":"call","event":"call.created","timestamp":{1767261600 + number},'
        f'"token":"{service.webhook_token()}","data":{{"id":{number}}}}}'
    ).encode()


async def _events(postgres: Postgres) -> int:
    rows = await sql(postgres, "SELECT count(*) AS n FROM event WHERE source = 'aircall'")
    count: int = rows[0]["n"]
    return count
