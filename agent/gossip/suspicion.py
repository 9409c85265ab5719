"""One suspicion: how long the suspected member still has to refute it.

It begins with the most time there is, and each other member that independently suspects the same one brings
the end nearer, by the logarithm of how many do (Lifeguard, section IV.B): a lonely suspicion says more about
who has it than about the suspected.
"""

from __future__ import annotations

import math


class Suspicion:
    def __init__(self, *, by: str, now_ms: int, expected: int, least_ms: int, most_ms: int) -> None:
        """`expected` confirmations bring it down to `least_ms`; with 0 it lasts `least_ms` from the start."""
        assert 0 < least_ms <= most_ms, "a suspicion lasts some time"
        self.by = by
        self._by = {by: None}
        self._began_ms = now_ms
        self._expected = expected
        self._least_ms = least_ms
        self._most_ms = most_ms
        self._lasts_ms = self._time_left()
        self._anew = False

    @property
    def confirmations(self) -> int:
        return len(self._by) - 1

    @property
    def deadline_ms(self) -> int:
        return self._began_ms + self._lasts_ms

    def _time_left(self) -> int:
        if self._expected == 0:
            return self._least_ms
        share = math.log(self.confirmations + 1) / math.log(self._expected + 1)
        return round(max(self._least_ms, self._most_ms - share * (self._most_ms - self._least_ms)))

    def confirm(self, by: str) -> bool:
        """True if that is news and counts: it is to be passed on."""
        if by in self._by or self.confirmations >= self._expected:
            return False
        self._by[by] = None
        self._lasts_ms = self._time_left()
        return True

    def put_off(self, ms: int) -> None:
        """This member itself was not there for so long: it could have heard no refutation."""
        self._began_ms += ms

    def begin_anew(self, now_ms: int) -> None:
        """What it began for may be as little as that this member was cut off.

        Once: where most are silent a survivor hears others so seldom that it may take itself for cut off
        time and again, and a suspicion that always begins anew never ends.
        """
        if not self._anew:
            self._anew = True
            self._began_ms = now_ms
