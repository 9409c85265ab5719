"""The virtual network: delays, loses, doubles, reorders, clogs, and cuts links, one direction at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from simulation.world import Owner, World

Link = tuple[str, str]


class Weather(msgspec.Struct, frozen=True):
    """How bad the network is. Probabilities per message, delays in microseconds."""

    loss: float
    duplicate: float
    delay_min_us: int
    delay_max_us: int
    slow: float


CALM = Weather(0.0, 0.0, 100, 500, 0.0)
SLOW_US = 400_000
WIDE_US = 5_000
"""Delays that differ by as much let messages overtake each other."""


class Network:
    def __init__(self, world: World, weather: Weather, fired: Callable[[str], None] = lambda _: None) -> None:
        self._world = world
        self.weather = weather
        self._cut: dict[Link, int] = {}
        self._clogged: dict[Link, list[tuple[str, Callable[[], None], Owner]]] = {}
        self._latest_us: dict[Link, int] = {}
        self._fired = fired

    def send(
        self,
        source: str,
        target: str,
        label: str,
        deliver: Callable[[], None],
        owner: Owner,
        content: object = None,
        *,
        once: bool = False,
    ) -> None:
        """Deliver later, perhaps never; perhaps twice, but for what a connection carries `once`.

        Raft's messages must bear being doubled, whatever carries them. A call is asked and answered once.
        """
        random, weather, link = self._world.random, self.weather, (source, target)
        if self._world.trace is not None:
            self._world.tell(f"{source} to {target}: {summary(content)}")
        if link in self._cut:
            return
        if random.random() < weather.loss:
            self._fired("loss")
            return
        copies = 2 if random.random() < weather.duplicate and not once else 1
        if copies == 2:
            self._fired("duplicate")
        for _ in range(copies):
            delay = random.randrange(weather.delay_min_us, weather.delay_max_us + 1)
            if random.random() < weather.slow:
                self._fired("delay")
                delay += random.randrange(SLOW_US)
            self._deliver(link, delay, f"{source}>{target} {label}", deliver, owner)

    def _deliver(self, link: Link, delay: int, label: str, deliver: Callable[[], None], owner: Owner) -> None:
        if link in self._clogged:
            self._clogged[link].append((label, deliver, owner))
            return
        at_us = self._world.now_us + delay
        if at_us < self._latest_us.get(link, 0):
            self._fired("reorder")
        else:
            self._latest_us[link] = at_us
        self._world.at(delay, label, deliver, owner)

    # -- cuts; each may be made by several faults at once, and holds until all of them are over ------------

    def cut(self, links: Iterable[Link]) -> Callable[[], None]:
        """Nothing passes on these links until what is returned is called."""
        mine = list(links)
        for link in mine:
            self._cut[link] = self._cut.get(link, 0) + 1

        def mend() -> None:
            for link in mine:
                if self._cut.get(link, 0) <= 1:
                    self._cut.pop(link, None)
                else:
                    self._cut[link] -= 1

        return mend

    def partition(self, groups: list[list[str]], one_way: bool) -> Callable[[], None]:
        """Only within a group messages pass; with `one_way` the cut holds from the first group alone."""
        return self.cut(
            (a, b)
            for here in groups
            for there in groups
            if here is not there and (not one_way or here is groups[0])
            for a in here
            for b in there
        )

    def clog(self, link: Link) -> Callable[[], None]:
        """What is sent on it waits, and comes all at once when it is free again."""
        self._clogged.setdefault(link, [])

        def free() -> None:
            for label, deliver, owner in self._clogged.pop(link, []):
                self._world.at(self._world.random.randrange(1_000), label, deliver, owner)

        return free

    def heal(self) -> None:
        self._cut.clear()
        for link in list(self._clogged):
            self.clog(link)()


def summary(content: object) -> str:
    """A message in one short line, for the trace."""
    if isinstance(content, msgspec.Struct):
        fields = (f"{name}={_short(getattr(content, name))}" for name in content.__struct_fields__)
        return f"{type(content).__name__}({', '.join(fields)})"
    return _short(content)


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 24:
        return f"<{len(value)} bytes>"
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
