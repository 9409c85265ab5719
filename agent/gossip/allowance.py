"""How many more may be taken now: a bucket that fills steadily up to its brim (a token bucket).

Pure: the time is handed in.
"""

from __future__ import annotations


class Allowance:
    """`burst` at once, and `each_s` a second when it goes on."""

    def __init__(self, burst: int, each_s: float) -> None:
        self._burst = burst
        self._each_s = each_s
        self._left = float(burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """May one more be taken? Then it is."""
        if self._at_s is not None:
            self._left = min(self._burst, self._left + self._each_s * max(0.0, now_s - self._at_s))
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
