"""New keys for the vault: everything is sealed anew while the service goes on, and nothing is lost on the way."""

import asyncio
import base64
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from aircall_oauth.errors import KeysUnfit, RotationUnderWay
from aircall_oauth.operations import rotation
from aircall_oauth.operations.rotation import Rotation
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.settings import Settings
from aircall_oauth.storage import locks
from aircall_oauth.storage.models.base import Table
from aircall_oauth.storage.sealed import SEALED, SECRET_COLUMN, TOKEN_COLUMN, TOKEN_PURPOSE, Sealed
from aircall_oauth.storage.stamps import new_id, now
from aircall_oauth.storage.vault import SealedAt
from tests.support.processes import eventually
from tests.support.service import (
    SECRET_KEY,
    Service,
    command_environment,
    run_command,
    run_service,
    settings_for,
    start_command,
)

NEW = "k2:" + base64.b64encode(b"n" * 32).decode()
BOTH = f"{NEW},k1:{SECRET_KEY}"
NOTHING_SET = {"PATH": os.environ["PATH"]}
# What each table asks for besides.
OTHERWISE: dict[str, dict[str, Any]] = {
    "claim": {"fingerprint": b"x", "expires_at": now()},
    "data_key": {"installation_id": "ins_0"},
    "farewell": {"begun_at": now(), "due_at": now()},
    "erasure": {"status": "searching", "kind": "phone", "position": 0},
    "subscription": {
        "name": "test",
        "url": "",
        "types": [],
        "owners": [],
        "installations": [],
        "ordering": "none",
        "status": "active",
        "position": 0,
        "created_at": now(),
    },
}
UNDER = "SELECT split_part(token_sealed, '.', 2) AS key, count(*) AS n FROM installation GROUP BY 1 ORDER BY 1"


def silently(_rotation: Rotation) -> None:
    """Report no progress."""


@asynccontextmanager
async def resources_with(database_url: str, secret_keys: str) -> AsyncIterator[Resources]:
    async with open_resources(settings_for(database_url, SECRET_KEYS=secret_keys)) as opened:
        yield opened


async def sql(database_url: str, statement: str, *values: Any) -> list[Any]:
    connection = await asyncpg.connect(database_url)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


async def filled(resources: Resources, count: int) -> list[str]:
    """So many active installations; their ids. The token of each is its id."""
    ids = [new_id("ins") for _ in range(count)]
    vault = resources.vault
    rows = [
        (one, n, vault.seal(one, SealedAt(TOKEN_COLUMN, one)), vault.fingerprint(one, TOKEN_PURPOSE))
        for n, one in enumerate(ids)
    ]
    async with resources.database.driver_connection() as connection:
        await connection.executemany(
            "INSERT INTO installation (id, status, company_id, integration_id, token_sealed, token_fingerprint, "
            "connected_at) VALUES ($1, 'active', $2, $2, $3, $4, now())",
            rows,
        )
    return ids


async def under(database_url: str) -> dict[str, int]:
    """How many tokens are sealed under each key."""
    return {row["key"]: row["n"] for row in await sql(database_url, UNDER)}


@asynccontextmanager
async def held(database_url: str, installation_id: str) -> AsyncIterator[asyncpg.Connection]:
    """Lock this row in another transaction while the block lasts."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM installation WHERE id = $1 FOR UPDATE", installation_id)
            yield connection
    finally:
        await connection.close()


async def somebody_waits(database_url: str) -> bool:
    return bool(
        await sql(
            database_url,
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        )
    )


def test_every_sealed_column_is_in_the_list() -> None:
    """A new one is one more line of `models.SEALED`; without it a rotation would pass it by."""
    columns = {
        (table.name, column.name)
        for table in Table.metadata.sorted_tables
        for column in table.columns
        if column.name.endswith("_sealed")
    }

    assert columns == {(sealed.table, sealed.column) for sealed in SEALED}


async def test_everything_is_sealed_anew_and_the_old_key_can_go(database_url: str) -> None:
    async with resources_with(database_url, f"k1:{SECRET_KEY}") as before:
        ids = await filled(before, 3)
        for sealed in SEALED[1:]:
            await add_beside(database_url, before, sealed, ids[0])
    async with resources_with(database_url, BOTH) as resources:
        done = await rotation.rotate(resources, silently)
        in_use = await rotation.keys_in_use(resources)

    assert (done.total, done.done, done.broken) == (11, 11, set())
    assert in_use == {"k2": 11}
    async with resources_with(database_url, NEW) as after:
        await after.require_ready()
        for sealed in SEALED:
            for row in await sql(
                database_url,
                f"SELECT id, {sealed.column} AS secret FROM {sealed.table} WHERE {sealed.column} IS NOT NULL",
            ):
                opened = after.vault.open(row["secret"], SealedAt(sealed.place, row["id"]))
                assert opened.get_secret_value() in (row["id"], ids[0])
    (line,) = await sql(database_url, "SELECT actor, action, outcome FROM audit")
    assert tuple(line) == ("operator", "secrets.rotated", "done")


async def add_beside(database_url: str, resources: Resources, sealed: Sealed, installation_id: str) -> None:
    """A row of another table that holds a secret in this column."""
    row_id = new_id("row")
    row = {"id": row_id, **OTHERWISE[sealed.table]}
    if sealed.fingerprint:
        row |= {
            "installation_id": installation_id,
            sealed.fingerprint: resources.vault.fingerprint(installation_id, TOKEN_PURPOSE),
        }
    if sealed.table == "subscription":
        signed = sealed.column != "url_sealed"
        row["kind"] = "http" if signed else "nats"
        if signed:  # what is signed has a secret, whether it has an old one or not
            row["secret_sealed"] = resources.vault.seal(installation_id, SealedAt(SECRET_COLUMN, row_id))
    row[sealed.column] = resources.vault.seal(installation_id, SealedAt(sealed.place, row_id))
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await sql(database_url, f"INSERT INTO {sealed.table} ({', '.join(row)}) VALUES ({places})", *row.values())


async def test_a_second_rotation_finds_nothing_to_do(database_url: str) -> None:
    async with resources_with(database_url, f"k1:{SECRET_KEY}") as before:
        await filled(before, 2)
    async with resources_with(database_url, BOTH) as resources:
        await rotation.rotate(resources, silently)

        again = await rotation.rotate(resources, silently)

    assert (again.total, again.done) == (0, 0)
    assert len(await sql(database_url, "SELECT 1 FROM audit")) == 1


@pytest.mark.parametrize("sealed", SEALED[1:], ids=lambda sealed: sealed.place)
async def test_a_key_that_only_one_table_needs_stops_the_start_without_it(database_url: str, sealed: Sealed) -> None:
    async with resources_with(database_url, NEW) as resources:
        (installation_id,) = await filled(resources, 1)
    async with resources_with(database_url, f"k1:{SECRET_KEY},{NEW}") as resources:
        await add_beside(database_url, resources, sealed, installation_id)

    with pytest.raises(KeysUnfit, match="'k1'"):
        async with resources_with(database_url, NEW):
            pass


@pytest.mark.slow
async def test_no_read_fails_and_no_write_is_lost_while_everything_is_sealed_anew(database_url: str) -> None:
    async with resources_with(database_url, f"k1:{SECRET_KEY}") as old_replica:
        ids = await filled(old_replica, 2000)
        async with run_service(
            settings_for(database_url, SECRET_KEYS=BOTH, TOKEN_READS_PER_MINUTE="100000")
        ) as service:
            partner, over, answers = await service.partner(), asyncio.Event(), list[Any]()

            async def read() -> None:
                while not over.is_set():
                    one = ids[len(answers) % len(ids)]
                    answers.append((one, await partner.get(f"/v1/installations/{one}/token")))

            async def write() -> None:
                """An old replica goes on sealing under the old key."""
                for one in ids[::40]:
                    sealed = old_replica.vault.seal(f"new-{one}", SealedAt(TOKEN_COLUMN, one))
                    print_ = old_replica.vault.fingerprint(f"new-{one}", TOKEN_PURPOSE)
                    statement = "UPDATE installation SET token_sealed = $2, token_fingerprint = $3 WHERE id = $1"
                    await sql(database_url, statement, one, sealed, print_)

            readers = asyncio.gather(read(), read())
            writer = asyncio.create_task(write())
            await rotation.rotate(service.resources, silently)
            await writer
            await rotation.rotate(service.resources, silently)
            over.set()
            await readers

            assert await under(database_url) == {"k2": 2000}
            assert len(answers) > 5
            for one, answer in answers:
                assert answer.status_code == 200, answer.text
                assert answer.json()["access_token"] in (one, f"new-{one}")
            for one in ids[::40]:
                assert (await partner.get(f"/v1/installations/{one}/token")).json()["access_token"] == f"new-{one}"


async def test_a_row_written_meanwhile_keeps_what_was_written(database_url: str) -> None:
    async with resources_with(database_url, BOTH) as resources:
        async with resources_with(database_url, f"k1:{SECRET_KEY}") as old_replica:
            (one,) = await filled(old_replica, 1)
            async with held(database_url, one) as writer:
                rotating = asyncio.create_task(rotation.rotate(resources, silently))
                await eventually(lambda: somebody_waits(database_url))
                renewed = old_replica.vault.seal("renewed", SealedAt(TOKEN_COLUMN, one))
                await writer.execute("UPDATE installation SET token_sealed = $1", renewed)
            done = await rotating

        ((kept,),) = await sql(database_url, "SELECT token_sealed FROM installation")
        assert resources.vault.open(kept, SealedAt(TOKEN_COLUMN, one)).get_secret_value() == "renewed"
        assert kept.startswith("v1.k2.")
        assert (done.total, done.done) == (1, 1)


@pytest.mark.slow
async def test_a_rotation_killed_half_way_is_finished_by_the_next_one(database_url: str) -> None:
    """Three batches; it is killed in the second, which PostgreSQL ends by itself."""
    count = 3 * rotation.BATCH
    async with resources_with(database_url, f"k1:{SECRET_KEY}") as before:
        ids = sorted(await filled(before, count))
    environment = command_environment(database_url, SECRET_KEYS=BOTH)

    async with held(database_url, ids[rotation.BATCH]):
        process = await start_command("secrets", "rotate", environment=environment)
        await eventually(lambda: somebody_waits(database_url))
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await eventually(lambda: nobody_rotates(database_url))
    half = await under(database_url)
    ended = await run_command("secrets", "rotate", environment=environment)

    assert half["k1"] >= rotation.BATCH
    assert half["k2"] >= rotation.BATCH
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert ended.stderr.splitlines() == [f"{half['k1']} sealed anew under 'k2'.", "'k1' has nothing left."]
    assert await under(database_url) == {"k2": count}


async def nobody_rotates(database_url: str) -> bool:
    return not await sql(
        database_url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = $1", locks.ROTATION % 2**32
    )


async def test_only_one_rotation_goes_on_at_a_time(database_url: str) -> None:
    async with resources_with(database_url, f"k1:{SECRET_KEY}") as before:
        (one,) = await filled(before, 1)
    async with resources_with(database_url, BOTH) as resources:
        async with held(database_url, one):
            first = asyncio.create_task(rotation.rotate(resources, silently))
            await eventually(lambda: somebody_waits(database_url))
            with pytest.raises(RotationUnderWay):
                await rotation.rotate(resources, silently)
        await first


async def test_what_does_not_open_is_told_and_left_and_the_rest_is_done(database_url: str) -> None:
    async with resources_with(database_url, f"k1:{SECRET_KEY}") as before:
        ids = sorted(await filled(before, 5))
    # The start looks at the newest row of each key; this one is older.
    await sql(database_url, "UPDATE installation SET token_sealed = token_sealed || 'AAAA' WHERE id = $1", ids[1])
    ((broken,),) = await sql(database_url, "SELECT token_sealed FROM installation WHERE id = $1", ids[1])

    ended = await run_command("secrets", "rotate", environment=command_environment(database_url, SECRET_KEYS=BOTH))

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "4 sealed anew under 'k2'.\n'k1' has 1 left.\n" in ended.stderr
    assert f"aircall-oauth: 1 do not open and were left: {TOKEN_COLUMN}/{ids[1]}" in ended.stderr
    assert broken not in ended.stderr
    assert await under(database_url) == {"k1": 1, "k2": 4}


async def test_a_new_key_is_an_entry_that_the_settings_take(database_url: str) -> None:
    made = await asyncio.gather(*(run_command("secrets", "new-key", environment=NOTHING_SET) for _ in range(2)))

    entries = [ended.stdout.splitlines()[-1] for ended in made]
    assert [ended.exit_code for ended in made] == [0, 0]
    assert len(set(entries)) == 2
    settings: Settings = settings_for(database_url, SECRET_KEYS=f"{entries[0]},k1:{SECRET_KEY}")
    assert list(settings.sealing_keys) == [entries[0].partition(":")[0], "k1"]
    assert entries[0].partition(":")[2] not in made[0].stderr


async def test_a_secret_that_does_not_open_is_refused_and_counted(service: Service) -> None:
    first, second = await service.installed(), await service.install(service.aircall.companies[1])
    (one, other) = [
        (await service.sql("SELECT token_sealed FROM installation WHERE id = $1", each))[0][0]
        for each in (first, second)
    ]
    head, _, box = one.rpartition(".")
    flipped = ("B" if box[20] == "A" else "A").join((box[:20], box[21:]))
    damages = [other, f"{head}.{flipped}", one[:-8], one.replace("v1.k1.", "v1.k9."), f"{head}.", ""]
    partner = await service.partner()
    refusals: Counter[str] = Counter()

    for number, damaged in enumerate(damages, start=1):
        await service.sql("UPDATE installation SET token_sealed = $2 WHERE id = $1", first, damaged)
        for door in ("token", "aircall/calls"):
            answer = await partner.get(f"/v1/installations/{first}/{door}")

            assert (answer.status_code, answer.json()["code"][:4]) == (500, "seal"), damaged
            assert one not in answer.text
            refusals[answer.json()["code"]] += 1
        counted = service.resources.metrics.registry.get_sample_value("aircall_oauth_seal_refusals_total")
        assert counted == 2 * number
    assert refusals == {"seal_broken": 10, "seal_key_missing": 2}
    await service.sql("UPDATE installation SET token_sealed = $2 WHERE id = $1", first, one)
    assert (await partner.get(f"/v1/installations/{first}/token")).status_code == 200
