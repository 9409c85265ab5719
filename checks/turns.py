"""Whose turn it is: so many at the same time, of whom those that hang do not hold up the others.

Who works takes a turn. Who still has it after a second waits for somebody else (a peer that is silent, a
program that sleeps), which costs little: the turn goes to the next in line, and who hangs is only counted. No
more than so many hang without a turn: one more keeps its own until there is room. What it is not: a timeout.
Nobody is interrupted here.
"""

from __future__ import annotations

import asyncio

HANGS_AFTER_S = 1.0


class Turns:
    """For one event loop. No more than `working` and `hanging` together are under way at any time."""

    def __init__(self, *, working: int, hanging: int, hangs_after_s: float = HANGS_AFTER_S) -> None:
        self.hangs_after_s = hangs_after_s
        self.free = asyncio.Semaphore(working)
        self.may_hang = hanging

    def turn(self) -> Turn:
        """`async with` it: waited for in the order of asking."""
        return Turn(self)


class Turn:
    """One turn of one that works, until it ends."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._hangs = False

    async def __aenter__(self) -> None:
        await self._turns.free.acquire()
        self._watch()

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._hangs:
            self._turns.may_hang += 1
        else:
            self._turns.free.release()

    def _watch(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._turns.hangs_after_s, self._on_hanging)

    def _on_hanging(self) -> None:
        if not self._turns.may_hang:
            self._watch()
            return
        self._hangs = True
        self._turns.may_hang -= 1
        self._turns.free.release()
