"""The campaign's oracle can fail: a run in which all is well, and each way in which one promise alone is broken."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.oracle import judge
from tests.crash.records import Attempt, Call, Occurrence, Reading, Records, Sent, Standing, Stored, Taken, Window

INSTALLATIONS = ("ins_a", "ins_b")
FAST = tuple(0.05 for _ in range(100))
SLOW = tuple(10.0 for _ in range(100))


def a_good_run() -> Records:
    """Sixty events of two installations, all answered, stored, followed and delivered."""
    records = Records(budget_per_minute=60)
    for number in range(1, 61):
        installation_id = INSTALLATIONS[number % 2]
        at = float(number)
        records.sent[number] = Sent(number, [Attempt(at, at + 0.1, 200)])
        records.stored.append(Stored(number, f"evt_{number}", installation_id, "call.created", "acme", number))
    taken = [
        Taken(
            row.position + 0.2, row.position, row.event_id, row.installation_id, row.number, f"call:{row.position // 4}"
        )
        for row in records.stored
    ]
    records.followed = [(row.position, row.event_id) for row in records.stored]
    records.readings = [
        Reading("steady", taken=list(taken)),
        Reading("ordered", order="installation", taken=list(taken)),
        Reading("by subject", order="subject", taken=list(taken)),
        Reading("contacts", wants=lambda row: row.type.startswith("contact.")),
    ]
    records.windows = [Window(hostile, FAST) for hostile in (False, True) * 4]
    records.peak_memory = {"web 1": 150 * 1024**2}
    records.calls = [Call(1000.0 + number, 1) for number in range(60)]
    records.standings = [
        Standing("ins_a", "active", webhook_on=True, integration_on=True),
        Standing("ins_b", "removed", webhook_on=False, integration_on=False),
    ]
    records.occurrences = [Occurrence("kill -9", 20.0, 22.0, "web 1")]
    return records


def an_event_is_lost(records: Records) -> None:
    lost = records.stored.pop(29)
    records.followed.remove((lost.position, lost.event_id))


def an_event_is_stored_twice(records: Records) -> None:
    again = replace(records.stored[3], position=61, event_id="evt_61")
    records.stored.append(again)
    records.followed.append((61, "evt_61"))
    for reading in records.readings[:3]:
        reading.taken.append(Taken(70.0, 61, "evt_61", again.installation_id))


def the_follower_skips_an_event(records: Records) -> None:
    del records.followed[10]


def the_follower_skips_what_came_last(records: Records) -> None:
    records.followed.pop()


def the_follower_reads_an_event_twice(records: Records) -> None:
    records.followed.insert(10, records.followed[9])


def the_follower_reads_backwards(records: Records) -> None:
    records.followed[10], records.followed[11] = records.followed[11], records.followed[10]


def the_follower_reads_what_the_log_lost(records: Records) -> None:
    records.followed.append((61, "evt_61"))


def a_delivery_is_missing(records: Records) -> None:
    del records.readings[0].taken[5]


def a_filtered_delivery_is_missing(records: Records) -> None:
    records.stored.append(Stored(61, "evt_61", "ins_a", "contact.created"))
    records.followed.append((61, "evt_61"))
    for reading in records.readings[:3]:
        reading.taken.append(Taken(70.0, 61, "evt_61", "ins_a"))


def a_later_event_of_an_installation_is_taken_first(records: Records) -> None:
    taken = records.readings[1].taken
    taken[10], taken[12] = taken[12], taken[10]


def a_later_event_about_a_call_is_taken_first(records: Records) -> None:
    taken = records.readings[2].taken
    assert taken[4].subject == taken[6].subject
    taken[4], taken[6] = taken[6], taken[4]


def every_attempt_is_refused_for_long(records: Records) -> None:
    refused = [Attempt(21.0 + 2 * number, 21.1 + 2 * number, 503) for number in range(10)]
    records.sent[21].attempts[:0] = refused


def no_attempt_is_answered_for_long(records: Records) -> None:
    records.sent[21] = Sent(21, [Attempt(21.0 + 7 * number, 26.0 + 7 * number, None) for number in range(3)])


def a_refusal_outlasts_its_excuse(records: Records) -> None:
    records.excused.append((21.0, 24.0))
    every_attempt_is_refused_for_long(records)


def a_hostile_tenant_slows_all_down(records: Records) -> None:
    records.windows = [Window(window.hostile, SLOW if window.hostile else FAST) for window in records.windows]


def a_hostile_tenant_slows_the_slowest_down(records: Records) -> None:
    tail = (*FAST[:95], *SLOW[:5])
    records.windows = [Window(window.hostile, tail if window.hostile else FAST) for window in records.windows]


def a_process_grows(records: Records) -> None:
    records.peak_memory["web 1"] = 401 * 1024**2


def a_door_answers_500(records: Records) -> None:
    records.failures.append("web 1: POST /v1/claims answered 500")


def postgres_sees_a_deadlock(records: Records) -> None:
    records.deadlocks.append("PostgreSQL: deadlock detected")


def a_webhook_stays_off(records: Records) -> None:
    records.standings[0] = replace(records.standings[0], webhook_on=False)


def an_integration_stays_off(records: Records) -> None:
    records.standings[0] = replace(records.standings[0], integration_on=False)


def aircall_is_asked_once_too_often(records: Records) -> None:
    records.calls.append(Call(1030.5, 1))


def aircall_is_asked_twice_as_much_and_more_as_a_clock_was_set(records: Records) -> None:
    records.clock_set_at.append(1030.0)
    records.calls += [Call(1030.5 + number / 100, 1) for number in range(61)]


WAYS: list[tuple[int, Callable[[Records], None]]] = [
    (1, an_event_is_lost),
    (1, an_event_is_stored_twice),
    (2, the_follower_skips_an_event),
    (2, the_follower_skips_what_came_last),
    (2, the_follower_reads_an_event_twice),
    (2, the_follower_reads_backwards),
    (2, the_follower_reads_what_the_log_lost),
    (3, a_delivery_is_missing),
    (3, a_filtered_delivery_is_missing),
    (4, a_later_event_of_an_installation_is_taken_first),
    (4, a_later_event_about_a_call_is_taken_first),
    (5, every_attempt_is_refused_for_long),
    (5, no_attempt_is_answered_for_long),
    (5, a_refusal_outlasts_its_excuse),
    (6, a_hostile_tenant_slows_all_down),
    (6, a_hostile_tenant_slows_the_slowest_down),
    (7, a_process_grows),
    (8, a_door_answers_500),
    (8, postgres_sees_a_deadlock),
    (9, a_webhook_stays_off),
    (9, an_integration_stays_off),
    (10, aircall_is_asked_once_too_often),
    (10, aircall_is_asked_twice_as_much_and_more_as_a_clock_was_set),
]


def broken(records: Records) -> list[int]:
    return [verdict.number for verdict in judge(records) if not verdict.holds]


def test_a_good_run_is_called_good() -> None:
    assert [] == broken(a_good_run())
    assert [*range(1, 11)] == [verdict.number for verdict in judge(a_good_run())]


@pytest.mark.parametrize(("number", "happens"), WAYS, ids=[way.__name__ for _, way in WAYS])
def test_a_broken_promise_is_found_and_no_other_one(number: int, happens: Callable[[Records], None]) -> None:
    records = a_good_run()

    happens(records)

    assert [number] == broken(records)


def test_a_repeated_delivery_and_a_repeated_post_break_nothing() -> None:
    """What every promise allows: at least once to a destination, and Aircall's own repeats."""
    records = a_good_run()

    records.readings[1].taken.append(replace(records.readings[1].taken[3], at=90.0))
    records.sent[5].attempts.append(Attempt(90.0, 90.1, 200))

    assert [] == broken(records)


def test_events_about_different_calls_may_overtake_each_other() -> None:
    records = a_good_run()

    taken = records.readings[2].taken
    assert taken[2].subject != taken[3].subject
    taken[2], taken[3] = taken[3], taken[2]

    assert [] == broken(records)


def test_a_refusal_while_nothing_could_be_stored_is_excused() -> None:
    records = a_good_run()
    records.excused.append((21.0, 35.0))

    every_attempt_is_refused_for_long(records)

    assert [] == broken(records)


def test_an_event_with_a_token_that_aircall_changed_is_no_refusal() -> None:
    records = a_good_run()

    records.sent[21].attempts[:0] = [Attempt(21.0 + number, 21.1 + number, 401) for number in range(20)]

    assert [] == broken(records)


def test_a_minute_begins_anew_where_the_clock_was_set() -> None:
    records = a_good_run()

    records.clock_set_at.append(1030.0)
    records.calls += [Call(1030.5 + number / 100, 1) for number in range(30)]

    assert [] == broken(records)


def test_on_a_machine_that_others_use_what_depends_on_time_has_more_of_it() -> None:
    records = a_good_run()
    records.others_share = 0.6

    every_attempt_is_refused_for_long(records)
    assert [] == broken(records)

    a_hostile_tenant_slows_all_down(records)
    assert [6] == broken(records)


def test_too_few_events_say_nothing_of_a_p99() -> None:
    records = a_good_run()
    records.windows = [Window(window.hostile, (10.0,) if window.hostile else FAST) for window in records.windows]

    assert [] == broken(records)
    assert "not judged" in judge(records)[5].judged_by


def test_a_subscription_need_not_be_told_of_itself() -> None:
    records = a_good_run()
    records.stored.append(Stored(61, "evt_61", "", "subscription.down", about="steady"))
    records.followed.append((61, "evt_61"))
    for reading in records.readings[1:3]:
        reading.taken.append(Taken(62.0, 61, "evt_61", ""))

    assert all(verdict.holds for verdict in judge(records))
    del records.readings[1].taken[-1]
    assert [verdict.number for verdict in judge(records) if not verdict.holds] == [3]
