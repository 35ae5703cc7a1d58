"""An inbox takes each delivery once, whatever is repeated, fails or dies, in every kind of memory."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aircall_oauth_client import Event, HandlerFailed, Inbox, SqlSeen, inbox, sqlite_seen

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def delivery(number: int = 1, type_: str = "call.ended", **headers: str) -> tuple[dict[str, str], bytes]:
    import base64
    import hmac

    body = json.dumps({"id": f"evt_{number}", "position": number, "type": type_, "data": {}}).encode()
    timestamp = str(int(time.time()))
    signed = f"evt_{number}.{timestamp}.".encode() + body
    made = base64.b64encode(hmac.digest(base64.b64decode(SECRET.removeprefix("whsec_")), signed, "sha256")).decode()
    head = {"webhook-id": f"evt_{number}", "webhook-timestamp": timestamp, "webhook-signature": f"v1,{made}"}
    return head | {name.replace("_", "-"): value for name, value in headers.items()}, body


class Handled:
    """Keeps what it was handed; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.events: list[Event] = []
        self.failures = failures

    def __call__(self, event: Event) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not now")
        self.events.append(event)

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "seen.sqlite")


def test_a_delivery_is_handed_over_once(path: str) -> None:
    handled = Handled()
    one, another = (Inbox(SECRET, on={"call.ended": handled}, seen=path) for _ in range(2))

    answers = [each.take(*delivery(number)).status for number in (1, 1, 2) for each in (one, another)]

    assert (set(answers), handled.ids) == ({204}, ["evt_1", "evt_2"])


def test_what_failed_comes_again(path: str) -> None:
    handled = Handled(failures=1)
    taking = Inbox(SECRET, on={"call.*": handled}, seen=path)

    with pytest.raises(HandlerFailed) as failed:
        taking.take(*delivery())

    assert isinstance(failed.value.__cause__, RuntimeError)

    assert handled.ids == []
    assert taking.take(*delivery()).status == 204
    assert handled.ids == ["evt_1"]


def test_what_another_process_is_at_is_put_off_until_its_lease_ends(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sqlite_seen(path).begin("evt_1") is True
    handled = Handled()
    taking = Inbox(SECRET, on={"*": handled}, seen=path)

    answer = taking.take(*delivery())

    assert (answer.status, answer.headers["retry-after"], handled.ids) == (503, "5", [])
    monkeypatch.setattr(inbox, "LEASE_SECONDS", -1)
    assert taking.take(*delivery()).status == 204
    assert handled.ids == ["evt_1"]


def test_a_replay_is_handed_over_again_but_not_its_repeats(path: str) -> None:
    handled = Handled()
    taking = Inbox(SECRET, on={"*": handled}, seen=path)

    for replay in ("", "rpl_1", "rpl_1", "rpl_2"):
        taking.take(*delivery(webhook_replay=replay) if replay else delivery())

    assert len(handled.ids) == 3


def test_only_the_functions_of_its_type_are_called_and_others_are_taken(path: str) -> None:
    calls, ended, all_ = Handled(), Handled(), Handled()
    taking = Inbox(SECRET, on={"call.*": calls, "call.ended": ended, "*": all_}, seen=path)

    answers = [taking.take(*delivery(n, kind)).status for n, kind in enumerate(["call.ended", "call.x", "user.x"])]

    assert answers == [204, 204, 204]
    assert [len(each.events) for each in (calls, ended, all_)] == [2, 1, 3]


def test_what_is_not_signed_is_refused_and_nothing_of_it_kept(path: str) -> None:
    handled = Handled()
    taking = Inbox(SECRET, on={"*": handled}, seen=path)
    headers, body = delivery()

    assert taking.take(headers, body + b" ").status == 401
    assert taking.take({}, body).status == 401
    assert taking.take(headers, body).status == 204
    assert handled.ids == ["evt_1"]


def test_a_function_may_say_what_is_new() -> None:
    known = {"evt_1"}
    handled = Handled()
    taking = Inbox(SECRET, on={"*": handled}, seen=lambda delivery: delivery not in known)

    assert [taking.take(*delivery(number)).status for number in (1, 2)] == [204, 204]
    assert handled.ids == ["evt_2"]


def test_an_inbox_without_a_secret_is_refused() -> None:
    for secrets in ((), ("",)):
        with pytest.raises(ValueError, match="secret"):
            Inbox(*secrets, on={}, seen=":memory:")


async def test_asynchronous_functions_are_waited_for_and_plain_ones_run_beside(path: str) -> None:
    handled: list[str] = []

    async def slow(event: Event) -> None:
        await asyncio.sleep(0)
        handled.append(event["id"])

    taking = Inbox(SECRET, on={"*": slow, "call.*": lambda event: handled.append(event["type"])}, seen=path)

    answers = await asyncio.gather(*(taking.take_async(*delivery(1)) for _ in range(5)))

    assert {answer.status for answer in answers} <= {204, 503}
    assert handled == ["evt_1", "call.ended"]
    with pytest.raises(HandlerFailed) as failed, pytest.warns(RuntimeWarning):
        taking.take(*delivery(2))
    assert "asynchronous" in str(failed.value.__cause__)


def test_old_memories_are_deleted_at_the_start(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handled = Handled()
    Inbox(SECRET, on={"*": handled}, seen=path).take(*delivery())

    monkeypatch.setattr(inbox, "KEPT_SECONDS", -1)
    Inbox(SECRET, on={"*": handled}, seen=path).take(*delivery())

    assert handled.ids == ["evt_1", "evt_1"]


Memory = Callable[[], Any]


def check_memory(connect: Memory, mark: str) -> None:
    """What every database's memory must do."""
    one, another = SqlSeen(connect, mark=mark), SqlSeen(connect, mark=mark)
    assert one.begin("a") is True
    assert another.begin("a") is None
    one.finish("a")
    assert another.begin("a") is False
    assert another.begin("b") is True
    another.forget("b")
    assert one.begin("b") is True
    one.forget("a")
    assert one.begin("a") is False


def test_sqlite_remembers(path: str) -> None:
    import sqlite3

    check_memory(lambda: sqlite3.connect(path), "?")
