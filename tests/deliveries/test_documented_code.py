"""The code that `docs/deliveries.md` shows a partner does what the page says."""

import base64
import json
import re
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from aircall_oauth.deliveries.destinations import signatures
from aircall_oauth.sandbox import receiver
from tests.support.tools import tool

PAGE = Path(__file__).parents[2] / "docs" / "deliveries.md"
BODY = '{"id": "evt_1", "data": {"n": 1.50, "u": "é"}}'.encode()


def code(language: str) -> str:
    found = re.search(rf"<!-- code: {language} -->\n```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


def delivery(*secrets: str, age_seconds: int = 0) -> dict[str, str]:
    """The headers of a delivery that these secrets sign."""
    keys = [signatures.key_of(SecretStr(secret)) for secret in secrets]
    return signatures.headers(keys, event_id="evt_1", timestamp=int(time.time()) - age_seconds, body=BODY)


def cases() -> list[tuple[bool, str, dict[str, str], bytes]]:
    """Whether it is genuine, the receiver's secret, headers, body."""
    secret, other = (signatures.new_secret().get_secret_value() for _ in range(2))
    good = delivery(secret)
    return [
        (True, secret, good, BODY),
        (True, secret, delivery(other, secret), BODY),
        (True, secret, delivery(secret, other), BODY),
        (False, other, good, BODY),
        (False, secret, good, BODY + b" "),
        (False, secret, good | {"webhook-id": "evt_2"}, BODY),
        (False, secret, good | {"webhook-timestamp": str(int(time.time()) + 1)}, BODY),
        (False, secret, good | {"webhook-signature": "v1,AAAA"}, BODY),
        (False, secret, good | {"webhook-timestamp": "soon"}, BODY),
        (False, secret, delivery(secret, age_seconds=600), BODY),
    ]


def test_the_python_code_verifies_and_drops_repeats() -> None:
    shown: dict[str, Any] = {}
    exec(code("python"), shown)
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE inbox (id TEXT PRIMARY KEY, body BLOB)")

    for genuine, secret, headers, body in cases():
        assert shown["take"](database, secret, headers, body) == (204 if genuine else 401)

    assert database.execute("SELECT id, body FROM inbox").fetchall() == [("evt_1", BODY)]
    database.close()


def test_the_sample_receiver_judges_alike() -> None:
    for genuine, secret, headers, body in cases():
        assert receiver.is_genuine(secret, headers, body) is genuine


JAVASCRIPT = """
import { take } from "./shown.mjs";
import { readFileSync } from "node:fs";
const seen = new Map();
const statuses = JSON.parse(readFileSync(0)).map(
  ([secret, headers, body]) => take(seen, secret, headers, Buffer.from(body, "base64")));
console.log(JSON.stringify({ statuses, seen: [...seen.keys()] }));
"""


def test_the_javascript_code_verifies_and_drops_repeats(tmp_path: Path) -> None:
    node = tool("node")
    (tmp_path / "shown.mjs").write_text(code("javascript"))
    (tmp_path / "run.mjs").write_text(JAVASCRIPT)
    told = cases()
    given = json.dumps([[secret, headers, base64.b64encode(body).decode()] for _, secret, headers, body in told])

    ran = subprocess.run([node, tmp_path / "run.mjs"], input=given, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    expected = {"statuses": [204 if genuine else 401 for genuine, *_ in told], "seen": ["evt_1"]}
    assert json.loads(ran.stdout) == expected
