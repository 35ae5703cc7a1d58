"""Many pieces of work at once: what one of them does is nothing to the others."""

import asyncio

import pytest

from aircall_oauth.errors import DatabaseAway
from aircall_oauth.installations.pool import Piece, work_off


async def test_a_piece_that_fails_ends_no_other_and_is_raised_when_all_have_ended() -> None:
    waiting, done = list(range(10)), list[int]()

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        if number == 3:
            raise RuntimeError(number)
        done.append(number)

    async def take(free: int) -> list[Piece]:
        taken, waiting[:] = waiting[:free], waiting[free:]
        return [work(number) for number in taken]

    with pytest.raises(RuntimeError):
        await work_off(take, at_once=4)

    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


async def test_where_nothing_can_be_taken_any_more_all_end() -> None:
    ended = list[bool]()
    given = iter([True])

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def take(_free: int) -> list[Piece]:
        if next(given, False):
            return [wait_for_ever()]
        raise DatabaseAway

    with pytest.raises(DatabaseAway):
        await work_off(take, at_once=4)

    assert ended == [True]
