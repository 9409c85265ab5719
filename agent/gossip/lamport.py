"""Order without clocks: a number that every member raises with what it says and with what it hears.

Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System" (1978).
"""

from __future__ import annotations

MOST_AHEAD = 1 << 28
"""An event so far ahead is nobody's: believed again and again, such would use up the numbers."""

STEP = MOST_AHEAD // 4
"""The most by which one exchange moves a clock: 12 days of 64 events a second, a century of one a minute.

What is said after a few of them, from whatever others show, is not too far ahead for those that were shown
nothing.
"""

MOST = 1 << 62
"""No clock goes further; a million events a second for a hundred thousand years."""


class LamportClock:
    def __init__(self) -> None:
        self.time = 0

    def tick(self) -> int:
        """The time of something new that this member says."""
        self.time += 1
        return self.time

    def may_show(self, time: int) -> bool:
        """Can something have been said at this time?"""
        return time <= min(self.time + MOST_AHEAD, MOST)

    def witness(self, time: int) -> None:
        """Something was heard that was said at this time, which may be (`may_show`)."""
        self.time = max(self.time, time)

    def catch_up(self, time: int) -> None:
        """An exchange showed this clock, which may be far ahead of one that has just begun, or a lie.

        It is approached by steps, so one that lies to a newcomer does not set it apart from all others; and
        who is far behind comes nearer with each exchange.
        """
        self.time = max(self.time, min(time, self.time + STEP, MOST - MOST_AHEAD))
