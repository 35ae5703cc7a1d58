"""Two servers in one address: the one that hangs does not keep the other from being asked."""

import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from aircall_oauth.errors import DatabaseAway
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.storage import turns
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.hosts import each_host
from tests.support.processes import eventually
from tests.support.service import Service, run_service, settings_for
from tests.support.standbys import hanging, sql, with_standby

# The promise is ten; a machine that is busy with other things may take as long again.
RECOVERED_SECONDS = 20.0


async def test_a_pool_that_gave_up_on_a_server_that_hangs_asks_the_other_next(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a pooled connection may have less time than each server has to answer."""
    monkeypatch.setattr(turns, "POOL_TIMEOUT_SECONDS", 0.3)
    (folder,) = parse_qs(urlsplit(database_url).query)["host"]
    # It takes connections in and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = f"{silent.getsockname()[1]},5432"
        opened = Database(f"{database_url.partition('?')[0]}?host=127.0.0.1,{folder}&port={ports}")

        with pytest.raises(DatabaseAway):
            async with opened.driver_connection():
                pass
        async with opened.driver_connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        await opened.close()


@pytest.mark.slow
async def test_events_are_taken_in_soon_after_the_standby_of_a_primary_that_hangs_is_promoted(tmp_path: Path) -> None:
    ports = (free_port(), free_port())
    async with with_standby(tmp_path, synchronous=False, ports=ports) as (primary, standby):
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with run_service(settings_for(f"postgresql://postgres@{hosts}/postgres?sslmode=disable")) as service:
            await service.install()
            token = service.webhook_token()
            assert (await service.post_event(_event(token, 1))).status_code == 200

            with hanging(primary, await sql(primary, "SELECT pid FROM pg_stat_activity")):
                assert (await service.post_event(_event(token, 2))).status_code == 503
                await sql(standby, "SELECT pg_promote()")
                await eventually(lambda: _accepted(service, token), RECOVERED_SECONDS)
                await eventually(lambda: _is_ready(service), RECOVERED_SECONDS)

                assert [row["n"] for row in await sql(standby, "SELECT count(*) AS n FROM event_fingerprint")] == [2]


@pytest.mark.parametrize(
    ("address", "each"),
    [
        ("postgresql://u:p@a/db?sslmode=disable", ["postgresql://u:p@a/db?sslmode=disable"]),
        ("postgresql://u:p@a,b:6/db", ["postgresql://u:p@a/db", "postgresql://u:p@b:6/db"]),
        (
            "postgresql://u@/db?host=a,b&port=5,6",
            ["postgresql://u@/db?host=a&port=5", "postgresql://u@/db?host=b&port=6"],
        ),
        ("postgresql://u@/db?host=/run/a", ["postgresql://u@/db?host=/run/a"]),
    ],
)
def test_an_address_is_taken_apart_by_its_hosts(address: str, each: list[str]) -> None:
    assert each == each_host(address)


async def _accepted(service: Service, token: str) -> bool:
    return (await service.post_event(_event(token, 2))).status_code == 200


async def _is_ready(service: Service) -> bool:
    return (await service.browser.get("/readyz")).status_code == 200


def _event(token: str, number: int) -> bytes:
    at = 1767261600 + number
    return f'{{"event":"call.created","timestamp":{at},"token":"{token}","data":{{"id":{number}}}}}'.encode()
