"""Sealing keys that OpenBao's Transit engine has wrapped: its own server runs here, once for all of these."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aircall_oauth.errors import KeyServiceFailed, SettingsInvalid
from aircall_oauth.operations import doctor
from aircall_oauth.operations.doctor import Finding, Level
from aircall_oauth.settings import Settings, access
from aircall_oauth.wrapping import keys
from aircall_oauth.wrapping.entries import Entry, Wrapped, read_list, read_service_key
from tests.server.test_reloading import in_files, reloaded, status_of_install
from tests.support.openbao import OpenBao, ServiceAccount
from tests.support.processes import world
from tests.support.service import FINGERPRINT_KEY, SECRET_KEY, Service, run_command, settings_for

DOCUMENT = (Path(__file__).parents[2] / "docs/keys.md").read_text()
KEY = "transit/aircall-oauth"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A server with what the document says to make there."""
    with OpenBao.run(tmp_path_factory.mktemp("openbao")) as server:
        asyncio.run(shell(server, block("openbao")))
        yield server


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found
    return found[1]


async def shell(server: OpenBao, script: str, **environment: str) -> str:
    """What a script of the document printed, run as an operator would: with `bao` and `aircall-oauth` on the path."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        stdout=asyncio.subprocess.PIPE,
        env={
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "BAO_ADDR": server.address,
            "BAO_CACERT": str(server.cacert),
            "BAO_TOKEN": server.root_token,
            **environment,
        },
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    return stdout.decode()


async def wrapped(server: OpenBao, tmp_path: Path) -> str:
    """A new entry, made as the document says."""
    (tmp_path / ".vault-token").write_text(server.root_token)
    script = block("wrap").replace("https://vault.example.com:8200", server.address)
    authority = {"AIRCALL_OAUTH_VAULT_CACERT": str(server.cacert)}
    return (await shell(server, script, HOME=str(tmp_path), **authority)).strip()


def settings_of(values: dict[str, str]) -> dict[str, str]:
    """These settings as variables of the environment."""
    return {f"AIRCALL_OAUTH_{name}": value for name, value in values.items()}


def entry_for(server: OpenBao, key_id: str, key: str = SECRET_KEY) -> str:
    """An entry for this key, made with the server's own API."""
    told = server.ask("POST", "transit/encrypt/aircall-oauth", plaintext=key)
    return f"{key_id}:vault:{KEY}:{told['data']['ciphertext']}"


def minimum(server: OpenBao, version: int) -> None:
    server.ask("POST", "transit/keys/aircall-oauth/config", min_decryption_version=version)


async def unwrapped(server: OpenBao, entry: str, **changes: str) -> list[bytes]:
    """The keys of these settings, as a start has them."""
    reached = server.environment(server.token_for("aircall-oauth"))
    settings = settings_for("postgresql://nowhere", SECRET_KEYS=entry, **(reached | changes))
    return list((await settings.with_unwrapped_keys()).sealing_keys.values())


@pytest.mark.slow
async def test_what_the_document_wraps_is_used_and_its_service_is_needed_for_a_start_only(
    bao: OpenBao, tmp_path: Path, database_url: str
) -> None:
    entry, reached = await wrapped(bao, tmp_path), bao.environment(bao.token_for("aircall-oauth"))
    new_key = entry.partition(":")[0]
    async with world(tmp_path, database_url) as it:
        it.environment |= settings_of({"KEY_SERVICE_TIMEOUT": "1s", **reached})
        in_files(it, SECRET_KEYS=f"{entry_for(bao, 'k1')}")
        process = await it.start_service()
        bao.seal()
        try:
            installed = await status_of_install(it)
            (tmp_path / "SECRET_KEYS").write_text(f"{entry},{(tmp_path / 'SECRET_KEYS').read_text()}")
            refused = await reloaded(process, "settings not taken")
            still_installed = await status_of_install(it)
            started = await run_command("serve", "--port", "1", environment=it.environment)
        finally:
            bao.unseal()
        taken = await reloaded(process)
        installed_again = await status_of_install(it)
        sealed = {row["k"] for row in await it.sql("SELECT split_part(token_sealed, '.', 2) AS k FROM installation")}

    assert [installed, still_installed, installed_again] == [303] * 3
    told = f"can't be had: Vault at {bao.address} is sealed. Unseal it."
    assert refused["problems"] == [f"The key {new_key!r} of AIRCALL_OAUTH_SECRET_KEYS {told}"]
    assert started.exit_code == 1
    assert started.stderr.splitlines()[-1] == f"aircall-oauth: The key {new_key!r} of AIRCALL_OAUTH_SECRET_KEYS {told}"
    assert taken["taken"] == ["secret_keys"]
    assert new_key in sealed
    assert reached["VAULT_TOKEN"] not in process.said() + started.stderr


async def test_a_key_is_rewrapped_after_a_rotation_and_the_older_version_can_end(
    bao: OpenBao, tmp_path: Path, service: Service
) -> None:
    old = entry_for(bao, "k1")
    bao.ask("POST", "transit/keys/aircall-oauth/rotate")
    reached = bao.environment(bao.token_for("aircall-oauth"))
    environment = {"PATH": os.environ["PATH"], **settings_of({"SECRET_KEYS": old, **reached})}

    renewed = await run_command("secrets", "rewrap", environment=environment)
    as_json = await run_command("secrets", "rewrap", "--json", environment=environment)
    new = renewed.stdout.strip()
    bao.ask("POST", "transit/keys/aircall-oauth/config", min_encryption_version=2)
    below = await wrap_finding(service, bao, old)
    minimum(bao, 2)
    try:
        key = await unwrapped(bao, new)
        gone = [finding async for finding in doctor.examine(settings_with(service, bao, old))][-1]
    finally:
        minimum(bao, 1)

    assert key == [b"k" * 32]
    (told,) = json.loads(as_json.stdout)
    assert (told["id"], told["wrapped_by"], told["version"]) == ("k1", f"vault:{KEY}", 2)
    assert re.fullmatch(rf"k1:vault:{KEY}:vault:v2:[\w+/=]+", new)
    assert (below.level, below.seen.partition(f"{KEY}, ")[2]) == (
        Level.WARNING,
        "version 1 of 2: below its minimum, 2",
    )
    assert "secrets rewrap" in str(below.advice)
    assert (gone.check, gone.level) == ("keys", Level.PROBLEM)
    assert "(ciphertext or signature version is disallowed by policy (too old))" in gone.seen
    assert "min_decryption_version" in str(gone.advice)


async def wrap_finding(service: Service, server: OpenBao, entry: str) -> Finding:
    """What `doctor` says of an entry, in a service that has it."""
    service.resources.settings = await settings_with(service, server, entry).with_unwrapped_keys()
    finding, of_fingerprints = await doctor.wrap_findings(service.resources)
    assert of_fingerprints.seen == "the key of AIRCALL_OAUTH_FINGERPRINT_KEY is not wrapped"
    return finding


def settings_with(service: Service, server: OpenBao, entry: str) -> Settings:
    reached = server.environment(server.token_for("aircall-oauth"))
    return settings_for(service.settings.database_url.get_secret_value(), SECRET_KEYS=entry, **reached)


async def test_a_pod_logs_in_with_its_own_token_in_a_namespace(bao: OpenBao, tmp_path: Path) -> None:
    cluster, namespace = ServiceAccount(), "team"
    bao.ask("PUT", "sys/namespaces/team")
    bao.ask("POST", "sys/mounts/transit", namespace=namespace, type="transit")
    bao.ask("POST", "transit/keys/aircall-oauth", namespace=namespace)
    policy = 'path "transit/decrypt/aircall-oauth" { capabilities = ["update"] }'
    bao.ask("PUT", "sys/policies/acl/aircall-oauth", namespace=namespace, policy=policy)
    bao.ask("POST", "sys/auth/kubernetes", namespace=namespace, type="jwt")
    bao.ask("POST", "auth/kubernetes/config", namespace=namespace, jwt_validation_pubkeys=[cluster.public_key])
    role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": ["aircall-oauth"]}
    bound = {"bound_subject": "system:serviceaccount:default:aircall-oauth"}
    bao.ask("POST", "auth/kubernetes/role/aircall-oauth", namespace=namespace, **role, **bound)
    told = bao.ask("POST", "transit/encrypt/aircall-oauth", namespace=namespace, plaintext=SECRET_KEY)
    (tmp_path / "ours").write_text(cluster.token(bound["bound_subject"], "vault") + "\n")
    (tmp_path / "anothers").write_text(cluster.token("system:serviceaccount:default:another", "vault"))
    as_pod = {"VAULT_TOKEN": "", "VAULT_ROLE": "aircall-oauth", "VAULT_NAMESPACE": namespace}

    async def log_in(name: str) -> list[bytes]:
        entry = f"k1:vault:{KEY}:{told['data']['ciphertext']}"
        return await unwrapped(bao, entry, **as_pod, VAULT_JWT_FILE=str(tmp_path / name))

    key = await log_in("ours")
    refusals = []
    for name in ("anothers", "missing"):
        with pytest.raises(KeyServiceFailed) as refused:
            await log_in(name)
        refusals.append(refused.value.detail)

    assert key == [b"k" * 32]
    assert "refuses to log in" in refusals[0]
    assert "AIRCALL_OAUTH_VAULT_ROLE" in refusals[0]
    assert f"{tmp_path}/missing can't be read" in refusals[1]


@pytest.mark.parametrize(
    ("changes", "entry", "told"),
    [
        ({"VAULT_TOKEN": "wrong"}, "", "refuses transit/decrypt/aircall-oauth (permission denied). Its token"),
        ({"VAULT_NAMESPACE": "nowhere"}, "", "answers 404 to transit/decrypt/aircall-oauth (namespace not found)"),
        ({"VAULT_TOKEN": "", "VAULT_ROLE": "any"}, "", "wants a token"),
        ({"VAULT_CACERT": ""}, "", "has a certificate that is not accepted (tls_untrusted)"),
        ({"VAULT_ADDR": "http://localhost:1"}, "", "can't be reached (ConnectError)"),
        ({}, f"vault:{KEY}-2:vault:v1:AAAA", "refuses transit/decrypt/aircall-oauth-2"),
        ({}, f"vault:{KEY}:vault:v1:AAAA", "answers 400 to transit/decrypt/aircall-oauth (invalid ciphertext length)"),
    ],
)
async def test_a_key_that_cannot_be_unwrapped_says_why(
    changes: dict[str, str], entry: str, told: str, bao: OpenBao
) -> None:
    with pytest.raises(KeyServiceFailed) as refused:
        await unwrapped(
            bao, f"k1:{entry}" if entry else entry_for(bao, "k1"), **{"KEY_SERVICE_TIMEOUT": "1s", **changes}
        )

    said = refused.value.detail
    assert said.startswith("The key 'k1' of AIRCALL_OAUTH_SECRET_KEYS can't be had: Vault at http")
    assert told in said
    assert said.endswith(".")


async def test_a_missing_address_is_named_before_anything_is_asked() -> None:
    by, entry = read_service_key(f"vault:{KEY}"), read_list(f"k1:vault:{KEY}:vault:v1:AAAA", with_ids=True)[0]
    assert isinstance(entry.key, Wrapped)
    nowhere, clear = access(settings_for("postgresql://nowhere")), Entry(b"k" * 32, "k1")

    asked = (
        keys.wrap([clear], by, nowhere),
        keys.rewrap([entry], nowhere),
        keys.unwrap({"the key": entry.key}, nowhere),
    )
    problems = []
    for each in asked:
        with pytest.raises(SettingsInvalid) as refused:
            await each
        problems += refused.value.problems
    environment = {"PATH": os.environ["PATH"], **settings_of({"SECRET_KEYS": f"k1:{SECRET_KEY}"})}
    told = await run_command("secrets", "wrap", "--by", f"vault:{KEY}", environment=environment)

    assert problems == ["AIRCALL_OAUTH_VAULT_ADDR is missing: a key is wrapped by Vault, or is to be"] * 3
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr == f"aircall-oauth: The settings are not right:\n  - {problems[0]}\n"


async def test_what_is_wrapped_must_be_a_key(bao: OpenBao) -> None:
    with pytest.raises(KeyServiceFailed, match="has 16 bytes, not 32"):
        await unwrapped(bao, entry_for(bao, "k1", "A" * 22 + "=="))


async def test_a_fingerprint_key_that_is_wrapped_anew_needs_no_restart(
    bao: OpenBao, tmp_path: Path, database_url: str
) -> None:
    first, second = (entry_for(bao, "k1", FINGERPRINT_KEY).removeprefix("k1:") for _ in range(2))
    another = entry_for(bao, "k1", SECRET_KEY).removeprefix("k1:")
    async with world(tmp_path, database_url) as it:
        it.environment |= settings_of(bao.environment(bao.token_for("aircall-oauth")))
        in_files(it, FINGERPRINT_KEY=first)
        process = await it.start_service()
        told = []
        for entry in (second, FINGERPRINT_KEY, another):
            (tmp_path / "FINGERPRINT_KEY").write_text(entry)
            told.append(await reloaded(process))

    ours = ["fingerprint_key"]
    assert first != second
    assert [(each["taken"], each["need_a_restart"]) for each in told] == [(ours, []), (ours, []), ([], ours)]


async def test_the_fingerprint_key_may_be_wrapped_too(bao: OpenBao) -> None:
    wrap = ("secrets", "wrap", "--setting", "fingerprint-key", "--by", f"vault:{KEY}")
    reached = bao.environment(bao.root_token)
    environment = {"PATH": os.environ["PATH"], **settings_of({"FINGERPRINT_KEY": FINGERPRINT_KEY, **reached})}

    done = await run_command(*wrap, environment=environment)
    settings = settings_for(
        "postgresql://nowhere", FINGERPRINT_KEY=done.stdout, **bao.environment(bao.token_for("aircall-oauth"))
    )

    assert (await settings.with_unwrapped_keys()).fingerprint_keys == [b"f" * 32]
    assert FINGERPRINT_KEY not in done.stdout
