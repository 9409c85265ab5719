"""Virtual twins of the tier's ports: time that only a test moves, chance that is the same each run."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

WALL_MS = 1_700_000_000_000
"""What the wall clock showed when virtual time began."""


class VirtualTimer:
    """The `Timer` port. Nothing runs but inside `run()` and `pass_ms()`."""

    def __init__(self) -> None:
        self._now_ms = 1_000
        self._soon: list[Callable[[], None]] = []
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._called_off: dict[int, None] = {}
        self._next = 0
        self.stopwatch = self.each_look_us = 0

    def now_ms(self) -> int:
        return self._now_ms

    def wall_ms(self) -> int:
        return WALL_MS + self._now_ms

    def stopwatch_us(self) -> int:
        """Nothing takes any time, unless a test says so."""
        self.stopwatch += self.each_look_us
        return self.stopwatch

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_after(self, delay_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        self._next += 1
        number = self._next
        heapq.heappush(self._later, (self._now_ms + delay_ms, number, callback))

        def call_off() -> None:
            self._called_off[number] = None

        return call_off

    def run(self) -> None:
        """Everything that was to come soon, and what follows from it."""
        for _ in range(1_000_000):
            if not self._soon:
                return
            self._soon.pop(0)()
        raise AssertionError("it never comes to rest")

    def run_once(self) -> None:
        """One pass of a loop: what is due now, but not what that asks for."""
        due, self._soon = self._soon, []
        for callback in due:
            callback()

    def pass_ms(self, ms: int, *, tick: Callable[[], None] | None = None, every_ms: int = 50) -> None:
        """Let time go by, timers and all; `tick` is called as a ticker would."""
        end = self._now_ms + ms
        next_tick = self._now_ms + every_ms if tick is not None else end + 1
        self.run()
        while True:
            timer_at = self._later[0][0] if self._later else end + 1
            at = min(timer_at, next_tick)
            if at > end:
                break
            self._now_ms = max(self._now_ms, at)
            if at == timer_at:
                _, number, callback = heapq.heappop(self._later)
                if self._called_off.pop(number, False) is False:
                    callback()
            elif tick is not None:
                next_tick += every_ms
                tick()
            self.run()
        self._now_ms = end

    def be_late(self, ms: int) -> None:
        """An event lasts so long: timers that ran out meanwhile come before what was to come soon."""
        self._now_ms += ms
        while self._later and self._later[0][0] <= self._now_ms:
            _, number, callback = heapq.heappop(self._later)
            if self._called_off.pop(number, False) is False:
                callback()

    @property
    def timers(self) -> int:
        """Timers that still run."""
        return len(self._later) - len(self._called_off)


def chance(seed: int = 1) -> random.Random:
    """The `Random` port, the same each run."""
    return random.Random(seed)


class FixedChance:
    """Draws the one number it was given, a fraction of one."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value

    def randrange(self, stop: int, /) -> int:
        return int(self.value * stop)

    def randbytes(self, n: int, /) -> bytes:
        return bytes(n)
