"""The sample receiver's page: bodies, repeats and what it refused."""

import base64
import hashlib
import hmac
import json
import time

import httpx

from aircall_oauth.sandbox import receiver

KEY = b"k" * 32


def signed(body: bytes, event_id: str) -> dict[str, str]:
    moment = str(int(time.time()))
    made = hmac.new(KEY, f"{event_id}.{moment}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(made).decode()}"
    return {"webhook-id": event_id, "webhook-timestamp": moment, "webhook-signature": signature}


async def test_the_page_shows_bodies_repeats_and_failures() -> None:
    transport = httpx.ASGITransport(receiver.create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        await client.put("/secret", json={"secret": f"whsec_{base64.b64encode(KEY).decode()}"})
        body = json.dumps({"id": "evt_1", "type": "call.ended", "position": 7, "data": {"x": "<b>"}}).encode()
        for _ in range(2):
            assert (await client.post("/hook", content=body, headers=signed(body, "evt_1"))).status_code == 204
        refused = await client.post("/hook", content=b"<i>wrong", headers=signed(body, "evt_2"))

        page, part = (await client.get("/")).text, (await client.get("/shown")).text

    assert refused.status_code == 401
    assert part in page
    assert "width=device-width" in page
    assert "http-equiv" not in page
    assert "1 events" in part
    assert "1 repeats dropped" in part
    assert "&quot;x&quot;: &quot;&lt;b&gt;&quot;" in part
    assert "&lt;i&gt;wrong" in part
    assert "<i>" not in part
