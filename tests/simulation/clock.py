"""The clock of one simulated host, and the `Timer` port over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation.world import World

from gemot.server.pace import SLICE_US

if TYPE_CHECKING:
    from simulation.node import Node


class Clock:
    """The boot-time clock of one host: fast, slow, stepped or stuck, and never back."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._base_us = 0.0
        self._since_us = 0
        self.rate = 1.0

    def now_us(self) -> int:
        return int(self._base_us + (self._world.now_us - self._since_us) * self.rate)

    def turn(self, rate: float, step_us: int = 0) -> None:
        """From now on it goes at this rate, after a step forward."""
        self._base_us, self._since_us = float(self.now_us() + step_us), self._world.now_us
        self.rate = rate

    def real_us(self, local_us: int) -> int:
        """How long it takes until so much has passed on this clock; a clock that stands is not waited for."""
        return int(local_us / self.rate) if self.rate > 0 else local_us


WALL_MS = 1_700_000_000_000
"""What the wall clock of every host showed when the world began."""


class SimulatedTimer:
    """Virtual time as the `Timer` port; dead with its process."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        self._life = node.life
        self._stopwatch_us = 0

    def call_after(self, delay_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        return self._node.later(
            self._node.clock.real_us(delay_ms * 1000), f"{self._node.name} timer", callback, self._life
        )

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._world.soon(lambda: callback() if self._node.life == self._life else None, self._node)

    def now_ms(self) -> int:
        return self._node.clock.now_us() // 1000

    def wall_ms(self) -> int:
        """As wrong as the clock of its host."""
        return WALL_MS + self.now_ms()

    def stopwatch_us(self) -> int:
        """Each server is quick or slow at its work by chance, so their slices differ."""
        self._stopwatch_us += self._world.random.randrange(2 * SLICE_US)
        return self._stopwatch_us
