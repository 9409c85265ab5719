"""When a check runs: spread out at first, then one interval after each end. Pure.

Checks that were registered together must not probe together for ever, so each starts at its own random
point of its first interval. A run never overlaps with the one before: the next counts from its end.
"""

from __future__ import annotations

MIN_INTERVAL_S = 1.0


def first_delay_s(interval_s: float, random: float) -> float:
    """How long to wait before the first run. `random` is uniform in [0, 1)."""
    return max(interval_s, MIN_INTERVAL_S) * random


def next_run_s(ended_at_s: float, interval_s: float) -> float:
    """When to run again, on the clock on which the last run ended."""
    return ended_at_s + max(interval_s, MIN_INTERVAL_S)
