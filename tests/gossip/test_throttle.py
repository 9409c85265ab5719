"""One line of a kind in a while, and never more than so many kinds."""

from __future__ import annotations

from gemot.agent.gossip.throttle import EVERY_S, MOST, Throttle


def test_a_line_comes_again_after_a_while() -> None:
    throttle = Throttle()
    passed = [now for now in range(150) if throttle.passes("one", float(now))]
    assert passed == [0, int(EVERY_S), int(2 * EVERY_S)]
    assert throttle.passes("another", 1.0)


def test_of_too_many_kinds_the_others_wait() -> None:
    throttle = Throttle()
    assert [throttle.passes(str(number), 0.0) for number in range(MOST + 5)] == [True] * MOST + [False] * 5
    assert throttle.passes("late", EVERY_S)
