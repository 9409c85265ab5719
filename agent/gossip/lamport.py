"""Order without clocks: a number that every member raises with what it says and with what it hears.

Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System" (1978).
"""

from __future__ import annotations

MOST_AHEAD = 1 << 20
"""An event so far ahead is nobody's: believed, it would make all others too old."""

MOST = 1 << 62
"""No clock goes further; a million events a second for a hundred thousand years."""


class LamportClock:
    def __init__(self) -> None:
        self.time = 0

    def tick(self) -> int:
        """The time of something new that this member says."""
        self.time += 1
        return self.time

    def witness(self, time: int) -> bool:
        """Something was heard that was said at this time. False if that cannot be."""
        if time > min(self.time + MOST_AHEAD, MOST):
            return False
        self.time = max(self.time, time)
        return True

    def catch_up(self, time: int) -> None:
        """The clock of one that was asked, which may be far ahead of one that has just begun.

        Whatever it shows, this one can go on from there.
        """
        self.time = max(self.time, min(time, MOST - MOST_AHEAD))
