"""Order without clocks: a number that every member raises with what it says and with what it hears.

Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System" (1978).
"""

from __future__ import annotations

MOST_AHEAD = 1 << 40
"""A time so far ahead is no clock's; it would use up the numbers of all."""


class LamportClock:
    def __init__(self) -> None:
        self.time = 0

    def tick(self) -> int:
        """The time of something new that this member says."""
        self.time += 1
        return self.time

    def witness(self, time: int) -> bool:
        """Something was heard that was said at this time. False if that cannot be."""
        if time > self.time + MOST_AHEAD:
            return False
        self.time = max(self.time, time)
        return True
