"""The cases that both clients are tested with are the service's own: signatures, events and errors."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic import SecretStr

from aircall_oauth import errors
from aircall_oauth.access.problems import headers, problem
from aircall_oauth.deliveries.destinations import signatures
from aircall_oauth.server import openapi

VECTORS = json.loads((Path(__file__).parents[2] / "clients" / "vectors.json").read_text())
DETAILS: dict[str, Any] = {
    "InvalidRequest": ("body.name: is required",),
    "PositionGone": (4000,),
    "BudgetSpent": (13,),
    "TooManyTokenReads": (7,),
    "SubscriptionDiffers": (["url"],),
    "AircallUnavailable": ("timeout",),
    "SubscriptionsFull": ("MAX_SUBSCRIPTIONS_PER_OWNER",),
}


def named(case: dict[str, Any]) -> str:
    return str(case.get("name", case.get("raised_as")))


@pytest.mark.parametrize("case", [each for each in VECTORS["signatures"] if each["valid"]], ids=named)
def test_a_valid_signature_is_one_that_the_service_makes(case: dict[str, Any]) -> None:
    given = {name.lower(): value for name, value in case["headers"].items()}
    keys = [signatures.key_of(SecretStr(secret)) for secret in case["secrets"]]

    made = [
        signatures.headers(
            [key], event_id=given["webhook-id"], timestamp=int(given["webhook-timestamp"]), body=case["body"].encode()
        )["webhook-signature"]
        for key in keys
    ]

    assert set(made) & set(given["webhook-signature"].split(" "))


@pytest.mark.parametrize("case", VECTORS["envelopes"], ids=named)
def test_an_envelope_is_an_event_of_the_document_and_signed(case: dict[str, Any]) -> None:
    document = openapi.document()
    schema = {"$ref": "#/components/schemas/Event", "components": document["components"]}
    key = signatures.key_of(SecretStr(case["secret"]))

    assert jsonschema_rs.Draft202012Validator(schema).is_valid(json.loads(case["body"]))
    assert case["headers"] == signatures.headers(
        [key], event_id=json.loads(case["body"])["id"], timestamp=case["now"], body=case["body"].encode()
    )


@pytest.mark.parametrize("case", VECTORS["errors"], ids=named)
def test_an_error_is_answered_as_the_case_says(case: dict[str, Any]) -> None:
    kind = getattr(errors, case["raised_as"])
    error = (
        kind(resume_from=case["resume_from"], newest=case["newest"])
        if kind is errors.PositionUnknown
        else kind(*DETAILS.get(case["raised_as"], ()))
    )

    assert json.loads(case["body"]) == problem(error, json.loads(case["body"])["request_id"])
    assert (case["status"], case["code"]) == (error.status, error.code())
    assert case["headers"].get("retry-after") == headers(error).get("retry-after")
    assert case["code"] in openapi.document()["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
