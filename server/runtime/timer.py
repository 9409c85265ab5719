"""The event loop as the `Timer` port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class LoopTimer:
    """Real time. `now_ms` is the boot-time clock: it goes on while the host is suspended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call_after(self, delay_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        return self._loop.call_later(delay_ms / 1000, callback).cancel

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def now_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def stopwatch_us(self) -> int:
        return time.perf_counter_ns() // 1_000


class Ticker:
    """Calls back at a steady pace. A late loop skips beats instead of making them up in a burst."""

    def __init__(
        self, *, loop: asyncio.AbstractEventLoop, every_ms: int, callback: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._every_s = every_ms / 1000
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self.lag_s = 0.0

    def start(self) -> None:
        self._due = self._loop.time() + self._every_s
        self._handle = self._loop.call_at(self._due, self._beat)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _beat(self) -> None:
        now = self._loop.time()
        self.lag_s = max(0.0, now - self._due)
        self._due = max(self._due + self._every_s, now + self._every_s / 2)
        self._handle = self._loop.call_at(self._due, self._beat)
        self._callback()
