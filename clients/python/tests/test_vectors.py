"""The cases that the service and both clients share."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

import aircall_oauth_client
from aircall_oauth_client import SignatureInvalid, requests, verify

VECTORS = json.loads((Path(__file__).parents[2] / "vectors.json").read_text())


def named(case: dict[str, Any]) -> str:
    return str(case.get("name", case.get("raised_as")))


@pytest.mark.parametrize("case", VECTORS["signatures"], ids=named)
def test_signatures(case: dict[str, Any]) -> None:
    body = case["body"].encode()

    if case["valid"]:
        assert verify(case["headers"], body, *case["secrets"], now=case["now"]) == json.loads(body)
    else:
        with pytest.raises(SignatureInvalid):
            verify(case["headers"], body, *case["secrets"], now=case["now"])


@pytest.mark.parametrize("case", VECTORS["envelopes"], ids=named)
def test_envelopes(case: dict[str, Any]) -> None:
    event = verify(case["headers"], case["body"].encode(), case["secret"], now=case["now"])

    for path, value in case["values"].items():
        found: Any = event
        for name in path.split("."):
            found = found[int(name)] if isinstance(found, list) else found[name]
        assert str(found) == value, path


@pytest.mark.parametrize("case", VECTORS["errors"], ids=named)
def test_errors(case: dict[str, Any]) -> None:
    response = httpx.Response(case["status"], headers=case["headers"], content=case["body"].encode())

    error = requests.error_of(requests.get("/v1/events"), response)

    assert type(error) is getattr(aircall_oauth_client, case["error"])
    assert isinstance(error, aircall_oauth_client.ServiceError)
    assert (error.code, error.status, error.retry_after) == (case["code"], case["status"], case["retry_after"])
    for name in {"oldest", "resume_from", "newest"} & case.keys():
        assert getattr(error, name) == case[name]
