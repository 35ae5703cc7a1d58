"""What a process opens at start and closes at stop. Web, worker, command line and tests all open it here."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import groupby
from operator import itemgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from aircall_oauth.errors import AppError, DatabaseAway, KeysUnfit, NotReady, SealError, SealKeyMissing
from aircall_oauth.imports import hidden
from aircall_oauth.settings import KEY_SERVICE_SETTINGS, Settings
from aircall_oauth.storage import base64url, partitions
from aircall_oauth.storage.away import reason
from aircall_oauth.storage.commits import Commits
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.fitness import require_fit
from aircall_oauth.storage.hosts import Route
from aircall_oauth.storage.lookups import Lookups
from aircall_oauth.storage.migrations import newest_schema_version
from aircall_oauth.storage.redaction import Redaction
from aircall_oauth.storage.sealed import REDACTION_PURPOSE, SEALED, Sealed
from aircall_oauth.storage.secret_files import environment_name
from aircall_oauth.storage.vault import SealedAt, Vault
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import httpx

    from aircall_oauth.aircall.client import Aircall
    from aircall_oauth.aircall.clients import Clients
    from aircall_oauth.aircall.relay import Relay
    from aircall_oauth.telemetry.tracing import Tracing

logger = log.get(__name__)

ROWS_PER_KEY = 5
HASH_BYTES = 16
# The secrets that may change while the process runs; the database's URL is read for each new connection besides.
TAKEN_WHILE_RUNNING = (
    *("client_secret", "console_proxy_secret", "database_direct_url", "database_url", "secret_keys"),
    *KEY_SERVICE_SETTINGS,
)
# How long the process waits, before it closes anything, for work that requests have left running.
LAST_SECONDS = 10.0

Result = TypeVar("Result")


def _some_rows_per_key(sealed: Sealed) -> str:
    """Return the statement for the newest rows of a column under each of its keys, ordered by key."""
    return f"""
        SELECT key_id, id, secret, fingerprint FROM (
            SELECT id, {sealed.column} AS secret, {sealed.fingerprint or "NULL::bytea"} AS fingerprint,
                split_part({sealed.column}, '.', 2) AS key_id,
                row_number() OVER (PARTITION BY split_part({sealed.column}, '.', 2) ORDER BY id DESC) AS nth
            FROM {sealed.table} WHERE {sealed.column} IS NOT NULL
        ) AS numbered WHERE nth <= {ROWS_PER_KEY} ORDER BY key_id, nth
    """  # noqa: S608 - only names of ours are put in


@dataclass
class Resources:
    """What a process works with: settings, database, vault, clients, metrics."""

    settings: Settings
    database: Database
    # A pool of its own, so that requests waiting for a statement don't keep API keys from being recognised.
    recognition: Database
    vault: Vault
    metrics: Metrics
    tracing: "Tracing | None"
    redaction: Redaction | None  # None where the settings name no field
    data_keys: DataKeys
    _aircall_transport: "httpx.AsyncBaseTransport | None"  # None for the network
    recognised: Lookups = field(init=False)
    commits: Commits = field(default_factory=Commits, init=False)
    waits_for: str | None = field(default=None, init=False)  # why it was not ready when it was opened
    # When a chore last ended, by the monotonic clock; None in a process without a worker.
    chore_ended_at: float | None = field(default=None, init=False)
    keeps_figures: bool = field(default=False, init=False)  # what is counted is being written down once a minute
    # Days of the log that `privacy/expiring` is through with, and for which state of affairs.
    days_gone_through: dict[str, Any] = field(default_factory=dict, init=False)
    leaving: bool = field(default=False, init=False)  # told to stop, and still serving
    _checked: bool = field(default=False, init=False)
    _clients: "Clients | None" = field(default=None, init=False)
    _under_way: set[asyncio.Task[Any]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.recognised = Lookups(self.recognition)

    @property
    def aircall(self) -> "Aircall":
        """The client for the service's own requests."""
        return self.open_clients().own

    @property
    def relay(self) -> "Relay":
        """The client for the requests of its callers."""
        return self.open_clients().relay

    def open_clients(self) -> "Clients":
        """Open the clients for Aircall, unless they are: most commands need none, and they take long to import."""
        if self._clients is None:
            self._clients = import_clients().open_clients(
                api_url=self.settings.api_url,
                client_id=self.settings.client_id,
                client_secrets=self.settings.client_secrets,
                redirect_uri=self.settings.redirect_uri,
                proxy=self.settings.aircall_proxy.get_secret_value(),
                transport=self._aircall_transport,
                watched=self.tracing.watched if self.tracing else None,
            )
        return self._clients

    async def close_clients(self) -> None:
        """Close what `open_clients` has opened."""
        if self._clients is not None:
            await self._clients.close()

    @property
    def ready(self) -> bool:
        """Whether the schema and the keys have passed their check."""
        return self._checked

    async def require_ready(self) -> None:
        """Require a current schema, and keys that open what is stored; checked until it has passed once.

        Raises `DatabaseAway`, `DatabaseUnfit`, `NotReady` (the schema is behind), `KeysUnfit` or `PoolerRefused`.
        """
        if not self._checked:
            await self.database.require_own_sessions()
            async with self.database.driver_connection() as connection:
                await require_fit(connection)
            await self._check_schema()
            await self._check_keys(self.settings)
            async with self.database.driver_connection() as connection:
                await partitions.ensure(connection)
            self._checked = True

    def go_on(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start work that may outlive its request; the process waits for it before it closes anything."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._log_end)
        return task

    def _log_end(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, AppError):
            logger.info("went on in vain", reason=failure.code())
        elif failure is not None:
            logger.error("what went on failed", exc_info=failure)

    async def finish(self) -> None:
        """Wait for work that requests have left running, and cancel it after `LAST_SECONDS`."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=LAST_SECONDS)
        left = list(self._under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _check_schema(self) -> None:
        version, wanted = await self.database.schema_version(), newest_schema_version()
        # A newer schema is fine: every migration works with the version still running.
        if version is None or version < wanted:
            raise NotReady(f"The database's schema is at {version or 'nothing'}, this version needs {wanted}.")

    async def take_secrets(self, fresh: Settings) -> list[str]:
        """Use the secrets of fresh settings, those of `TAKEN_WHILE_RUNNING`, from now on; returns which have changed.

        The key of fingerprints is among them where only its entry has changed: wrapped anew, or not wrapped any more.
        Raises `KeysUnfit` if they do not open what is stored, or `DatabaseAway` or `KeyServiceFailed` where that can't
        be told; all stay as they were then.
        """
        changed = [name for name in TAKEN_WHILE_RUNNING if getattr(fresh, name) != getattr(self.settings, name)]
        settings = await self.settings.with_new(fresh, changed).with_unwrapped_keys(self.settings)
        if fresh.fingerprint_key != settings.fingerprint_key:
            wrapped_anew = await settings.with_new(fresh, ["fingerprint_key"]).with_unwrapped_keys(settings)
            if wrapped_anew.fingerprint_keys == settings.fingerprint_keys:
                changed, settings = [*changed, "fingerprint_key"], wrapped_anew
        if "secret_keys" in changed:
            await self._check_keys(settings)
            self.vault.take_keys(settings.sealing_keys)
        if "client_secret" in changed and self._clients:
            self._clients.own.take_secrets(settings.client_secrets)
        self.settings = settings
        return changed

    async def _check_keys(self, settings: Settings) -> None:
        # What does not open here stops the start; it is no alarm and not counted.
        vault = vault_of(settings)
        async with self.database.driver_connection() as connection:
            for sealed in SEALED:
                rows = await connection.fetch(_some_rows_per_key(sealed))
                for key_id, of_one_key in groupby(rows, key=itemgetter("key_id")):
                    _check_key(vault, sealed, key_id, of_one_key)


def _check_key(vault: Vault, sealed: Sealed, key_id: str, rows: Iterable[asyncpg.Record]) -> None:
    """Require that a key opens one of its rows; raises `KeysUnfit`. A damaged row alone does not stop the service."""
    for row in rows:
        try:
            opened = vault.open(row["secret"], SealedAt(sealed.place, row["id"]))
        except SealError as error:
            refusal = error
            continue
        known = (vault.fingerprint(opened, sealed.purpose), *vault.older_fingerprints(opened, sealed.purpose))
        if row["fingerprint"] is not None and row["fingerprint"] not in known:
            raise KeysUnfit("AIRCALL_OAUTH_FINGERPRINT_KEY is not the key that the database was filled with.")
        return
    if isinstance(refusal, SealKeyMissing):
        raise KeysUnfit(f"AIRCALL_OAUTH_SECRET_KEYS cannot open what is stored. {refusal.detail}")
    raise KeysUnfit(
        f"AIRCALL_OAUTH_SECRET_KEYS cannot open what is stored under the key with the id {key_id[:32]!r}: "
        f"it was sealed with another key than the configured one of that id, or is damaged in {sealed.place}."
    )


def import_clients() -> ModuleType:
    """Import the clients for Aircall, which takes a third of a second."""
    # httpx would import them for a command line of its own.
    with hidden("pygments", "rich"):
        return import_module("aircall_oauth.aircall.clients")


@asynccontextmanager
async def open_resources(
    settings: Settings, *, aircall_transport: "httpx.AsyncBaseTransport | None" = None, span_exporter: Any = None
) -> AsyncIterator[Resources]:
    """Open what a process works with; raises `KeyServiceFailed`, `DatabaseUnfit`, `KeysUnfit` or `PoolerRefused`.

    A database that can't be reached, or is not migrated yet, does not stop the process: it becomes ready later.
    """
    settings = await settings.with_unwrapped_keys()
    tracing = _tracing(span_exporter) if settings.traces else None
    database, recognition = (database_of(settings) for _ in range(2))
    metrics = Metrics()
    vault = vault_of(settings, on_refusal=partial(_alarm, metrics))
    redaction, data_keys = _redaction(settings, vault), DataKeys(vault, encrypts=settings.encrypt_events)
    resources = Resources(
        settings, database, recognition, vault, metrics, tracing, redaction, data_keys, aircall_transport
    )
    try:
        try:
            await resources.require_ready()
        except (DatabaseAway, NotReady) as error:
            resources.waits_for = reason(error)
        yield resources
    finally:
        await resources.finish()
        await resources.close_clients()
        await recognition.close()
        await database.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _tracing(span_exporter: Any) -> "Tracing":
    from aircall_oauth.telemetry.tracing import open_tracing

    return open_tracing(span_exporter)


def _redaction(settings: Settings, vault: Vault) -> Redaction | None:
    """Return what redacts events by the settings; its hashes are keyed, so a number can't be guessed from its hash."""

    def hashed(text: str) -> str:
        return base64url.encode(vault.fingerprint(text, REDACTION_PURPOSE)[:HASH_BYTES])

    return Redaction(settings.redact, hashed) if settings.redact else None


def database_of(settings: Settings) -> Database:
    """A database at the addresses of the settings; a URL in a file is read again for each new connection."""
    pooled, direct = (
        Route(url, partial(settings.url_in_file, name), setting=environment_name(name))
        if (url := getattr(settings, name).get_secret_value())
        else None
        for name in ("database_url", "database_direct_url")
    )
    assert pooled is not None, "a required setting"
    return Database(pooled, direct=direct)


def vault_of(settings: Settings, *, on_refusal: Callable[[SealError, SealedAt], None] | None = None) -> Vault:
    """A vault with the keys of the settings."""
    first, *older = settings.fingerprint_keys
    return Vault(settings.sealing_keys, first, older_fingerprint_keys=older, on_refusal=on_refusal)


def _alarm(metrics: Metrics, error: SealError, place: SealedAt) -> None:
    """Log and count a secret that does not open: it was damaged or tampered with, or its key is gone."""
    metrics.seal_refused()
    logger.error("a sealed secret does not open", alarm=True, reason=error.code(), place=str(place))
