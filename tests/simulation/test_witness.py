"""The checker itself: good histories pass, each kind of lie is caught."""

from __future__ import annotations

import random

import msgspec
import pytest
from simulation.blackbox import check_seen
from simulation.watches import Awoken, Watched, check_watches
from simulation.witness import Effect, Seen, Violation, check

KEY = b"k"


def _set(
    index: int, value: bytes, began: int, ended: int, cas: int | None = None, result: object = True
) -> Seen:
    return Seen("set", KEY, began, ended, index, value, cas, result)


def _delete(index: int, began: int, ended: int, cas: int | None = None, result: object = True) -> Seen:
    return Seen("delete", KEY, began, ended, index, None, cas, result)


def _get(index: int, result: bytes | None, began: int, ended: int) -> Seen:
    return Seen("get", KEY, began, ended, index, None, None, result)


def _effect(index: int, value: bytes, cas: int | None = None) -> Effect:
    return Effect(index, "set", KEY, value, cas)


def _gone(index: int, cas: int | None = None) -> Effect:
    return Effect(index, "delete", KEY, None, cas)


GOOD = [_set(5, b"a", 0, 10), _get(5, b"a", 11, 12), _set(7, b"b", 13, 20), _get(9, b"b", 21, 22)]
EFFECTS = [_effect(5, b"a"), _effect(7, b"b")]


def test_a_history_in_order_is_explained() -> None:
    assert check(GOOD, EFFECTS) == 4


BAD = {
    "acknowledged and not there": ([_set(5, b"a", 0, 10)], [], "acknowledged"),
    "acknowledged, another is there": ([_set(5, b"a", 0, 10)], [_effect(5, b"x")], "acknowledged"),
    "acknowledged as a set, a delete is there": ([_set(5, b"a", 0, 10)], [_gone(5)], "acknowledged"),
    "its condition was lost on the way": ([_set(5, b"a", 0, 10, cas=0)], [_effect(5, b"a")], "acknowledged"),
    "another condition was compared": (
        [*GOOD, _set(10, b"c", 30, 31, cas=5)],
        [*EFFECTS, _effect(10, b"c", cas=7)],
        "acknowledged",
    ),
    "a stale read that says so": ([*GOOD, _get(5, b"a", 30, 31)], EFFECTS, "took effect before"),
    "a stale read that says it is new": ([*GOOD, _get(9, b"a", 30, 31)], EFFECTS, "read"),
    "a read of nothing": ([*GOOD, _get(9, None, 30, 31)], EFFECTS, "read"),
    "a read of what was never written": ([*GOOD, _get(9, b"x", 30, 31)], EFFECTS, "read"),
    "a read before the write": ([_get(4, b"a", 0, 1), _set(5, b"a", 0, 10)], [_effect(5, b"a")], "read"),
    "reads that go back": ([*GOOD, _get(6, b"a", 23, 24)], EFFECTS, "took effect before"),
    "a compare that must fail": (
        [_set(5, b"a", 0, 10, cas=3, result=True)],
        [_effect(5, b"a", cas=3)],
        "rules say",
    ),
    "a compare that must succeed": (
        [_set(5, b"a", 0, 10, cas=0, result=False)],
        [_effect(5, b"a", cas=0)],
        "rules say",
    ),
    "two compares with one index succeed": (
        [*GOOD, _set(10, b"c", 30, 40, cas=7), _set(11, b"d", 30, 40, cas=7)],
        [*EFFECTS, _effect(10, b"c", cas=7), _effect(11, b"d", cas=7)],
        "rules say",
    ),
    "a delete by compare that must fail": (
        [*GOOD, _delete(10, 30, 31, cas=5)],
        [*EFFECTS, _gone(10, cas=5)],
        "rules say",
    ),
    "a value back after its delete": (
        [*GOOD, _delete(10, 30, 31), _get(11, b"b", 32, 33)],
        [*EFFECTS, _gone(10)],
        "read",
    ),
    "a compare that failed and was read": (
        [*GOOD, _set(10, b"c", 30, 31, cas=5, result=False), _get(10, b"c", 32, 33)],
        [*EFFECTS, _effect(10, b"c", cas=5)],
        "read",
    ),
    "writes against real time": (
        [_set(5, b"a", 0, 10), _set(4, b"b", 11, 12)],
        [_effect(5, b"a"), _effect(4, b"b")],
        "before",
    ),
    "a write at the index of a read before it": (
        [_get(5, b"a", 0, 1), _set(5, b"a", 2, 3)],
        [_effect(5, b"a")],
        "took effect before",
    ),
    "two effects at one index": ([], [_effect(5, b"a"), _effect(5, b"b")], "two effects"),
    "two deletes told one index": (
        [*GOOD, _delete(10, 30, 40), _delete(10, 30, 40)],
        [*EFFECTS, _gone(10)],
        "the same index",
    ),
    "applied twice, the second time untold": (
        [*GOOD, _get(11, b"a", 30, 31)],
        [*EFFECTS, _effect(11, b"a")],
        "applied before",
    ),
    "an end before the beginning": ([_set(5, b"a", 10, 0)], [_effect(5, b"a")], "no history"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_caught(name: str) -> None:
    history, effects, why = BAD[name]
    with pytest.raises(Violation, match=why):
        check(history, effects)


def test_an_unknown_write_may_have_happened_or_not() -> None:
    lost = [_set(0, b"u", 0, 0)]
    assert check([_get(8, b"u", 0, 1)], [_effect(6, b"u")], unanswered=lost) == 1
    assert check([_get(8, None, 0, 1)], [], unanswered=lost) == 1


def test_an_unknown_write_does_not_take_effect_before_it_was_sent() -> None:
    late = [_set(0, b"u", 30, 0)]
    with pytest.raises(Violation, match="took effect before"):
        check(GOOD, [*EFFECTS, _effect(6, b"u")], unanswered=late)


def test_a_write_that_was_told_to_be_refused_is_not_done() -> None:
    refused = [_set(0, b"r", 30, 31)]
    assert check(GOOD, EFFECTS, refused=refused) == 4
    with pytest.raises(Violation, match="told not to be done"):
        check(GOOD, [*EFFECTS, _effect(12, b"r")], refused=refused)


class _Truth:
    """A history of one key, made in the order of its indexes, with calls and answers around each moment."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.seen: list[Seen] = []
        self.effects: list[Effect] = []
        self._stored: tuple[bytes, int] | None = None

    def grow(self, operations: int) -> None:
        for moment in range(operations):
            index, at = 5 + 2 * moment, 100 * moment
            began, ended = at - self._chance.randrange(250), at + self._chance.randrange(250)
            kind = self._chance.choice(["get", "set", "delete"])
            if kind == "get":
                self.seen.append(_get(index, self._stored[0] if self._stored else None, began, ended))
                continue
            current = self._stored[1] if self._stored else 0
            cas = self._chance.choice([None, current, 3]) if kind == "set" or current else None
            value = b"v%d" % moment if kind == "set" else None
            self.effects.append(Effect(index, kind, KEY, value, cas))
            fits = cas in (None, current) or (kind == "delete" and not current)
            if fits:
                self._stored = (value, index) if value is not None else None
            self.seen.append(Seen(kind, KEY, began, ended, index, value, cas, fits))


def _lie(op: Seen, chance: random.Random) -> Seen:
    """Another answer than the true one, or an index from outside its own time."""
    if chance.random() < 0.5:
        wrong = b"never" if op.kind == "get" else not op.result
        return msgspec.structs.replace(op, result=wrong)
    return msgspec.structs.replace(op, index=op.index + chance.choice([-12, 12]))


def test_any_single_lie_in_a_true_history_is_caught() -> None:
    chance = random.Random(7)
    for _ in range(500):
        truth = _Truth(chance)
        truth.grow(40)
        assert check(truth.seen, truth.effects) == 40
        at = chance.randrange(10, 30)
        lying = list(truth.seen)
        lying[at] = _lie(lying[at], chance)
        with pytest.raises(Violation):
            check(lying, truth.effects)


RESTORED = Effect(9, "restore", b"", None, None, {KEY: (b"a", 5)})


def test_after_a_restore_everything_is_as_it_was_archived() -> None:
    history = [*GOOD, _get(9, b"a", 30, 31), _set(10, b"c", 32, 33, cas=5)]
    assert check(history[:3] + history[4:], [*EFFECTS, RESTORED, _effect(10, b"c", cas=5)]) == 5


@pytest.mark.parametrize("lie", [_get(9, b"b", 30, 31), _get(12, None, 30, 31)])
def test_what_a_restore_brought_back_and_took_away_is_seen(lie: Seen) -> None:
    with pytest.raises(Violation, match="read"):
        check([*GOOD[:3], lie], [*EFFECTS, RESTORED])


def test_the_black_box_check_knows_of_restores_too() -> None:
    history = [*GOOD, _get(9, b"a", 30, 31)]
    assert check_seen(history, [*EFFECTS, RESTORED]).operations >= len(history)
    with pytest.raises(Violation):
        check_seen(history, EFFECTS)


def test_watchers_that_a_restore_wakes_are_told_what_it_brought() -> None:
    watched = Watched(KEY)
    told = [Awoken("w", watched, 0, 0, 7, {KEY: b"b"}), Awoken("w", watched, 8, 7, 9, {KEY: b"a"})]
    assert check_watches(told, [], [*EFFECTS, RESTORED]) == 2
    with pytest.raises(Violation, match="not what was there"):
        check_watches(told, [], EFFECTS)
