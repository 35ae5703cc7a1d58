"""Sealing keys that AWS KMS has wrapped: AWS's own library asks a pretend KMS."""

import base64
import builtins
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from aircall_oauth.errors import KeyServiceFailed
from aircall_oauth.wrapping import keys
from aircall_oauth.wrapping.access import Access
from aircall_oauth.wrapping.entries import Entry, Wrapped, read_service_key
from tests.support.service import SECRET_KEY, settings_for
from tests.support.tools import CI_GROUP, miss

CLEAR = Entry(base64.b64decode(SECRET_KEY), "k1")


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the pretend KMS, as AWS's own."""
    if find_spec("moto") is None:
        miss(f"moto is not installed (it is in {CI_GROUP})")
    from botocore.session import get_session
    from moto import mock_aws

    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "eu-central-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        yield get_session().create_client("kms", region_name="eu-west-1")


def settings_with(entries: list[Entry]) -> Any:
    return settings_for("postgresql://nowhere", SECRET_KEYS=",".join(map(str, entries)))


def access() -> Access:
    from aircall_oauth.settings import access

    return access(settings_for("postgresql://nowhere"))


async def test_a_key_is_wrapped_unwrapped_and_wrapped_anew(kms: Any) -> None:
    """In the region of the key's ARN, which is another than the environment's."""
    arn, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))

    wrapped = await keys.wrap([CLEAR], read_service_key(f"awskms:{arn}"), access())
    settings = await settings_with(wrapped).with_unwrapped_keys()
    rewrapped = await keys.rewrap(wrapped, access())
    moved = await keys.wrap(wrapped, read_service_key(f"awskms:{other}"), access())

    assert settings.sealing_keys == {"k1": CLEAR.key}
    assert str(wrapped[0]).startswith(f"k1:awskms:{arn}:")
    assert str(moved[0]).startswith(f"k1:awskms:{other}:")
    for again in (rewrapped, moved):
        assert (await settings_with(again).with_unwrapped_keys()).sealing_keys == {"k1": CLEAR.key}


async def test_a_key_that_cannot_be_unwrapped_says_why(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn, another = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    (entry,) = await keys.wrap([CLEAR], read_service_key(f"awskms:{arn}"), access())
    assert isinstance(entry.key, Wrapped)
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    refusals = []
    for name in (f"{arn[:-4]}beef", another, "alias/of-no-region"):
        elsewhere = Entry(Wrapped(read_service_key(f"awskms:{name}"), entry.key.ciphertext), "k1")
        with pytest.raises(KeyServiceFailed) as refused:
            await settings_with([elsewhere]).with_unwrapped_keys()
        refusals.append(refused.value.detail)

    begins = "The key 'k1' of AIRCALL_OAUTH_SECRET_KEYS can't be had: AWS KMS "
    assert all(told.startswith(begins) for told in refusals)
    assert refusals[0].endswith("Check the entry's key and AWS_REGION.")
    assert refusals[1].endswith("answers AccessDeniedException. Its policy must allow kms:Decrypt to this identity.")
    assert "You must specify a region" in refusals[2]


async def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("botocore"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(KeyServiceFailed, match=r"its library is not installed. Install aircall-oauth\[aws\]"):
        await keys.wrap([CLEAR], read_service_key("awskms:alias/any"), access())
