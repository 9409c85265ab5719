"""The virtual network: delays, loses, doubles, reorders, and cuts links, one direction at a time."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from simulation.world import World


class Weather(msgspec.Struct, frozen=True):
    """How bad the network is. Probabilities per message, delays in microseconds."""

    loss: float
    duplicate: float
    delay_min_us: int
    delay_max_us: int
    slow: float


CALM = Weather(0.0, 0.0, 100, 500, 0.0)
SLOW_US = 400_000


class Network:
    def __init__(self, world: World, weather: Weather) -> None:
        self._world = world
        self.weather = weather
        self.cut: dict[tuple[str, str], None] = {}
        self.fired: dict[str, int] = {}

    def send(self, source: str, target: str, label: str, deliver: Callable[[], None]) -> bool:
        """Deliver later, perhaps twice, perhaps never (then False)."""
        random, weather = self._world.random, self.weather
        if (source, target) in self.cut:
            return self._count("partitioned")
        if random.random() < weather.loss:
            return self._count("lost")
        copies = 2 if random.random() < weather.duplicate else 1
        if copies == 2:
            self._count("duplicated")
        for _ in range(copies):
            delay = random.randrange(weather.delay_min_us, weather.delay_max_us + 1)
            if random.random() < weather.slow:
                self._count("delayed")
                delay += random.randrange(SLOW_US)
            self._world.at(delay, f"{source}>{target} {label}", deliver)
        return True

    def partition(self, groups: list[list[str]], one_way: bool) -> None:
        """Only within a group messages pass; with `one_way` the cut holds from the first group alone."""
        for here in groups:
            for there in groups:
                if here is not there and (not one_way or here is groups[0]):
                    self.cut.update({(a, b): None for a in here for b in there})

    def heal(self) -> None:
        self.cut.clear()

    def _count(self, fault: str) -> bool:
        self.fired[fault] = self.fired.get(fault, 0) + 1
        return False
