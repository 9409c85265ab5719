"""Cluster time goes with the leader's clock, and does not leap with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from gemot.server.clock import LEAP_MS, LeaderClock
from gemot.server.ports import Timer


class Host:
    """The one reading of a timer that matters."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms


@pytest.mark.parametrize(
    ("steps", "gone"),
    [
        ([50, 50, 50], 150),
        ([0, 0], 0),
        ([LEAP_MS], LEAP_MS),
        ([50, 3_600_000, 50], 100 + LEAP_MS),
        ([3_600_000, 3_600_000], 2 * LEAP_MS),
    ],
)
def test_time_goes_on_by_what_passed_between_two_looks_and_no_leap(steps: list[int], gone: int) -> None:
    host = Host()
    clock = LeaderClock(cast(Timer, host))
    clock.set(7_000)
    for step in steps:
        host.ms += step
        told = clock.now_ms()
    assert told == 7_000 + gone


def test_looking_often_adds_nothing() -> None:
    host = Host()
    clock = LeaderClock(cast(Timer, host))
    look: Callable[[], int] = clock.now_ms
    assert {look() for _ in range(10)} == {0}
