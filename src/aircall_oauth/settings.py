"""The settings: environment variables and mounted files, checked at start.

Every problem is reported at once, with the setting's name but without its value, which may be a secret.
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from aircall_oauth.errors import SettingsInvalid
from aircall_oauth.storage import database_url, keeping, redaction, secret_files
from aircall_oauth.storage.keeping import KeepRule
from aircall_oauth.storage.redaction import Redact
from aircall_oauth.storage.secret_files import FILE_SUFFIX, PREFIX, SECRETS_DIR, InFiles, environment_name
from aircall_oauth.wrapping import keys as wrapped_keys
from aircall_oauth.wrapping.access import Access
from aircall_oauth.wrapping.entries import Entry, Service, Wrapped, read_list

NEWER_AUTHORIZE_URL = "https://dashboard.aircall.io/oauth/authorize"
MAX_PAGE_CHARACTERS = 100_000
# An entry of `return_urls` that allows every port and path of this machine, for developers.
ANY_LOCAL = "http://localhost:*"
IS_LOCAL = re.compile(r"http://localhost(:[0-9]{1,5})?([/?][!-~]*)?")
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
# One host of a database URL, with or without a port: a name, an IPv4 address, an IPv6 address in brackets, or a Unix
# socket's folder as %2Fvar%2Frun.
HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@\s]+)(:[0-9]{1,5})?")
# The settings that hold keys, and whether their entries have ids.
KEY_LISTS = {"secret_keys": True, "fingerprint_key": False}
KEY_SERVICE_SETTINGS = (
    "vault_addr",
    "vault_role",
    "vault_token",
    "vault_namespace",
    "vault_cacert",
    "vault_auth_mount",
    "vault_jwt_file",
    "key_service_timeout",
)
# What pydantic's own checks of the settings find, by its names for it.
FAULTS = {
    "bool_parsing": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "string_too_short": "must not be empty",  # no setting has another least length than 1
    "too_short": "must not be empty",
    "string_too_long": "must have {max_length} characters at most",
}
DURATION_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _split_commas(value: Any) -> Any:
    """Split a text at its commas, without empty parts and white space; leave any other value as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _web_url(value: str) -> str:
    """Require an `https` URL, or an `http` URL of this machine, so that no token crosses a network unencrypted."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not an address") from None
    if parts.scheme not in {"http", "https"} or not host or any(c.isspace() for c in value):
        raise ValueError("must be an https:// address")
    if "@" in parts.netloc or "#" in value:
        raise ValueError("must not carry a user name, a password or a #fragment")
    if parts.scheme == "http" and host not in LOCAL_HOSTS:
        raise ValueError("must be https:// (http:// is for localhost only)")
    return value


def _return_url(value: str) -> str:
    return value if value == ANY_LOCAL else _web_url(value)


def _base_url(value: str) -> str:
    """Require a web URL without a query, to which paths can be added; returns it without a slash at its end."""
    if "?" in _web_url(value):
        raise ValueError("must not carry a ?query")
    return value.rstrip("/")


def read_database_url(value: SecretStr) -> SecretStr:
    """Return a database URL as `postgresql://…`; raises `ValueError`, also for a parameter that is not supported."""
    scheme, separator, rest = value.get_secret_value().partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ValueError("must begin with postgresql://, postgres:// or postgresql+asyncpg://")
    credentials_and_hosts = re.split(r"[/?#]", rest, maxsplit=1)[0]
    hosts = credentials_and_hosts.rpartition("@")[2]
    # A password with an unescaped `/` or `?` seems to end the host there. Its sign is an @ further on.
    cut_short = hosts and "@" not in credentials_and_hosts and "@" in rest
    unescaped = "#" in rest or credentials_and_hosts.count("@") > 1 or "[" in credentials_and_hosts.removesuffix(hosts)
    if unescaped or cut_short:
        raise ValueError("is not an address; a password's @ / # ? [ are written as %40 %2F %23 %3F %5B")
    if hosts and not all(HOST_AND_PORT.fullmatch(host) for host in hosts.split(",")):
        raise ValueError("is not an address: host:port, or several of them separated by commas")
    database_url.read(f"postgresql://{rest}")
    return SecretStr(f"postgresql://{rest}")


def _require_keys(value: SecretStr) -> SecretStr:
    """Require one key, or several different ones, separated by commas."""
    read_list(value.get_secret_value(), with_ids=False)
    return value


def _require_secret_keys(value: SecretStr) -> SecretStr:
    """Require `id:key` entries, separated by commas, each with an id of its own."""
    read_list(value.get_secret_value(), with_ids=True)
    return value


def parse_duration(text: str) -> timedelta:
    """Parse `30d`, `12h`, `45m` or `90s`; raises `ValueError` for anything else."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text.strip())
    if not match:
        raise ValueError("must look like 30d, 12h, 45m or 90s")
    return timedelta(**{DURATION_UNITS[match[2]]: int(match[1])})


def _parse_drain(value: Any) -> Any:
    """Parse a duration, or `0s`; leave a value that is not a text as it is."""
    return timedelta(0) if value == "0s" else parse_duration(value) if isinstance(value, str) else value


def _require_thirty_days(length: timedelta) -> timedelta:
    if length < timedelta(days=30):
        raise ValueError("must be 30d or more")
    return length


def _proxy(value: SecretStr) -> SecretStr:
    """Require `http://host:port`, with or without a user name and password."""
    try:
        parts = urlsplit(value.get_secret_value())
        fits = parts.scheme == "http" and parts.hostname and parts.port and parts.path in {"", "/"}
    except ValueError:
        fits = False
    if value.get_secret_value() and not fits:
        raise ValueError("must look like http://host:port or http://user:password@host:port")
    return value


def _logo_url(value: str) -> str:
    """Require a web address whose origin can stand in a Content-Security-Policy."""
    origin = urlsplit(_web_url(value)).netloc
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", origin) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError("must be an https:// address of a name in plain ASCII")
    return value


def _support(value: str) -> str:
    """Require an e-mail address or a web address."""
    if re.fullmatch(r"[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+", value):
        return value
    try:
        return _web_url(value)
    except ValueError:
        raise ValueError("must be an e-mail address or an https:// address") from None


def _shown_name(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable characters only")
    return value


def _readable_file(value: str) -> str:
    text = secret_files.text_of(Path(value))
    if text is None or len(text) > MAX_PAGE_CHARACTERS:
        raise ValueError(f"must name a readable text file of {MAX_PAGE_CHARACTERS} characters at most")
    return value


def _reaches_vault(value: str, info: ValidationInfo) -> str:
    """Require Vault's address where one of the keys is wrapped by it."""
    for setting, with_ids in KEY_LISTS.items():
        text = info.data[setting].get_secret_value() if setting in info.data else None
        for entry in read_list(text, with_ids=with_ids) if text and not value else []:
            if isinstance(entry.key, Wrapped) and entry.key.by.service is Service.VAULT:
                raise ValueError(f"is missing: a key of {environment_name(setting)} is wrapped by Vault")
    return value and _base_url(value)


def _logs_in_to_vault(value: SecretStr, info: ValidationInfo) -> SecretStr:
    """Require one way to log in to Vault, where it has an address."""
    token = value.get_secret_value()
    if token and info.data.get("vault_role"):
        raise ValueError("and AIRCALL_OAUTH_VAULT_ROLE are both set: keep one of them")
    if info.data.get("vault_addr") and not token and not info.data.get("vault_role", True):
        raise ValueError("is missing: set it, or AIRCALL_OAUTH_VAULT_ROLE to log in with the pod's own token")
    if not re.fullmatch(r"[!-~]*", token):
        raise ValueError("must be printable ASCII without spaces")
    return value


def _like(pattern: str, must: str) -> AfterValidator:
    """Require a text that matches a pattern as a whole, and say what it must be where it does not."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must {must}")
        return value

    return AfterValidator(check)


VaultName = Annotated[str, _like(r"[!-~]{0,255}", "be 255 characters at most, of printable ASCII without spaces")]


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _authorities(value: str) -> str:
    """Require a file of certificates that can be read."""
    try:
        ssl.create_default_context(cafile=value)
    except (OSError, ValueError):
        raise ValueError("must name a readable file of certificates (PEM)") from None
    return value


def _ip_network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("must be networks like 10.0.0.0/8, separated by commas") from None


def _address(value: str) -> str:
    try:
        return value if value == "*" else str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be an IP address of this machine, or *") from None


def _event_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9_.]{1,100}", value):
        raise ValueError("must be event names like call.ended, separated by commas")
    return value


WebUrl = Annotated[str, AfterValidator(_web_url)]
ReturnUrl = Annotated[str, AfterValidator(_return_url)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
LogoUrl = Annotated[str, Field(max_length=2048), AfterValidator(lambda value: value and _logo_url(value))]
Support = Annotated[str, Field(max_length=255), AfterValidator(lambda value: value and _support(value))]
ShownName = Annotated[str, Field(max_length=60), AfterValidator(_shown_name)]
OptionalFile = Annotated[str, AfterValidator(lambda value: value and _readable_file(value))]
OptionalWebUrl = Annotated[str, AfterValidator(lambda value: value and _web_url(value))]
Proxy = Annotated[SecretStr, AfterValidator(_proxy)]
OptionalBaseUrl = Annotated[str, AfterValidator(lambda value: value and _base_url(value))]
PersonName = Annotated[str, Field(min_length=1, max_length=255)]
ConsoleScope = Literal["console:read", "console:act", "payloads:read"]
OptionalAuthorities = Annotated[str, AfterValidator(lambda value: value and _authorities(value))]
Duration = Annotated[
    timedelta, BeforeValidator(lambda value: parse_duration(value) if isinstance(value, str) else value)
]
OptionalDuration = Annotated[
    timedelta | None,
    BeforeValidator(lambda value: (parse_duration(value) if value else None) if isinstance(value, str) else value),
]
NonEmptySecret = Annotated[SecretStr, Field(min_length=1)]


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


class _Read(BaseSettings):
    """What is read from arguments and the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", hide_input_in_errors=True, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _without_white_space_around(cls, value: Any) -> Any:
        """Remove white space around every value, such as the newline at the end of a mounted file."""
        return value.strip() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from arguments, then from the environment; never from a `.env` file that happens to be there."""
        return (named["init_settings"], named["env_settings"])


class Settings(_Read):
    """The service's settings.

    `python -m aircall_oauth.cli.reference --write` writes these fields to `docs/operations.md` and `.env.example`.
    """

    # The files that settings were read from, by setting: they may change while the process runs.
    _files: dict[str, Path] = PrivateAttr(default_factory=dict)
    # The keys that were wrapped, by the text of their entries.
    _unwrapped: dict[str, bytes] = PrivateAttr(default_factory=dict)

    client_id: str = Field(min_length=1, description="OAuth client id, from Aircall")
    client_secret: NonEmptySecret = Field(
        description="OAuth client secret, from Aircall; two of them, separated by white space, while "
        "[it changes](#changing-a-secret-without-a-restart)"
    )
    public_url: BaseUrl = Field(
        description="our address as browsers and Aircall see it (`<it>`); the redirect URI is "
        "`<it>/aircall/oauth/callback`, the webhook URL `<it>/aircall/webhook`"
    )
    database_url: Annotated[SecretStr, AfterValidator(read_database_url)] = Field(
        description="PostgreSQL 15 or newer: a libpq URL, with the parameters that "
        "[the database's address](#the-databases-address) lists"
    )
    database_direct_url: Annotated[
        SecretStr, AfterValidator(lambda value: read_database_url(value) if value.get_secret_value() else value)
    ] = Field(
        SecretStr(""),
        description="the same database past a pooler: where `…_DATABASE_URL` leads through [a pooler in transaction "
        "mode](#a-pooler-in-between), for what needs a session of its own; empty = `…_DATABASE_URL` for all",
    )
    secret_keys: Annotated[SecretStr, AfterValidator(_require_secret_keys)] = Field(
        description="`id:base64(32 bytes)[,id:…]`: the first key seals new secrets, the others only open those that "
        "they sealed before; each may be [wrapped](keys.md)"
    )
    fingerprint_key: Annotated[SecretStr, AfterValidator(_require_keys)] = Field(
        description="`base64(32 bytes)[,base64…]`: the key of the fingerprints that recognise API keys and webhook "
        "tokens; while it is changed, the new one first, and the old one for what has not got a new fingerprint yet"
    )
    vault_addr: Annotated[str, AfterValidator(_reaches_vault)] = Field(
        "",
        validate_default=True,
        description="Vault's or OpenBao's address, where [it has wrapped a key](keys.md); empty = it has not. AWS KMS "
        "has no setting here: its library finds `AWS_REGION` and credentials as everywhere",
    )
    vault_role: VaultName = Field(
        "", description="the role by which to log in there with the pod's own token; empty = by `…_VAULT_TOKEN`"
    )
    vault_token: Annotated[SecretStr, AfterValidator(_logs_in_to_vault)] = Field(
        SecretStr(""),
        validate_default=True,
        description="a token of Vault's that may decrypt with the keys' Transit key; not with `…_VAULT_ROLE`",
    )
    vault_namespace: VaultName = Field("", description="the namespace there; empty = none")
    vault_cacert: OptionalAuthorities = Field(
        "", description="a file with the authorities of its certificate, besides the machine's own; empty = those alone"
    )
    vault_auth_mount: Annotated[
        str,
        _like(r"[\w.-]+(/[\w.-]+)*", "be a path without a slash at its ends, like kubernetes or clusters/kubernetes"),
    ] = Field("kubernetes", description="where the auth method of `…_VAULT_ROLE`, Kubernetes or JWT, is mounted")
    vault_jwt_file: Annotated[Path, AfterValidator(_absolute)] = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount/token"), description="the file of the pod's own token"
    )
    key_service_timeout: Duration = Field(
        timedelta(seconds=10),
        le=timedelta(minutes=5),
        description="how long a start goes on asking the service that has wrapped a key",
    )
    authorize_url: WebUrl = Field(
        "https://dashboard-v2.aircall.io/oauth/authorize",
        description="Aircall's consent page, at the address that Aircall's tutorial names; the newer one is "
        f"`{NEWER_AUTHORIZE_URL}`",
    )
    api_url: BaseUrl = Field("https://api.aircall.io/v1", description="Aircall's Public API")
    aircall_proxy: Proxy = Field(
        SecretStr(""),
        description="`http://[user:password@]host:port`: the proxy for all requests to Aircall, by `CONNECT`; empty = "
        "none. `HTTPS_PROXY` and similar variables are ignored",
    )
    success_url: OptionalWebUrl = Field(
        "https://dashboard-v2.aircall.io/oauth/success",
        description="where the browser is sent after a flow without a `return_to`; empty = to our own page. The newer "
        "address is `https://dashboard.aircall.io/oauth/success`",
    )
    return_urls: Annotated[list[ReturnUrl], NoDecode, BeforeValidator(_split_commas)] = Field(
        [],
        description="the URLs that `return_to` may be, separated by commas; they must match exactly. "
        "`http://localhost:*` allows each of the developer's own machine",
    )
    app_name: ShownName = Field(
        "", description="the name of your app, which the pages of the install flow show; empty = none"
    )
    logo_url: LogoUrl = Field(
        "",
        description="the address of your logo for these pages; images are allowed from its origin only; empty = none",
    )
    support: Support = Field(
        "", description="where these pages say that there is help: an e-mail address or an https address; empty = none"
    )
    accent: Annotated[str, _like(r"(#[0-9a-fA-F]{6})?", "look like #1d4ed8")] = Field(
        "", description="the colour of the buttons of these pages, as `#1d4ed8`; empty = green"
    )
    install_page: OptionalFile = Field(
        "",
        description="a file with your own part of [a page in front of consent](#the-pages-of-the-install-flow), in "
        "HTML; empty = to Aircall's consent page at once",
    )
    claim: Literal["optional", "required"] = Field(
        "optional", description="`required`: an installation stays `unclaimed` until its owner claims it"
    )
    hsts: bool = Field(
        True,
        description="tell browsers to come by https only (`Strict-Transport-Security`), where `PUBLIC_URL` is https",
    )
    pkce: bool = Field(False, description="send PKCE (S256) too; Aircall does not document it")
    webhook_name: str = Field(
        "aircall-oauth", min_length=1, max_length=100, description="`custom_name` of the webhooks we create"
    )
    webhook_events: Annotated[
        list[Annotated[str, AfterValidator(_event_name)]], NoDecode, BeforeValidator(_split_commas)
    ] = Field(
        [],
        description="event names, separated by commas; empty = all. `integration.deleted` is always added",
    )
    event_retention: Duration = Field(
        timedelta(days=30), description="how long events are kept at most (`30d`, `12h`, …)"
    )
    event_type_retention: Annotated[
        list[KeepRule],
        NoDecode,
        BeforeValidator(lambda value: keeping.parse(value, parse_duration) if isinstance(value, str) else value),
    ] = Field(
        [],
        description="types of events that are kept for less: `type=duration`, separated by commas, such as "
        "`transcription.*=7d` ([privacy.md](privacy.md#keep-for-a-time)); empty = none",
    )
    encrypt_events: bool = Field(
        False,
        description="encrypt what Aircall sends before it is stored, under a data key for each customer "
        "([what that means](privacy.md#encrypt-events-at-rest)); on only once every process has this version",
    )
    allowed_private_ranges: Annotated[
        list[Annotated[str, AfterValidator(_ip_network)]], NoDecode, BeforeValidator(_split_commas)
    ] = Field(
        [],
        description="private networks (CIDR) that deliveries may go to besides public addresses, separated by commas",
    )
    destination_ports: Annotated[
        list[Annotated[int, Field(ge=1, le=65535)]], NoDecode, BeforeValidator(_split_commas)
    ] = Field([], description="ports that deliveries by HTTP may go to, separated by commas; empty = any")
    max_subscriptions: int = Field(2000, ge=1, le=100_000, description="the most subscriptions there may be in all")
    max_subscriptions_per_owner: int = Field(
        100, ge=1, le=100_000, description="the most subscriptions there may be for exactly one owner"
    )
    deliveries_proxy: Proxy = Field(
        SecretStr(""),
        description="`http://[user:password@]host:port`: the proxy for deliveries by HTTP to addresses outside "
        "`…_ALLOWED_PRIVATE_RANGES`; empty = none. It is asked for the IP address that was checked, not for the name",
    )
    deliveries_at_once: int = Field(
        64, ge=1, le=1000, description="the most deliveries at one time for one subscription"
    )
    aircall_rate_per_minute: int = Field(
        60, ge=1, le=100_000, description="the most requests to Aircall in a minute for one Aircall company"
    )
    metrics_port: int = Field(
        9090, ge=0, le=65535, description="port of `/metrics`, `/livez` and `/readyz` in every process; 0 = off"
    )
    metrics_host: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1",
        description="IP address of this machine that the metrics port listens on; `*` = all of them, for a scraper on "
        "another machine",
    )
    console_port: int = Field(
        0, ge=0, le=65535, description="port of the console, the operator's pages, in `serve`; 0 = off"
    )
    console_host: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1",
        description="IP address of this machine that the console listens on; `*` = all of them, where a network policy "
        "says who may come",
    )
    console_url: OptionalBaseUrl = Field(
        "", description="the console's address as browsers see it; empty = `http://localhost:<port>`"
    )
    console_proxy: Annotated[
        list[Annotated[str, AfterValidator(_ip_network)]], NoDecode, BeforeValidator(_split_commas)
    ] = Field(
        [],
        description="networks (CIDR) of the authenticating proxy in front of the console, separated by commas; its "
        "headers are trusted from there only, and with `…_CONSOLE_PROXY_SECRET`",
    )
    console_proxy_secret: SecretStr = Field(
        SecretStr(""),
        validate_default=True,
        description="what the proxy sends as `X-Console-Secret`, 32 characters at least; required with "
        "`…_CONSOLE_PROXY`",
    )
    console_proxy_user_header: Annotated[
        str, _like(r"[A-Za-z0-9-]{1,64}", "be a header's name: 64 characters at most, of A-Z a-z 0-9 -")
    ] = Field(
        "X-Forwarded-User",
        description="the header in which the proxy says who the person is",
    )
    console_proxy_scopes: Annotated[list[ConsoleScope], NoDecode, BeforeValidator(_split_commas)] = Field(
        ["console:read"],
        description="what each person of the proxy may do: `console:read`, `console:act`, `payloads:read`",
    )
    console_proxy_operators: Annotated[list[PersonName], NoDecode, BeforeValidator(_split_commas)] = Field(
        [], description="the persons of the proxy who may do all of these, by the names that it sends"
    )
    direct_receiver: bool = Field(
        True,
        description="answer small events inside the HTTP protocol, which costs less; off: every request takes the way "
        "through ASGI",
    )
    traces: bool = Field(
        False,
        description="export traces with OpenTelemetry (needs the extra `otel`); `OTEL_EXPORTER_OTLP_ENDPOINT` says "
        "where to",
    )
    drain: Annotated[timedelta, BeforeValidator(_parse_drain)] = Field(
        timedelta(seconds=5),
        le=timedelta(minutes=5),
        description="how long `serve` goes on serving after SIGTERM, while `/readyz` answers 503; `0s` = not at all",
    )
    backfill: bool = Field(
        True, description="ask Aircall for the calls that ended while their events could not be received"
    )
    token_reads_per_minute: int = Field(
        60, ge=1, le=100_000, description="how many raw tokens one API key may read in a minute, over all replicas"
    )
    audit_retention: Annotated[Duration, AfterValidator(_require_thirty_days)] = Field(
        timedelta(days=400), description="how long entries of the audit are kept; `30d` at least"
    )
    erase_after_uninstall: OptionalDuration = Field(
        None, description="erase a customer's events so long after it has left (`30d`); empty: when they are old"
    )
    backups_kept: OptionalDuration = Field(
        None,
        description="how long you keep backups of the database (`30d`): the receipt of an erasure then says until when",
    )
    redact: Annotated[
        list[Redact],
        NoDecode,
        BeforeValidator(lambda value: redaction.parse(value) if isinstance(value, str) else value),
    ] = Field(
        [],
        description="fields of Aircall's events that are dropped or hashed before they are kept: "
        "`[type:]path=drop` or `=hash`, separated by commas ([privacy.md](privacy.md#leave-out-fields)); empty = none",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level of our own log lines that is written"
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`json`: one JSON object on each line; `console`: text for people"
    )

    @field_validator("event_type_retention")
    @classmethod
    def _within_the_retention(cls, value: list[KeepRule], info: ValidationInfo) -> list[KeepRule]:
        """Refuse to keep a type for longer than all events: days are dropped as a whole."""
        longest = info.data.get("event_retention")
        for number, rule in enumerate(value, start=1):
            if longest is not None and rule.length > longest:
                raise ValueError(f"entry {number} is longer than AIRCALL_OAUTH_EVENT_RETENTION, the most there is")
        return value

    @field_validator("console_proxy_secret")
    @classmethod
    def _goes_with_the_proxy(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        """Require a secret where a proxy is trusted: its network alone proves nothing."""
        if (value.get_secret_value() or info.data.get("console_proxy")) and len(value.get_secret_value()) < 32:
            raise ValueError("must have 32 characters at least where AIRCALL_OAUTH_CONSOLE_PROXY is set")
        return value

    @property
    def console_address(self) -> str:
        return self.console_url or f"http://localhost:{self.console_port}"

    @property
    def redirect_uri(self) -> str:
        return f"{self.public_url}/aircall/oauth/callback"

    @property
    def webhook_url(self) -> str:
        return f"{self.public_url}/aircall/webhook"

    def may_return_to(self, url: str) -> bool:
        """Whether a flow may end at this address: it is on the list, exactly."""
        if url in self.return_urls and url != ANY_LOCAL:
            return True
        return ANY_LOCAL in self.return_urls and "#" not in url and IS_LOCAL.fullmatch(url) is not None

    @property
    def secure_cookies(self) -> bool:
        return self.public_url.startswith("https://")

    @property
    def sends_hsts(self) -> bool:
        return self.hsts and self.public_url.startswith("https://")

    @property
    def client_secrets(self) -> list[SecretStr]:
        """The client secrets, in the order of the setting: one, or two while Aircall changes it."""
        return [SecretStr(each) for each in self.client_secret.get_secret_value().split()]

    @property
    def unpooled_url(self) -> str:
        """The database's URL for what needs a session of its own."""
        return self.database_direct_url.get_secret_value() or self.database_url.get_secret_value()

    @property
    def unpooled_setting(self) -> str:
        """The name of the setting that `unpooled_url` is from."""
        return environment_name(
            "database_direct_url" if self.database_direct_url.get_secret_value() else "database_url"
        )

    def url_in_file(self, setting: str) -> str | None:
        """Return a database's URL as its file has it now; None if it was in no file, or the file's is not right."""
        path = self._files.get(setting)
        try:
            return read_database_url(SecretStr(secret_files.text_of(path) or "")).get_secret_value() if path else None
        except ValueError:
            return None

    def with_new(self, fresh: Self, names: Iterable[str]) -> Self:
        """Return these settings with the values of `names`, and the files, that `fresh` has."""
        kept = {name: getattr(self, name) for name in type(self).model_fields if name not in set(names)}
        return fresh.model_copy(update=kept)

    @property
    def sealing_keys(self) -> dict[str, bytes]:
        """The keys by id, in the order of the setting: the first one seals, each opens what it has sealed."""
        return {str(entry.key_id): self._clear(entry) for entry in self.key_list("secret_keys")}

    @property
    def fingerprint_keys(self) -> list[bytes]:
        """The keys of fingerprints: the first makes them, the others are those of before."""
        return [self._clear(entry) for entry in self.key_list("fingerprint_key")]

    def key_list(self, setting: str) -> list[Entry]:
        return read_list(getattr(self, setting).get_secret_value(), with_ids=KEY_LISTS[setting])

    @property
    def wrapped_keys(self) -> dict[str, Wrapped]:
        """The keys that a key service has wrapped, by what an error calls them."""
        return {name: key for name, key in self._named_keys() if isinstance(key, Wrapped)}

    @property
    def clear_keys(self) -> list[str]:
        """What an error calls the keys that stand in their settings in the clear."""
        return [name for name, key in self._named_keys() if not isinstance(key, Wrapped)]

    def _named_keys(self) -> Iterator[tuple[str, bytes | Wrapped]]:
        for setting in KEY_LISTS:
            for entry in self.key_list(setting):
                named = "the key" if entry.key_id is None else f"the key {entry.key_id!r}"
                yield f"{named} of {environment_name(setting)}", entry.key

    async def with_unwrapped_keys(self, before: Self | None = None) -> Self:
        """Return these settings with their wrapped keys unwrapped; raises `KeyServiceFailed`.

        Asks the key services only for those that neither these settings nor those of before have unwrapped already.
        """
        known = self._unwrapped | (before._unwrapped if before else {})
        asked = {name: wrapped for name, wrapped in self.wrapped_keys.items() if str(wrapped) not in known}
        known |= await wrapped_keys.unwrap(asked, access(self)) if asked else {}
        settings = self.model_copy()
        settings._unwrapped = {text: known[text] for text in map(str, self.wrapped_keys.values())}
        return settings

    def _clear(self, entry: Entry) -> bytes:
        return self._unwrapped[str(entry.key)] if isinstance(entry.key, Wrapped) else entry.key

    @classmethod
    def load(cls) -> Self:
        """Read this process's settings, from its environment and its mounted files; raises `SettingsInvalid`.

        The error names every problem. A variable of the environment counts before a file of the same name.
        """
        files = secret_files.in_files(cls.model_fields, secret_settings())
        unknown = _unknown_names(os.environ, secret_files.mounted_names())
        settings = _read(cls, files, unknown)
        settings._files.update(files.paths)
        return settings

    @classmethod
    def load_some(cls, names: Iterable[str]) -> Any:
        """Read these settings only, for a command that does without the others; raises `SettingsInvalid`."""
        fields: dict[str, Any] = {
            name: (field.annotation, field) for name in names if (field := cls.model_fields[name])
        }
        some = create_model("SomeSettings", __base__=_Read, **fields)
        return _read(some, secret_files.in_files(fields, set(fields) & set(secret_settings())), [])


def access(settings: Any) -> Access:
    """Return how the key services are reached, by settings that have `KEY_SERVICE_SETTINGS`."""
    return Access(
        **{name: getattr(settings, name) for name in KEY_SERVICE_SETTINGS if name != "key_service_timeout"},
        seconds=settings.key_service_timeout.total_seconds(),
    )


def _read(model: type[AnySettings], files: InFiles, unknown: Sequence[str]) -> AnySettings:
    problems = [*files.problems, *unknown]
    try:
        settings = model(**files.texts)
    except ValidationError as error:
        found: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False)]
        problems += [_problem(each) for each in found if each["loc"][0] not in files.refused]
    if problems:
        raise SettingsInvalid(sorted(set(problems)))
    return settings


def secret_settings() -> list[str]:
    """Return the settings that are secrets; each may be in a file that `…_FILE` names."""
    return [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]


def _unknown_names(variables: Iterable[str], files: Iterable[str]) -> list[str]:
    settings = {environment_name(field) for field in Settings.model_fields}
    of_files = {environment_name(field) + FILE_SUFFIX for field in secret_settings()}
    unknown = [name for name in variables if name.upper() not in settings | of_files | {SECRETS_DIR}]
    unknown += [name for name in files if name.upper() not in settings]
    return [f"{name} is not a setting of this service" for name in unknown if secret_files.is_ours(name)]


def _problem(error: dict[str, Any]) -> str:
    """Return one of pydantic's errors as a line for the operator, without the setting's value."""
    name = environment_name(str(error["loc"][0]))
    match error["type"]:
        case "missing":
            return f"{name} is missing"
        case _ if error["input"] is None:
            return f"{name} is not a readable text file"
        case "value_error":
            return f"{name} {error['ctx']['error']}"
        case _:
            entry = "".join(f" entry {part + 1}" for part in error["loc"][1:] if isinstance(part, int))
            return f"{name}{entry} {_words(error)}"


def _words(error: dict[str, Any]) -> str:
    """Say what a setting must be, in the words that our own checks have."""
    words = FAULTS.get(error["type"])
    return words.format(**error.get("ctx", {})) if words else f"is wrong: {error['msg']}"
