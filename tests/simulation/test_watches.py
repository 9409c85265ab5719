"""The checker of watches: a right story passes, and each broken promise is seen."""

from __future__ import annotations

import pytest
from simulation.watches import Awoken, Told, Value, Watched, check_watches
from simulation.witness import Effect, Seen, Violation

KEY = b"key1"
ONE = Watched(KEY)
ALL = Watched(b"key", prefix=True)

EFFECTS = [
    Effect(5, "set", KEY, b"a", None),
    Effect(6, "set", b"key2", b"x", None),
    Effect(7, "set", KEY, b"b", 5),
    Effect(8, "set", KEY, b"no", 5),
    Effect(9, "set", b"other", b"o", None),
    Effect(10, "delete", b"key2", None, None),
]
SWEPT = [*EFFECTS, Effect(11, "delete-prefix", b"key", None, None)]
ACKNOWLEDGED = [
    Seen("set", KEY, 0, 10, 5, b"a", None, True),
    Seen("set", KEY, 20, 30, 7, b"b", 5, True),
    Seen("set", KEY, 20, 30, 8, b"no", 5, False),
]


def _awoken(asked: int, index: int, value: bytes | None, began: int = 0, watcher: str = "w") -> Awoken:
    return Awoken(watcher, ONE, began, asked, index, {KEY: value} if value is not None else {})


def _told(index: int, value: Value | None) -> Told:
    return Told("s", ALL, index, value)


BOTH = {KEY: b"a", b"key2": b"x"}
LAST = {KEY: b"b"}

GOOD = {
    "one after another": [_awoken(0, 5, b"a"), _awoken(5, 7, b"b"), _awoken(7, 7, b"b")],
    "the state between is skipped": [_awoken(0, 0, None), _awoken(0, 7, b"b")],
    "not there, with the table's index": [_awoken(0, 4, None), _awoken(4, 7, b"b")],
    "two watchers do not mix": [
        _awoken(0, 7, b"b"),
        _awoken(0, 5, b"a", watcher="v"),
        _awoken(5, 7, b"b", watcher="v"),
    ],
}

BAD = {
    "the index goes back": ([_awoken(0, 7, b"b"), _awoken(0, 5, b"a")], "goes back"),
    "the answer is below what was asked": ([_awoken(7, 5, b"a")], "goes back"),
    "the last change is missed": ([_awoken(0, 5, b"a")], "was missed"),
    "a timeout hides the last change": ([_awoken(0, 5, b"a"), _awoken(5, 5, b"a")], "was missed"),
    "the index is new, the state is old": ([_awoken(0, 7, b"a")], "not what was there"),
    "the state is new, the index is old": ([_awoken(0, 5, b"b"), _awoken(5, 7, b"b")], "not what was there"),
    "the state of a compare that failed": ([_awoken(0, 8, b"no")], "not what was there"),
    "woken by another key": ([_awoken(0, 7, b"b"), _awoken(7, 9, b"b")], "nothing had changed"),
    "woken by a compare that failed": ([_awoken(0, 7, b"b"), _awoken(7, 8, b"b")], "nothing had changed"),
    "older than the question": (
        [_awoken(0, 5, b"a", began=31), _awoken(5, 7, b"b")],
        "older than its question",
    ),
    "nothing new, when there was": (
        [_awoken(0, 5, b"a", began=11), _awoken(5, 5, b"a", began=31), _awoken(5, 7, b"b")],
        "older than its question",
    ),
    "a present key is told as gone": ([_awoken(0, 5, b"a"), _awoken(5, 7, None)], "not what was there"),
}

SUBSCRIPTIONS = {
    "one told twice": ([_told(6, BOTH), _told(6, BOTH)], "not newer"),
    "an older one after a newer": ([_told(10, LAST), _told(6, BOTH)], "not newer"),
    "a bookmark ahead of what was told": ([_told(6, BOTH), _told(7, None)], "all was told"),
    "a bookmark ahead by a delete": ([_told(7, {KEY: b"b", b"key2": b"x"}), _told(10, None)], "all was told"),
    "a row of another index": ([_told(5, BOTH)], "not what was there"),
    "a row is missing": ([_told(6, {KEY: b"a"})], "not what was there"),
    "what is deleted is told": ([_told(10, BOTH)], "not what was there"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_right_story_passes(name: str) -> None:
    assert check_watches(GOOD[name], [], EFFECTS, ACKNOWLEDGED) == len(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_broken_promise_is_seen(name: str) -> None:
    answers, why = BAD[name]
    with pytest.raises(Violation, match=why):
        check_watches(answers, [], EFFECTS, ACKNOWLEDGED)


@pytest.mark.parametrize("name", SUBSCRIPTIONS)
def test_a_broken_promise_to_a_subscriber_is_seen(name: str) -> None:
    events, why = SUBSCRIPTIONS[name]
    with pytest.raises(Violation, match=why):
        check_watches([], events, EFFECTS)


def test_a_right_subscription_passes() -> None:
    events = [_told(0, {}), _told(4, None), _told(6, BOTH), _told(6, None), _told(10, LAST), _told(99, None)]
    assert check_watches([], events, EFFECTS) == 6


def test_without_calm_the_last_state_is_not_asked_for() -> None:
    assert check_watches([_awoken(0, 5, b"a")], [], EFFECTS, ended_in_calm=False) == 1


def test_who_may_have_missed_a_reaped_delete_may_be_woken() -> None:
    answers = [_awoken(0, 7, b"b"), _awoken(7, 9, b"b")]
    assert check_watches(answers, [], EFFECTS, reaped=9) == 2


def test_a_delete_of_a_prefix_is_a_change_of_each_key_under_it() -> None:
    swept = Seen("delete-prefix", b"key", 40, 50, 11, None, None, True)
    assert check_watches([_awoken(7, 11, None)], [_told(11, {})], SWEPT, [swept]) == 2
    with pytest.raises(Violation, match="not what was there"):
        check_watches([_awoken(0, 11, b"b")], [], SWEPT)
    with pytest.raises(Violation, match="older than its question"):
        check_watches([_awoken(0, 7, b"b", began=60), _awoken(7, 11, None)], [], SWEPT, [swept])
