"""Settings: all problems at once, no value ever, and documents that stay true."""

import base64
import os
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
from pydantic import ValidationError

from aircall_oauth.cli import reference
from aircall_oauth.errors import DatabaseAway, SettingsInvalid
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.settings import Settings, secret_settings
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.secret_files import environment_name
from tests.support.service import FINGERPRINT_KEY, SECRET_KEY, environment_for, settings_for, tcp_door

SOMEWHERE = "postgresql://db.example.com/aircall"
CANARY = "c4n4ry"
REQUIRED = [name for name, field in Settings.model_fields.items() if field.is_required()]
URLS = ["PUBLIC_URL", "AUTHORIZE_URL", "API_URL", "SUCCESS_URL", "RETURN_URLS"]
# For every setting a wrong value that could be a secret in the wrong place.
WRONG = {
    "client_id": "",
    "client_secret": "",
    "public_url": f"ftp://{CANARY}",
    "database_url": f"mysql://{CANARY}:{CANARY}@{CANARY}/{CANARY}",
    "database_direct_url": f"mysql://{CANARY}:{CANARY}@{CANARY}/{CANARY}",
    "secret_keys": f"k1:{SECRET_KEY},{CANARY}:{CANARY}",
    "fingerprint_key": CANARY,
    "vault_addr": f"http://{CANARY}.example.com",
    "vault_role": f"{CANARY} {CANARY}",
    "vault_token": f"{CANARY} {CANARY}",
    "vault_namespace": f"{CANARY} {CANARY}",
    "vault_cacert": f"/nowhere/{CANARY}",
    "vault_auth_mount": f"{CANARY}//",
    "vault_jwt_file": CANARY,
    "key_service_timeout": CANARY,
    "authorize_url": f"http://{CANARY}.example.com",
    "api_url": f"https://x.example.com?{CANARY}",
    "success_url": f"https://{CANARY}:{CANARY}@x.example.com",
    "return_urls": f"https://x.example.com,{CANARY}",
    "app_name": CANARY * 20,
    "logo_url": f"http://{CANARY}.example.com/x.png",
    "support": CANARY,
    "accent": CANARY,
    "install_page": f"/nowhere/{CANARY}",
    "claim": CANARY,
    "hsts": CANARY,
    "pkce": CANARY,
    "webhook_name": CANARY * 100,
    "webhook_events": f"call.ended,{CANARY}!",
    "event_retention": CANARY,
    "event_type_retention": f"call.*=7d,{CANARY}",
    "backfill": CANARY,
    "token_reads_per_minute": CANARY,
    "audit_retention": "29d",
    "erase_after_uninstall": "a month",
    "backups_kept": "a month",
    "redact": f"raw_digits=drop,{CANARY}",
    "encrypt_events": CANARY,
    "allowed_private_ranges": f"10.0.0.0/8,{CANARY}",
    "destination_ports": f"443,{CANARY}",
    "aircall_proxy": f"socks5://{CANARY}:1",
    "deliveries_proxy": f"http://{CANARY}",
    "max_subscriptions": "0 c4n4ry",
    "max_subscriptions_per_owner": "c4n4ry",
    "deliveries_at_once": CANARY,
    "aircall_rate_per_minute": CANARY,
    "metrics_port": f"{CANARY}",
    "metrics_host": f"{CANARY}",
    "console_port": CANARY,
    "console_host": CANARY,
    "console_url": f"http://{CANARY}",
    "console_proxy": f"10.0.0.0/8,{CANARY}",
    "console_proxy_secret": CANARY,
    "console_proxy_user_header": f"{CANARY}: x",
    "console_proxy_scopes": f"console:read,{CANARY}",
    "console_proxy_operators": CANARY * 100,
    "traces": CANARY,
    "direct_receiver": CANARY,
    "drain": CANARY,
    "log_level": CANARY,
    "log_format": CANARY,
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """This process's environment is a working service's."""
    with monkeypatch.context() as changes:
        for name, value in environment_for(SOMEWHERE).items():
            changes.setenv(name, value)
        yield changes


def problems() -> list[str]:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.load()
    assert refused.value.problems == refused.value.detail.replace("  - ", "").splitlines()[1:]
    return refused.value.problems


def problem_with(field: str) -> str:
    (problem,) = problems()
    name, _, what = problem.partition(environment_name(field))
    assert name == ""
    return what


def test_a_complete_environment_is_understood(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AIRCALL_OAUTH_RETURN_URLS", "https://a.example.com/x?y=1, http://localhost:3000/,")
    environment.setenv("AIRCALL_OAUTH_WEBHOOK_EVENTS", "call.ended, user.created.v2")
    environment.setenv("AIRCALL_OAUTH_EVENT_RETENTION", "36h")
    environment.setenv("AIRCALL_OAUTH_ALLOWED_PRIVATE_RANGES", "10.0.0.0/8, fd00::/8")
    environment.setenv("AIRCALL_OAUTH_PUBLIC_URL", "https://hooks.example.com/aircall/")

    settings = Settings.load()

    assert settings.return_urls == ["https://a.example.com/x?y=1", "http://localhost:3000/"]
    assert settings.webhook_events == ["call.ended", "user.created.v2"]
    assert timedelta(hours=36) == settings.event_retention
    assert settings.allowed_private_ranges == ["10.0.0.0/8", "fd00::/8"]
    assert settings.redirect_uri == "https://hooks.example.com/aircall/aircall/oauth/callback"
    assert settings.webhook_url == "https://hooks.example.com/aircall/aircall/webhook"
    assert settings.secure_cookies


def test_every_missing_setting_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    for name in environment_for(SOMEWHERE):
        environment.delenv(name)

    assert sorted(f"{environment_name(name)} is missing" for name in REQUIRED) == problems()


def test_every_wrong_setting_is_named_at_once_and_no_value_is_printed(environment: pytest.MonkeyPatch) -> None:
    assert set(Settings.model_fields) == set(WRONG), "a new setting needs its wrong value here"
    for name, value in WRONG.items():
        environment.setenv(environment_name(name), value)

    found = problems()

    assert set(map(environment_name, WRONG)) == {problem.split()[0] for problem in found}
    assert CANARY not in "".join(found)


@pytest.mark.parametrize("name", WRONG)
def test_every_fault_is_told_in_our_own_words(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(environment_name(name), WRONG[name])

    assert re.match(r" (entry \d+:? )?(must|is not) ", problem_with(name))


@pytest.mark.parametrize("name", WRONG)
def test_no_part_of_an_error_shows_the_value(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(environment_name(name), WRONG[name])

    with pytest.raises(SettingsInvalid) as refused:
        Settings.load()

    assert CANARY not in str(refused.value) + repr(refused.value) + str(refused.value.__dict__)


def test_settings_made_by_hand_show_no_wrong_value_either() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(WRONG)

    assert CANARY not in f"{refused.value} {refused.value!r}"


def test_settings_do_not_show_their_secrets() -> None:
    settings = settings_for(f"postgresql://user:{CANARY}@h/d", CLIENT_SECRET=CANARY)

    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"

    assert CANARY not in shown
    assert SECRET_KEY not in shown
    assert FINGERPRINT_KEY not in shown


@pytest.mark.parametrize("name", ["AIRCALL_OAUTH_TYPO", "AIRCALL_OAUTH_CLIENTID", "aircall_oauth_pkcee"])
def test_an_unknown_variable_is_refused_by_name(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, CANARY)

    assert [f"{name} is not a setting of this service"] == problems()


def test_an_unknown_file_in_the_secrets_folder_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "AIRCALL_OAUTH_CLIENT_SECRETT").write_text(CANARY)
    (tmp_path / "..data").mkdir()
    (tmp_path / "another-services-secret").write_text(CANARY)
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path))

    assert problems() == ["AIRCALL_OAUTH_CLIENT_SECRETT is not a setting of this service"]


def test_secrets_are_read_from_a_mounted_folder(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CLIENT_SECRET", "DATABASE_URL", "SECRET_KEYS", "FINGERPRINT_KEY", "RETURN_URLS"):
        environment.delenv(f"AIRCALL_OAUTH_{name}", raising=False)
    (tmp_path / "AIRCALL_OAUTH_CLIENT_SECRET").write_text(f"{CANARY}\n")
    (tmp_path / "AIRCALL_OAUTH_DATABASE_URL").write_text(f"postgres://u:{CANARY}@h/d\n")
    (tmp_path / "AIRCALL_OAUTH_SECRET_KEYS").write_text(f"k7:{SECRET_KEY}\n")
    (tmp_path / "AIRCALL_OAUTH_FINGERPRINT_KEY").write_text(f"{FINGERPRINT_KEY}\n")
    (tmp_path / "AIRCALL_OAUTH_RETURN_URLS").write_text("https://a.example.com\n")
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path))

    settings = Settings.load()

    assert settings.client_secret.get_secret_value() == CANARY
    assert settings.database_url.get_secret_value() == f"postgresql://u:{CANARY}@h/d"
    assert settings.sealing_keys == {"k7": b"k" * 32}
    assert settings.fingerprint_keys == [b"f" * 32]
    assert settings.return_urls == ["https://a.example.com"]


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}\t"])
def test_white_space_around_a_value_is_left_out_whichever_way_it_comes(
    environment: pytest.MonkeyPatch, tmp_path: Path, around: str
) -> None:
    plain = Settings.load()

    names = [name for name in os.environ if name.startswith("AIRCALL_OAUTH_")]
    for name in names:
        environment.setenv(name, around.format(os.environ[name]))
    assert Settings.load() == plain

    for name in names:
        (tmp_path / name).write_text(os.environ[name])
        environment.delenv(name)
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path))
    assert Settings.load().model_dump() == plain.model_dump()


def test_the_environment_goes_before_a_mounted_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "AIRCALL_OAUTH_CLIENT_ID").write_text("from-the-file")
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path))
    environment.setenv("AIRCALL_OAUTH_CLIENT_ID", "from-the-environment")

    assert Settings.load().client_id == "from-the-environment"


def test_mounted_files_that_are_no_text_are_named_with_everything_else(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CLIENT_SECRET", "DATABASE_URL"):
        environment.delenv(f"AIRCALL_OAUTH_{name}")
    (tmp_path / "AIRCALL_OAUTH_CLIENT_SECRET").write_bytes(b"\xff\xfe" + CANARY.encode())
    (tmp_path / "AIRCALL_OAUTH_DATABASE_URL").mkdir()
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path))
    environment.setenv("AIRCALL_OAUTH_CLAIM", CANARY)

    assert problems() == [
        "AIRCALL_OAUTH_CLAIM must be 'optional' or 'required'",
        "AIRCALL_OAUTH_CLIENT_SECRET is not a readable text file",
        "AIRCALL_OAUTH_DATABASE_URL is not a readable text file",
    ]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_secrets_folder_that_is_none_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path / folder))

    assert problems() == ["AIRCALL_OAUTH_SECRETS_DIR does not name a readable folder"]


def test_an_empty_secrets_folder_name_means_none(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "AIRCALL_OAUTH_TYPO").touch()
    environment.chdir(tmp_path)
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", "")

    Settings.load()


def in_a_file(environment: pytest.MonkeyPatch, name: str, file: Path) -> None:
    """Have a setting's file named by the environment, and no longer its value."""
    environment.delenv(environment_name(name), raising=False)
    environment.setenv(f"{environment_name(name)}_FILE", str(file))


def test_every_secret_can_be_in_a_file_of_its_own(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = {
        "client_secret": CANARY,
        "database_url": f"postgresql://u:{CANARY}@h/d",
        "database_direct_url": f"postgresql://u:{CANARY}@direct/d",
        "secret_keys": f"k7:{SECRET_KEY}",
        "fingerprint_key": SECRET_KEY,
        "vault_token": CANARY,
        "aircall_proxy": f"http://u:{CANARY}@proxy:3128",
        "deliveries_proxy": f"http://u:{CANARY}@proxy:3129",
        "console_proxy_secret": CANARY * 10,
    }
    assert set(secrets) == set(secret_settings()), "a new secret needs its value here"
    for name, value in secrets.items():
        (tmp_path / name).write_text(f"{value}\n")
        in_a_file(environment, name, tmp_path / name)

    settings = Settings.load()

    assert secrets == {name: getattr(settings, name).get_secret_value() for name in secrets}


def test_a_secret_and_its_file_both_set_are_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("client_secret", "fingerprint_key"):
        (tmp_path / name).write_text(CANARY)
        environment.setenv(f"{environment_name(name)}_FILE", str(tmp_path / name))
    environment.setenv("AIRCALL_OAUTH_CLAIM", "")

    assert problems() == [
        "AIRCALL_OAUTH_CLAIM must be 'optional' or 'required'",
        "AIRCALL_OAUTH_CLIENT_SECRET and AIRCALL_OAUTH_CLIENT_SECRET_FILE are both set: keep one of them",
        "AIRCALL_OAUTH_FINGERPRINT_KEY and AIRCALL_OAUTH_FINGERPRINT_KEY_FILE are both set: keep one of them",
    ]


def test_an_empty_variable_beside_a_file_is_none(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(CANARY)
    in_a_file(environment, "client_secret", tmp_path / "secret")
    environment.setenv("AIRCALL_OAUTH_CLIENT_SECRET", "")
    environment.setenv("AIRCALL_OAUTH_SECRET_KEYS_FILE", "")

    assert Settings.load().client_secret.get_secret_value() == CANARY


def test_files_that_hold_no_secret_are_named_all_at_once(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff" + CANARY.encode())
    (tmp_path / "huge").write_text(CANARY * 100_000)
    (tmp_path / "wrong").write_text(CANARY)
    names = {
        "client_secret": tmp_path / "missing",
        "database_url": tmp_path / "empty",
        "secret_keys": tmp_path / "binary",
        "fingerprint_key": tmp_path / "wrong",
        "aircall_proxy": tmp_path,
        "deliveries_proxy": tmp_path / "huge",
    }
    for name, file in names.items():
        in_a_file(environment, name, file)

    assert problems() == [
        f"AIRCALL_OAUTH_AIRCALL_PROXY_FILE names a file that is no readable text: {tmp_path}",
        f"AIRCALL_OAUTH_CLIENT_SECRET_FILE names a file that is not there: {tmp_path}/missing",
        f"AIRCALL_OAUTH_DATABASE_URL_FILE names an empty file: {tmp_path}/empty",
        f"AIRCALL_OAUTH_DELIVERIES_PROXY_FILE names a file that is no readable text: {tmp_path}/huge",
        "AIRCALL_OAUTH_FINGERPRINT_KEY is not base64",
        f"AIRCALL_OAUTH_SECRET_KEYS_FILE names a file that is no readable text: {tmp_path}/binary",
    ]


@pytest.mark.parametrize("secret", [CANARY, f"/{CANARY}", f"/{CANARY}/{CANARY}==", CANARY * 1000])
def test_a_secret_in_the_place_of_its_files_name_is_not_shown(environment: pytest.MonkeyPatch, secret: str) -> None:
    environment.delenv("AIRCALL_OAUTH_CLIENT_SECRET")
    environment.setenv("AIRCALL_OAUTH_CLIENT_SECRET_FILE", secret)

    assert problems() == ["AIRCALL_OAUTH_CLIENT_SECRET_FILE names a file that is not there"]


def test_only_secrets_have_a_file_and_only_in_the_environment(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "AIRCALL_OAUTH_SECRET_KEYS_FILE").write_text("/run/secrets/keys")
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path))
    environment.setenv("AIRCALL_OAUTH_PUBLIC_URL_FILE", "/run/secrets/url")

    assert problems() == [
        "AIRCALL_OAUTH_PUBLIC_URL_FILE is not a setting of this service",
        "AIRCALL_OAUTH_SECRET_KEYS_FILE is not a setting of this service",
    ]


def test_the_file_that_a_variable_names_goes_before_one_in_the_folder(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "AIRCALL_OAUTH_CLIENT_SECRET").write_text("from-the-folder")
    (tmp_path / "elsewhere").write_text("from-the-named-file")
    environment.setenv("AIRCALL_OAUTH_SECRETS_DIR", str(tmp_path))
    in_a_file(environment, "client_secret", tmp_path / "elsewhere")

    assert Settings.load().client_secret.get_secret_value() == "from-the-named-file"


def test_no_env_file_is_read_by_chance(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AIRCALL_OAUTH_PKCE=true\n")
    environment.chdir(tmp_path)

    assert not Settings.load().pkce


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (f"k1:{SECRET_KEY},k1:{FINGERPRINT_KEY}", " entry 2 repeats an id"),
        (f"k1:{SECRET_KEY},k2:{SECRET_KEY[:-2]}", " entry 2: is not base64"),
        ("k1:" + base64.b64encode(b"k" * 31).decode(), " entry 1: must be 32 bytes, base64-encoded"),
        ("k1:" + base64.b64encode(b"k" * 33).decode(), " entry 1: must be 32 bytes, base64-encoded"),
        ("k1:" + SECRET_KEY.replace("=", "!"), " entry 1: is not base64"),
        ("k1:" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), " entry 1: is not base64"),
        (SECRET_KEY, " entry 1 must look like id:base64, the id of A-Z a-z 0-9 _ -"),
        ("k1:vault:transit/k:v1:AAAA", " entry 1: must look like vault:MOUNT/KEY:CIPHERTEXT"),
        ("vault:transit/k:vault:v1:AAAA", " entry 1 must begin with an id: id:vault:…"),
        ("k1:awskms:alias/k:%", " entry 1: must look like awskms:KEY:CIPHERTEXT"),
        (f"k.1:{SECRET_KEY}", " entry 1 must look like id:base64, the id of A-Z a-z 0-9 _ -"),
        (f"k1:{SECRET_KEY},", " entry 2 must look like id:base64, the id of A-Z a-z 0-9 _ -"),
        ("", " entry 1 must look like id:base64, the id of A-Z a-z 0-9 _ -"),
    ],
)
def test_wrong_secret_keys_are_refused_by_their_place(
    environment: pytest.MonkeyPatch, keys: str, complaint: str
) -> None:
    environment.setenv("AIRCALL_OAUTH_SECRET_KEYS", keys)

    assert complaint == problem_with("secret_keys")


def test_the_first_secret_key_comes_first() -> None:
    settings = settings_for(SOMEWHERE, SECRET_KEYS=f"new:{FINGERPRINT_KEY}, old:{SECRET_KEY}")

    assert list(settings.sealing_keys.items()) == [("new", b"f" * 32), ("old", b"k" * 32)]


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        (base64.b64encode(b"f" * 16).decode(), " must be 32 bytes, base64-encoded"),
        ("?" * 44, " is not base64"),
        ("", " must be 32 bytes, base64-encoded"),
        (f"{SECRET_KEY},?", " entry 2: is not base64"),
        (f"{SECRET_KEY}, {SECRET_KEY}", " has the same key twice"),
    ],
)
def test_a_wrong_fingerprint_key_is_refused(environment: pytest.MonkeyPatch, key: str, complaint: str) -> None:
    environment.setenv("AIRCALL_OAUTH_FINGERPRINT_KEY", key)

    assert complaint == problem_with("fingerprint_key")


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "url", ["https://x.example.com", "http://localhost:8000/y", "http://127.0.0.1", "http://[::1]:8000"]
)
def test_addresses_are_https_or_this_machine(environment: pytest.MonkeyPatch, name: str, url: str) -> None:
    environment.setenv(f"AIRCALL_OAUTH_{name}", url)

    Settings.load()


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "url",
    [
        "http://x.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://localhost@x.example.com",
        "http://10.0.0.1",
        "ftp://localhost",
        "x.example.com",
        "https://",
        "https://x.example.com:port",
        "https://x.example.com/a b",
        "https://user@x.example.com",
        "https://@x.example.com",
        "https://x.example.com/#",
    ],
)
def test_other_addresses_are_refused(environment: pytest.MonkeyPatch, name: str, url: str) -> None:
    environment.setenv(f"AIRCALL_OAUTH_{name}", url)

    assert problem_with(name.lower())


@pytest.mark.parametrize("name", ["PUBLIC_URL", "API_URL"])
def test_an_address_that_others_are_made_of_has_no_query(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(f"AIRCALL_OAUTH_{name}", "https://x.example.com/?")

    assert problem_with(name.lower()) == " must not carry a ?query"


def test_the_success_address_may_be_empty(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AIRCALL_OAUTH_SUCCESS_URL", "")

    assert Settings.load().success_url == ""


@pytest.mark.parametrize("duration", ["30", "d", "0d", "-1d", "1.5d", "1w", "1d 2h", "9999999d", ""])
def test_a_duration_has_a_number_and_a_unit(environment: pytest.MonkeyPatch, duration: str) -> None:
    environment.setenv("AIRCALL_OAUTH_EVENT_RETENTION", duration)

    assert problem_with("event_retention") == " must look like 30d, 12h, 45m or 90s"


def test_there_may_be_no_time_to_drain(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AIRCALL_OAUTH_DRAIN", "0s")

    assert Settings.load().drain == timedelta(0)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("HSTS", "maybe", "must be true or false"),
        ("METRICS_PORT", "http", "must be a whole number"),
        ("METRICS_PORT", "9" * 5000, "must be a whole number"),
        ("METRICS_PORT", "65536", "must be 65535 or less"),
        ("METRICS_PORT", "-1", "must be 0 or more"),
        ("DESTINATION_PORTS", "443,0", "entry 2 must be 1 or more"),
        ("DRAIN", "6m", "must be 5 minutes or less"),
        ("AIRCALL_RATE_PER_MINUTE", "0", "must be 1 or more"),
        ("WEBHOOK_NAME", "", "must not be empty"),
        ("CLIENT_SECRET", "", "must not be empty"),
        ("APP_NAME", "x" * 61, "must have 60 characters at most"),
        ("LOG_FORMAT", "text", "must be 'json' or 'console'"),
        ("CONSOLE_PROXY_SCOPES", "all", "entry 1 must be 'console:read', 'console:act' or 'payloads:read'"),
        ("ACCENT", "blue", "must look like #1d4ed8"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_an_operator(
    environment: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    environment.setenv(f"AIRCALL_OAUTH_{name}", value)

    assert problem_with(name.lower()) == f" {told}"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://h/d",
        "h/d",
        "",
        "postgresql://h:port/d",
        "postgresql://h:123456/d",
        "postgresql://a:1,b:two/d",
        "postgresql://a,,b/d",
        "postgresql://[::1/d",
        "postgresql://u:p@ss@h/d",
        "postgresql://u:p#ss@h/d",
        "postgresql://u:p/ss@h/d",
        "postgresql://u:p[ss,word@h/d",
    ],
)
def test_a_database_address_that_is_none_is_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("AIRCALL_OAUTH_DATABASE_URL", url)

    assert problem_with("database_url")


async def ask(url: str, question: str) -> str:
    database = Database(settings_for(url).database_url.get_secret_value())
    try:
        connection: asyncpg.Connection = await database.connect()
        answer: str = await connection.fetchval(question)
        await connection.close()
        return answer
    finally:
        await database.close()


def socket_folder(database_url: str) -> str:
    return parse_qs(urlsplit(database_url).query)["host"][0]


@pytest.mark.parametrize(
    "rest",
    [
        "postgres@/test?host={folder}",
        "postgres@/test?host={quoted}&sslmode=disable&connect_timeout=5&channel_binding=prefer",
        "postgres@/test?host={quoted}&ssl=disable&gssencmode=disable&keepalives=1&keepalives_idle=30",
        "postgres:any%40%2F%23%5Bpassword@{quoted}/test?target_session_attrs=read-write&client_encoding=utf8",
        "/test?user=postgres&host={quoted}&port=5432&fallback_application_name=x&load_balance_hosts=disable",
        "postgres@/test?host={quoted}&sslmode=require&gssdelegation=0&sslcertmode=allow&sslsni=1&requiressl=0",
        "postgres@/test?host={quoted}&passfile=&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000",
    ],
)
async def test_libpq_addresses_connect_through_a_socket(database_url: str, rest: str) -> None:
    folder = socket_folder(database_url)
    url = f"postgresql://{rest.format(folder=folder, quoted=quote(folder, safe=''))}"

    assert await ask(url, "SELECT current_database()") == "test"


@pytest.mark.parametrize(
    "rest",
    [
        "postgres@127.0.0.1:{open}/test?sslmode=prefer&connect_timeout=2",
        "postgres@localhost:{open}/test?sslmode=disable",
        "postgres@127.0.0.1:{closed},127.0.0.1:{open}/test?sslmode=disable",
        "postgres@127.0.0.1:{closed},localhost:{open}/test?target_session_attrs=read-write&load_balance_hosts=disable",
    ],
)
async def test_libpq_addresses_connect_over_tcp(database_url: str, rest: str) -> None:
    async with tcp_door(database_url) as port:
        url = f"postgresql://{rest.format(open=port, closed=free_port())}"

        assert await ask(url, "SELECT current_database()") == "test"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_every_scheme_of_an_address_connects(database_url: str, scheme: str) -> None:
    url = database_url.replace("postgresql://", f"{scheme}://")

    assert await ask(f"{url}&sslmode=prefer&connect_timeout=5", "SELECT current_database()") == "test"


async def test_the_application_name_is_ours_unless_told(database_url: str) -> None:
    question = "SELECT current_setting('application_name')"

    assert await ask(database_url, question) == "aircall-oauth"
    assert await ask(f"{database_url}&application_name=web-1", question) == "web-1"


async def test_server_options_of_the_address_are_kept(database_url: str) -> None:
    url = f"{database_url}&options=-c%20statement_timeout%3D4321"

    assert await ask(url, "SELECT current_setting('statement_timeout')") == "4321ms"


@pytest.mark.parametrize(
    "wrong",
    ["&port=9999", "&sslmode=disable&port=1", "&options=-c%20no_such_setting%3D1"],
)
async def test_an_address_that_does_not_connect_is_a_database_that_is_away(database_url: str, wrong: str) -> None:
    with pytest.raises(DatabaseAway):
        await ask(database_url + wrong, "SELECT 'never'")


@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        *((f"{name}=c4n4ry", name) for name in ("sslmode", "port", "target_session_attrs", "connect_timeout")),
        *((f"{name}=c4n4ry", name) for name in ("hostaddr", "require_auth", "requirepeer", "sslcrldir", "servicefile")),
        *((f"{name}=require", name) for name in ("channel_binding", "gssencmode", "sslcertmode")),
        ("port=99999", "port"),
        ("keepalives=yes", "keepalives"),
        ("sslmod=require", "sslmod"),
        ("search_path=c4n4ry", "search_path"),
        ("sslsni=0", "sslsni"),
        ("requiressl=1", "sslmode=require"),
        ("replication=database", "replication"),
        ("client_encoding=LATIN1", "client_encoding"),
        ("load_balance_hosts=random", "load_balance_hosts"),
        ("sslmode=require&sslrootcert=system", "verify-full"),
        ("c4n4ry", "parameters"),
    ],
)
def test_a_parameter_that_is_not_kept_is_refused_by_its_name(
    environment: pytest.MonkeyPatch, parameter: str, named: str
) -> None:
    environment.setenv("AIRCALL_OAUTH_DATABASE_URL", f"postgresql://h/d?{parameter}")

    problem = problem_with("database_url")

    assert named in problem
    assert "c4n4ry" not in problem


def test_what_a_password_leaves_behind_is_not_repeated(environment: pytest.MonkeyPatch) -> None:
    for url in ("postgresql://u:1?c4n4ry@h/d", "postgresql://u:1?c4n4ry=x@h/d", "postgresql://h/d?C4n4ry%21=1"):
        environment.setenv("AIRCALL_OAUTH_DATABASE_URL", url)

        assert "4n4ry" not in str(problem_with("database_url"))


async def test_keepalives_and_timeouts_of_the_address_are_set_on_the_socket(database_url: str) -> None:
    wanted = "keepalives=1&keepalives_idle=31&keepalives_interval=7&keepalives_count=4&tcp_user_timeout=8000"
    async with tcp_door(database_url) as port:
        database = Database(f"postgresql://postgres@127.0.0.1:{port}/test?{wanted}")
        connection = await database.connect()
        connected = connection._transport.get_extra_info("socket")
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        found = [connected.getsockopt(socket.IPPROTO_TCP, option) for option in options]
        alive = connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await connection.close()
        await database.close()

    assert (alive, found) == (1, [31, 7, 4, 8000])


def test_the_settings_table_is_current() -> None:
    page = reference.OPERATIONS.read_text()

    assert reference.settings_table() in page, "run: python -m aircall_oauth.cli.reference --write"
    assert page == reference.operations_page(page)


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", reference.settings_table(), re.MULTILINE)

    assert [*map(environment_name, Settings.model_fields), "AIRCALL_OAUTH_SECRETS_DIR"] == [row[0] for row in rows]
    assert set(map(environment_name, REQUIRED)) == {name for name, default, _ in rows if default == "required"}


def test_the_example_environment_is_current() -> None:
    assert reference.env_example() == reference.ENV_EXAMPLE.read_text(), (
        "run: python -m aircall_oauth.cli.reference --write"
    )


def test_the_example_environment_works_once_it_is_filled_in(environment: pytest.MonkeyPatch) -> None:
    text = reference.env_example()
    blank = re.findall(r"^(\w+)=$", text, re.MULTILINE)
    commented = dict(re.findall(r"^# (AIRCALL_OAUTH_\w+)=(.*)$", text, re.MULTILINE))
    assert ["POSTGRES_PASSWORD", *map(environment_name, REQUIRED)] == blank
    for name in [name for name in environment_for(SOMEWHERE) if name not in blank]:
        environment.delenv(name)
    defaults = Settings.load()

    for name, value in commented.items():
        environment.setenv(name, value)

    assert defaults == Settings.load()
    assert {*map(environment_name, Settings.model_fields), "AIRCALL_OAUTH_SECRETS_DIR"} == {*blank[1:], *commented}


def test_the_example_environment_names_what_docker_compose_asks_for() -> None:
    compose = (reference.ROOT / "docker-compose.yml").read_text()

    asked = set(re.findall(r"\$\{(\w+)", compose))

    assert asked
    assert asked <= set(re.findall(r"^(\w+)=$", reference.env_example(), re.MULTILINE))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, "VAULT_ADDR is missing: a key of AIRCALL_OAUTH_SECRET_KEYS is wrapped by Vault"),
        (
            {"VAULT_ADDR": "https://v:8200"},
            "VAULT_TOKEN is missing: set it, or AIRCALL_OAUTH_VAULT_ROLE to log in with",
        ),
        (
            {"VAULT_ADDR": "https://v:8200", "VAULT_TOKEN": "t", "VAULT_ROLE": "r"},
            "VAULT_TOKEN and AIRCALL_OAUTH_VAULT_ROLE are both set: keep one of them",
        ),
    ],
)
def test_a_wrapped_key_needs_a_way_to_its_service(
    environment: pytest.MonkeyPatch, changes: dict[str, str], complaint: str
) -> None:
    environment.setenv("AIRCALL_OAUTH_SECRET_KEYS", "k1:vault:transit/k:vault:v1:AAAA")
    for name, value in changes.items():
        environment.setenv(environment_name(name.lower()), value)

    (problem,) = problems()

    assert problem.startswith(f"AIRCALL_OAUTH_{complaint}")
