"""The blocks of `docs/backup.md`: a dump, a base backup with its archive, and the drill that restores both."""

import asyncio
import json
import os
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from aircall_oauth.sandbox.postgres import Postgres, find_binaries
from aircall_oauth.storage import migrations
from tests.support.documented import DOCS, blocks, shell
from tests.support.processes import eventually
from tests.support.service import Service, command_environment, run_service, settings_for
from tests.support.standbys import sql

DRILL = DOCS.parent / "deploy/drills/restore"
ARCHIVED = "SELECT last_archived_wal >= '{}' AS is_there FROM pg_stat_archiver"


async def tell(service: Service, number: int) -> None:
    body = {"event": "call.created", "token": service.webhook_token(), "data": {"id": number}}
    assert (await service.post_event(json.dumps(body).encode())).status_code == 200


@pytest.mark.slow
async def test_the_drill_finds_in_a_dump_and_at_a_point_in_time_what_was_there(tmp_path: Path) -> None:
    page = {block.note: block for block in blocks(DOCS / "backup.md")}
    archive = tmp_path / "archive"
    archive.mkdir()
    server = await asyncio.to_thread(Postgres.start, tmp_path / "running", durable=False)
    try:
        configuration = server.cluster / "postgresql.conf"
        configuration.write_text(configuration.read_text() + page["archiving"].text.replace("/archive", str(archive)))
        server.stop()
        await asyncio.to_thread(server.restart)
        await migrations.migrate(server.dsn())
        binaries = str(find_binaries())
        environment = command_environment(server.dsn()) | {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "REPLICATION_URL": f"host={parse_qs(urlsplit(server.dsn()).query)['host'][0]} user=postgres",
        }
        # By the Python that is found, as on the page; it need not have the service.
        replaced = {"deploy/drills/restore": f"{DRILL} --json"}
        async with (
            shell(tmp_path, environment, replaced) as terminal,
            run_service(settings_for(server.dsn())) as service,
        ):
            await service.install()
            await tell(service, 1)
            await terminal.read([page["dump"]])
            await terminal.read([page["base"]])
            await tell(service, 2)
            (now,) = await sql(server, "SELECT clock_timestamp()::text AS until")
            await tell(service, 3)
            (switched,) = await sql(server, "SELECT pg_walfile_name(pg_switch_wal()) AS file")
            await eventually(lambda: _is_archived(server, switched["file"]))
            await terminal.ask(f"export UNTIL='{now['until']}'")

            await terminal.read([page["drill"]], seconds=120)

            dumped, recovered = (json.loads(line) for line in terminal.said.splitlines() if line.startswith("{"))
            other_keys = environment | {"AIRCALL_OAUTH_SECRET_KEYS": "k9:" + "A" * 43 + "="}
            refused = await asyncio.create_subprocess_exec(
                *(sys.executable, str(DRILL), "dump", str(tmp_path / "aircall.dump")),
                env=other_keys,
                stderr=asyncio.subprocess.PIPE,
            )
            _, why = await refused.communicate()
    finally:
        await asyncio.to_thread(server.stop)

    installed = 1
    assert (dumped["events"], recovered["events"]) == (installed + 1, installed + 2)
    assert {one["active_installations"] for one in (dumped, recovered)} == {1}
    assert {one["keys"] for one in (dumped, recovered)} == {"open what is stored"}
    # Whoever has read further is told: the restored log is another one from its end on.
    assert recovered["epoch_began_after"] == recovered["newest_position"] == installed + 2
    assert dumped["epoch_began_after"] == dumped["newest_position"] == installed + 1
    assert refused.returncode == 1
    assert b"k1" in why
    assert b"Traceback" not in why


@pytest.mark.slow
async def test_the_drill_finds_the_tables_in_a_schema_of_its_own(empty_database: str, tmp_path: Path) -> None:
    admin = await asyncpg.connect(empty_database)
    await admin.execute("CREATE SCHEMA telephony")
    await admin.close()
    await migrations.migrate(f"{empty_database}&options=-csearch_path%3Dtelephony")
    dump, binaries = tmp_path / "dump", find_binaries()
    for command in (
        [binaries / "pg_dump", "--format=custom", f"--file={dump}", empty_database],
        [DRILL, "--json", "dump", dump],
    ):
        ended = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=command_environment(empty_database) | {"PATH": "/usr/bin:/bin:" + os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, why = await ended.communicate()
        assert ended.returncode == 0, why

    assert json.loads(said)["schema"] == migrations.newest_schema_version()


async def _is_archived(server: Postgres, file: str) -> bool:
    (row,) = await sql(server, ARCHIVED.format(file))
    return bool(row["is_there"])
