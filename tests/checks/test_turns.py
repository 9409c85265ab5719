"""Turns: who gets one, in what order, and what those that hang leave to the others."""

from __future__ import annotations

import asyncio

import pytest
from support.http_agent import run, until

from gemot.checks.turns import Turns

NEVER_S = 3600.0


class Line:
    """Workers who note that their turn came, and work until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self.began: list[int] = []
        self._turns = turns
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def queue(self, *workers: int) -> None:
        for worker in workers:
            self._tasks[worker] = asyncio.create_task(self._work(worker))

    async def end(self, *workers: int) -> None:
        for worker in workers:
            self._tasks[worker].cancel()
        await asyncio.wait([self._tasks[worker] for worker in workers])

    async def _work(self, worker: int) -> None:
        async with self._turns.turn():
            self.began.append(worker)
            await asyncio.Event().wait()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_turns_come_in_the_order_of_asking() -> None:
    async def work() -> None:
        line = Line(Turns(working=2, hanging=0, hangs_after_s=NEVER_S))
        line.queue(1, 2, 3, 4)
        await settled()
        assert line.began == [1, 2]
        await line.end(2)
        await settled()
        assert line.began == [1, 2, 3]
        await line.end(1, 3, 4)

    run(work())


def test_who_hangs_leaves_its_turn_to_the_next_and_so_many_at_most_do() -> None:
    async def work() -> None:
        line = Line(Turns(working=1, hanging=3, hangs_after_s=0.001))
        line.queue(*range(10))
        await until(lambda: len(line.began) == 4)
        await settled()
        assert line.began == [0, 1, 2, 3]
        await line.end(*range(10))

    run(work())


def test_who_keeps_its_turn_while_too_many_hang_leaves_it_once_one_of_them_ends() -> None:
    async def work() -> None:
        line = Line(Turns(working=1, hanging=1, hangs_after_s=0.001))
        line.queue(0, 1, 2)
        await until(lambda: len(line.began) == 2)
        await settled()
        assert line.began == [0, 1]
        await line.end(0)
        await until(lambda: line.began == [0, 1, 2])
        await line.end(1, 2)

    run(work())


@pytest.mark.parametrize("hangs_after_s", [0.001, NEVER_S])
def test_after_all_have_ended_there_are_as_many_turns_as_before(hangs_after_s: float) -> None:
    async def work() -> None:
        line = Line(Turns(working=2, hanging=1, hangs_after_s=hangs_after_s))
        most = 3 if hangs_after_s < 1 else 2
        for _ in range(3):
            line.began.clear()
            line.queue(*range(5))
            await until(lambda: len(line.began) == most)
            await settled()
            assert line.began == list(range(most))
            await line.end(*reversed(range(5)))  # those who wait first: nobody gets a turn of those who end

    run(work())
