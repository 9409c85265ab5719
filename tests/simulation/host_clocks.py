"""What the clocks of all hosts ran to between two moments: the bounds within which a lease must end.

Sooner than the fastest of them has run a lease nobody may end one. Later than the slowest has run it, while
there was a leader who could write, somebody should have.
"""

from __future__ import annotations

from bisect import bisect_right

from simulation.node import Node
from simulation.world import World

from gemot.server.clock import LEAP_MS

LOOK_US = 20_000
"""How often clocks are compared."""

QUIET_US = 300_000
"""For so long after the last commit the tier counts as serving."""


class HostClocks:
    """An actor: it looks at every clock, and at whether anything is committed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.nodes: list[Node] = []
        self.hosts: list[Node] = []
        self.stopped = False
        self._times: list[int] = [0]
        self._fastest: list[int] = [0]
        self._slowest: list[int] = [0]
        self._terms: list[int] = [0]
        self._last: list[int] = []
        self._commit = 0
        self._committed_us = -QUIET_US

    def start(self) -> None:
        now = [host.clock.now_us() for host in self.hosts]
        most = LEAP_MS * 1_000 + LOOK_US
        moved = [after - before for before, after in zip(self._last, now, strict=False)]
        gone = self._world.now_us - self._times[-1]
        self._last = now
        self._times.append(self._world.now_us)
        # No look at it adds more to the fastest than a leader's may.
        self._fastest.append(self._fastest[-1] + max([gone, *(min(each, most) for each in moved)]))
        rafts = [host.opened.raft for host in self.hosts if host.opened is not None]
        self._terms.append(max([self._terms[-1], *(raft.term for raft in rafts)]))
        serves = self._serves(max((raft.commit for raft in rafts), default=0))
        self._slowest.append(self._slowest[-1] + (min([gone, *moved]) if serves else 0))
        if not self.stopped:
            self._world.at(LOOK_US, "clocks are compared", self.start)

    def _serves(self, commit: int) -> bool:
        if commit > self._commit:
            self._commit, self._committed_us = commit, self._world.now_us
        return self._world.now_us - self._committed_us <= QUIET_US

    def fastest_us(self, began_us: int, ended_us: int) -> int:
        """Not less than it was: to the next look."""
        return self._fastest[self._look(ended_us, 1)] - self._fastest[self._look(began_us, 0)]

    def slowest_served_us(self, began_us: int, ended_us: int) -> int:
        """Not more than it was: from the next look on."""
        return max(0, self._slowest[self._look(ended_us, 0)] - self._slowest[self._look(began_us, 1)])

    def elections(self, began_us: int, ended_us: int) -> int:
        return self._terms[self._look(ended_us, 1)] - self._terms[self._look(began_us, 0)]

    def _look(self, us: int, after: int) -> int:
        at = bisect_right(self._times, us) - 1 + after
        return min(max(at, 0), len(self._times) - 1)
