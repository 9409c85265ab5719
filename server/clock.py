"""The clock that a leader adds to cluster time: its host's boot-time clock, but for leaps.

A host that was suspended, or whose hypervisor set its clock, finds an hour gone between two looks. Nobody
else has waited for that hour: what it would end (the names of writes under way, later leases) ended too
early. So one look adds `LEAP_MS` at most, a quarter of the shortest lease. Looks are a tick apart; a leader
that looks more seldom than that is late with everything, and deadlines may be late, never early.
"""

from __future__ import annotations

from gemot.server.ports import Timer

LEAP_MS = 250


class LeaderClock:
    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self.set(0)

    def set(self, at_ms: int) -> None:
        """It is `at_ms` now."""
        self._at_ms = at_ms
        self._looked_ms = self._timer.now_ms()

    def now_ms(self) -> int:
        now = self._timer.now_ms()
        passed, self._looked_ms = now - self._looked_ms, now
        self._at_ms += min(passed, LEAP_MS)
        return self._at_ms
